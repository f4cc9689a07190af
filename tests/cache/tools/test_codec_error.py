"""Errors of a codec, on codecs whose errors are known beforehand."""

import numpy as np
import pytest

from tokenreel.cache.codec import calibrate, codec_from_identity, codec_identity
from tokenreel.cache.codec.base import Encoded
from tokenreel.cache.tools.codec_error import (
    bytes_per_frame,
    measure_codec,
    pool_tokens,
    spread_over_grid,
)

GRID = (4, 5)
FRAMES = 40  # more than are in memory at once


class Changed:
    """A codec that changes tokens on their way back."""

    def __init__(self, change) -> None:
        self.change = change

    def reduced_shape(self, num_tokens, dim, grid):
        return num_tokens, dim, grid

    def encode(self, tokens, *, block, grid):
        return Encoded(tokens)

    def decode(self, encoded, *, block):
        return self.change(encoded.codes)


@pytest.fixture(scope="module")
def tokens():
    found = np.random.default_rng(0).standard_normal((FRAMES, 20, 8)).astype(np.float32)
    found -= found.mean(axis=(0, 1))
    found[..., 0] *= 50  # a large channel hides nothing
    return found


def make_codec(name: str, tokens):
    calibration = calibrate(name, {7: tokens}, grid=GRID)
    return codec_from_identity(codec_identity(name, calibration), calibration)


def test_a_codec_that_changes_nothing_has_no_error(tokens):
    error = measure_codec(Changed(lambda codes: codes), {7: tokens}, grid=GRID)
    assert (error.relative, error.pooled) == (0, 0)
    assert error.cosine_worst == pytest.approx(1)


def test_tokens_of_half_their_length_have_a_relative_error_of_a_half_and_no_angle(tokens):
    error = measure_codec(Changed(lambda codes: codes / 2), {7: tokens}, grid=GRID)
    assert error.relative == pytest.approx(0.5, rel=1e-5)
    assert error.cosine_worst == pytest.approx(1)
    assert 0.3 < error.pooled < 0.9


def test_a_small_channel_that_is_lost_counts_as_much_as_a_large_one(tokens):
    errors = []
    for channel in (0, 1):

        def drop(codes, lost=channel):
            return np.where(np.arange(8) == lost, 0, codes)

        errors.append(measure_codec(Changed(drop), {7: tokens}, grid=GRID).relative)
    assert errors == pytest.approx([8**-0.5] * 2, rel=1e-4)


def test_the_worst_hundredth_is_told_apart_from_the_middle(tokens):
    def turn(codes):
        return np.concatenate([-codes[:, :1], codes[:, 1:]], axis=1)  # 1 token of 20

    error = measure_codec(Changed(turn), {7: tokens}, grid=GRID)
    assert error.cosine_median == pytest.approx(1)
    assert error.cosine_worst == pytest.approx(-1)


def test_real_codecs_come_in_the_order_of_their_bits(tokens):
    errors = {
        name: measure_codec(make_codec(name, tokens), {7: tokens}, grid=GRID)
        for name in ("fp16", "int8", "int4", "pool2+int8")
    }
    pooled = [error.pooled for error in errors.values()]
    assert pooled == sorted(pooled)
    assert errors["fp16"].relative < 1e-3
    assert errors["int8"].relative < 0.02


def test_a_single_token_is_what_every_query_finds():
    token = np.random.default_rng(0).standard_normal((2, 1, 8)).astype(np.float32)
    pooled = pool_tokens(token, seed=3, num_queries=4)
    np.testing.assert_allclose(pooled, token.repeat(4, axis=1), rtol=1e-6)


