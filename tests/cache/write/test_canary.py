"""The canary: fixed frames, and how far a writer's tokens of them may be off."""

import numpy as np
import pytest

from tokenreel.cache.errors import WrongIdentity
from tokenreel.cache.write.canary import (
    TOLERANCE,
    canary_errors,
    canary_frames,
    make_canary,
    require_canary,
)


def tokens(seed: int = 0, blocks=(3, 7)) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {b: 50 + rng.standard_normal((2, 100, 8)).astype(np.float32) for b in blocks}


def test_the_frames_are_the_same_everywhere_and_have_texture():
    frames = canary_frames(32)
    assert (frames.shape, frames.dtype) == ((2, 36, 48, 3), np.uint8)
    assert frames[:, 5, 7].tolist() == [[45, 97, 14], [54, 169, 28]]
    assert frames.astype(float).std(axis=(1, 2)).min() > 20
    assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > 20


def test_the_error_is_relative_to_the_spread_of_the_tokens_not_to_their_mean():
    one = tokens()
    off = {b: values + np.float32(0.01) for b, values in one.items()}
    errors = canary_errors(make_canary(canary_frames(32), one), off)
    assert errors == pytest.approx({3: 0.01, 7: 0.01}, rel=0.1)


@pytest.mark.parametrize("numeric", sorted(TOLERANCE))
def test_what_is_within_the_tolerance_passes_and_what_is_beyond_does_not(tmp_path, numeric):
    one = tokens()
    canary = make_canary(canary_frames(32), one)
    limit = np.float32(TOLERANCE[numeric])
    near = {b: values + limit * np.float32(0.9) for b, values in one.items()}
    require_canary(canary, near, numeric=numeric, path=tmp_path)
    far = near | {7: one[7] + limit * np.float32(1.2)}
    with pytest.raises(WrongIdentity, match=r"other tokens(.|\n)*  block 7: ") as refused:
        require_canary(canary, far, numeric=numeric, path=tmp_path)
    assert "block 3" not in str(refused.value)


@pytest.mark.parametrize(
    "found",
    [
        {3: tokens()[3]},
        tokens(blocks=(3, 7, 9)),
        tokens() | {7: tokens()[7][:, :9]},
        tokens() | {7: np.full((2, 100, 8), np.nan, np.float32)},
    ],
)
def test_blocks_that_are_missing_extra_of_another_shape_or_nan_are_refused(tmp_path, found):
    canary = make_canary(canary_frames(32), tokens())
    with pytest.raises(WrongIdentity, match=r"block [79]"):
        require_canary(canary, found, numeric="float32", path=tmp_path)