def test_pooled_tokens_are_spread_over_the_places_they_stand_for():
    small = np.arange(4, dtype=np.float32).reshape(1, 4, 1)  # 2 x 2 of a grid of 3 x 3
    large = spread_over_grid(small, (2, 2), (3, 3)).ravel()
    assert large.tolist() == [0, 0, 1, 0, 0, 1, 2, 2, 3]
    average = spread_over_grid(small[:, :1] + 7, (1, 1), (2, 3)).ravel()  # one token of a frame
    assert average.tolist() == [7] * 6
    strip = spread_over_grid(small, (1, 4), (2, 2)).ravel()  # whose grid is none of the frame's
    assert strip.tolist() == [0, 2, 0, 2]
    for rows in range(2, 40):  # as `pool2` makes them: a pair, or the last row alone
        halves = np.arange(-(-rows // 2), dtype=np.float32).reshape(1, -1, 1)
        spread = spread_over_grid(halves, (halves.size, 1), (rows, 1)).ravel()
        assert spread.tolist() == [row // 2 for row in range(rows)]


def test_the_error_of_a_codec_with_a_grid_of_its_own_is_measured(tokens):
    class Average(Changed):
        def reduced_shape(self, num_tokens, dim, grid):
            return 1, dim, (1, 1)

    error = measure_codec(
        Average(lambda codes: codes.mean(axis=1, keepdims=True)), {7: tokens}, grid=GRID
    )
    assert 0.9 < error.relative <= 1  # the tokens of a frame have nothing in common


def test_bytes_count_codes_and_scales(tokens):
    def size(name: str) -> float:
        return bytes_per_frame(make_codec(name, tokens).encode(tokens, block=7, grid=GRID))

    assert size("fp16") == 20 * 8 * 2
    assert size("int8") == 20 * (8 + 4)
    assert size("int4") == 20 * (4 + 4)
    assert size("pool2+int8") == 2 * 3 * (8 + 4)


def test_tokens_that_all_become_their_mean_have_a_relative_error_of_one_and_no_direction(tokens):
    def flatten(codes):
        return np.broadcast_to(moved.mean(axis=(0, 1)), codes.shape)

    moved = tokens + np.float32(5)
    moved[..., 3] = 2  # a channel that is the same everywhere
    error = measure_codec(Changed(flatten), {7: moved}, grid=GRID)
    assert error.relative == pytest.approx(1, rel=1e-5)
    assert (error.cosine_median, error.cosine_worst) == pytest.approx((0, 0), abs=1e-3)
    kept = measure_codec(Changed(lambda codes: codes), {7: moved}, grid=GRID)
    assert (kept.relative, kept.pooled) == (0, 0)


def test_errors_are_of_all_blocks_together(tokens):
    class OfOneBlock(Changed):
        def decode(self, encoded, *, block):
            return encoded.codes / 2 if block == 9 else encoded.codes

    error = measure_codec(OfOneBlock(None), {7: tokens, 9: tokens}, grid=GRID)
    assert error.relative == pytest.approx((0.25 / 2) ** 0.5, rel=1e-5)


def test_attention_pooling_is_the_softmax_of_twice_the_scaled_products(tokens):
    queries = np.random.default_rng(3).standard_normal((4, 8)).astype(np.float32)
    given = tokens[:2] / tokens.std(axis=(0, 1))
    pooled = pool_tokens(given, seed=3, num_queries=4)
    for frame in range(2):
        for number, query in enumerate(queries):
            weights = np.exp(2 * given[frame] @ query / 8**0.5)
            wanted = weights @ given[frame] / weights.sum()
            np.testing.assert_allclose(pooled[frame, number], wanted, rtol=1e-4, atol=1e-4)


def test_the_pooled_error_is_relative_to_the_spread_of_the_pooled_entities(tokens):
    error = measure_codec(Changed(lambda codes: codes / 2), {7: tokens}, grid=GRID)
    scaled = (tokens - tokens.mean(axis=(0, 1))) / tokens.std(axis=(0, 1))
    before, after = pool_tokens(scaled, seed=7), pool_tokens(scaled / 2, seed=7)
    spread = np.linalg.norm(before - before.mean(axis=(0, 1)))
    assert error.pooled == pytest.approx(np.linalg.norm(after - before) / spread, rel=1e-3)
