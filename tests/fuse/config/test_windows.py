"""Views: how many frames, in order, within the clip, overlapping, and the same for a seed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenreel.fuse.config.windows import sample_windows

GOLDEN = Path(__file__).parents[2] / "golden"
STATISTICS = json.loads((GOLDEN / "sampling_stats.json").read_text())["stats"]
KINDS = {
    "penn": "official",
    "finegym": "official_finegym",
    "pouring": "official",
    "pouring_samplefix": "official_fixed",
    "k400_style_co1": "official",
    "finegym_co0": "official_finegym",
    "finegym_alpha1": "official_finegym",
    "offset_uniform": "uniform",
    "offset_uniform_short": "uniform",
}
BETAS = {"finegym_co0": 0.0, "k400_style_co1": 1.0}


class OfficialRandom:
    """The generators that the released code draws from, under the names of ours."""

    def __init__(self, seed):
        self._numpy = np.random.RandomState(seed)
        self._torch = torch.Generator().manual_seed(seed)

    def uniform(self, low, high):
        return self._numpy.uniform(low, high)

    def integers(self, low, high, size=None):
        if size is None:
            return self._numpy.randint(low, high)
        return torch.randint(low, high, (size,), generator=self._torch).numpy()

    def permutation(self, length):
        return torch.randperm(length, generator=self._torch).numpy()


def case_of(name):
    group, length = name.rsplit("_L", 1)
    settings = {
        "kind": KINDS[group],
        "alpha": 1.0 if "alpha1" in group else 1.5,
        "beta": BETAS.get(group, 0.2),
    }
    return int(length), STATISTICS[name]["num_frames"], settings


def draw(clip_frames, num_frames=20, *, alpha=1.5, beta=0.2, seed=0):
    rng = np.random.default_rng(seed)
    return sample_windows(clip_frames, num_frames, alpha=alpha, beta=beta, rng=rng)


@pytest.mark.parametrize("clip_frames", [1, 5, 20, 25, 30, 200])
def test_frames_are_in_order_and_within_the_clip(clip_frames):
    for seed in range(50):
        views = draw(clip_frames, seed=seed)
        assert views.frames.shape == views.valid.shape == (2, 20)
        assert (np.diff(views.frames, axis=1) >= 0).all()
        assert views.frames.min() >= 0
        assert views.frames.max() < clip_frames
        assert views.valid.any(axis=1).all()


def test_a_long_clip_has_no_padding_and_no_frame_twice():
    for seed in range(50):
        views = draw(200, seed=seed)
        assert views.valid.all()
        assert (np.diff(views.frames, axis=1) > 0).all()


def test_padding_repeats_the_last_frame():
    views = draw(5)
    assert (views.frames[~views.valid] == 4).all()
    assert not views.valid.all()


def test_a_view_spans_at_most_alpha_times_its_frames():
    spans = [np.ptp(draw(400, seed=seed).frames, axis=1).max() for seed in range(200)]
    assert max(spans) < 30
    assert max(spans) > 25


def test_the_crops_of_a_long_clip_overlap():
    for seed in range(200):
        frames = draw(1000, 100, alpha=1.0, beta=0.5, seed=seed).frames
        overlap = frames[:, -1].min() - frames[:, 0].max() + 1
        assert overlap >= 50


def test_the_same_generator_gives_the_same_views():
    np.testing.assert_array_equal(draw(100, seed=3).frames, draw(100, seed=3).frames)
    assert (draw(100, seed=3).frames != draw(100, seed=4).frames).any()


@pytest.mark.parametrize("name", STATISTICS)
def test_views_are_those_of_the_released_code_when_its_random_numbers_are(name):
    clip_frames, num_frames, settings = case_of(name)
    with np.load(GOLDEN / "sampling_draws.npz") as file:
        steps, masks = file[f"{name}/steps"], file[f"{name}/masks"]
    rng = OfficialRandom(STATISTICS[name]["seed"])
    for wanted, mask in zip(steps, masks, strict=True):
        views = sample_windows(clip_frames, num_frames, rng=rng, **settings)
        np.testing.assert_array_equal(views.frames, wanted)
        np.testing.assert_array_equal(views.valid, mask > 0)


def test_anchors_and_positives_are_those_of_the_released_code():
    with np.load(GOLDEN / "sampling_draws.npz") as file:
        steps, masks = (file[f"tcn_offset_uniform_L60/{x}"] for x in ("steps", "masks"))
    rng = OfficialRandom(3)
    for wanted, mask in zip(steps.reshape(-1, 2, 40), masks.reshape(-1, 2, 40), strict=True):
        views = sample_windows(60, 40, alpha=1.5, beta=0.2, rng=rng, kind="uniform", pair_window=5)
        np.testing.assert_array_equal(views.frames, wanted)
        np.testing.assert_array_equal(views.valid, mask > 0)


@pytest.mark.parametrize("name", ["penn_L18", "finegym_L300", "pouring_L300", "finegym_L1500"])
def test_shares_of_valid_positions_are_the_published_ones(name):
    clip_frames, num_frames, settings = case_of(name)
    rng = np.random.default_rng(0)
    valid = [
        sample_windows(clip_frames, num_frames, rng=rng, **settings).valid.mean(1)
        for _ in range(500)
    ]
    for view, found in enumerate(np.mean(valid, axis=0)):
        official = STATISTICS[name][f"valid_frac_view{view}"]
        assert found == pytest.approx(official["mean"], abs=3 * official["std"] / 500**0.5 + 1e-9)


@pytest.mark.parametrize("kind", ["paper", "official", "official_finegym", "official_fixed"])
@pytest.mark.parametrize("clip_frames", [1, 2, 7, 20, 90])
def test_no_view_is_padding_alone_and_every_frame_is_of_the_clip(kind, clip_frames):
    rng = np.random.default_rng(0)
    for _ in range(60):
        views = sample_windows(clip_frames, 20, alpha=1.5, beta=0.2, rng=rng, kind=kind)
        assert views.valid.any(axis=1).all()
        assert views.frames.min() >= 0
        assert views.frames.max() < clip_frames


def test_even_frames_span_their_crop_at_even_distances():
    views = sample_windows(500, 20, alpha=1.5, beta=0.2, rng=np.random.default_rng(0), kind="even")
    for frames in views.frames:
        steps = np.diff(frames)
        assert steps.max() - steps.min() <= 1
        assert 20 <= frames[-1] - frames[0] + 1 <= 30


def test_a_positive_is_up_to_five_frames_before_its_anchor():
    rng = np.random.default_rng(0)
    gaps = set()
    for _ in range(50):
        views = sample_windows(60, 20, alpha=1.5, beta=0.2, rng=rng, kind="uniform", pair_window=5)
        anchors, positives = views.frames[:, 0::2], views.frames[:, 1::2]
        assert (np.diff(anchors, axis=1) > 0).all()
        assert (views.valid[:, 1::2] | (positives == 0)).all()
        gaps |= set((anchors - positives)[views.valid[:, 1::2]].tolist())
    assert gaps == {1, 2, 3, 4, 5}


class ScriptedRandom:
    """Draws that are written down; what integers were drawn from is kept."""

    def __init__(self, shares, integers, permutation=None):
        self.shares, self.integers_left = list(shares), list(integers)
        self.order, self.ranges = permutation, []

    def uniform(self, low, high):
        return low + self.shares.pop(0) * (high - low)

    def integers(self, low, high=None, size=None):
        assert size is None
        low, high = (0, low) if high is None else (low, high)
        self.ranges.append((int(low), int(high)))
        return self.integers_left.pop(0)

    def permutation(self, length):
        return np.arange(length) if self.order is None else np.array(self.order)


@pytest.mark.parametrize(
    ("shares", "first", "ranges", "second"),
    [
        # lengths 10 and 15: they overlap by ceil(0.25 * 10) = 3 frames at least; the second is
        # 40 + 3 - 15 = 28 at the earliest and 40 + 10 - 3 = 47 at the latest
        ((0.0, 1.0), 40, [(0, 91), (28, 48)], 47),
        # at the end of the clip: 90 + 3 - 15 = 78, and no later than 100 - 15 = 85
        ((0.0, 1.0), 90, [(0, 91), (78, 86)], 85),
        # lengths 15 and 10, the first at its last place: 85 + 3 - 10 = 78, and 90 for 97
        ((1.0, 0.0), 85, [(0, 86), (78, 91)], 90),
        # at the start: not before frame 0; 15 - 3 = 12
        ((1.0, 0.0), 0, [(0, 86), (0, 13)], 12),
    ],
)
def test_ranges_overlap_by_the_share_of_the_shorter_by_hand(shares, first, ranges, second):
    rng = ScriptedRandom(shares, [first, second])
    windows = sample_windows(100, 10, alpha=1.5, beta=0.25, rng=rng)
    assert rng.ranges == ranges
    assert windows.frames.tolist() == [
        list(range(first, first + 10)),
        list(range(second, second + 10)),
    ]
    assert windows.valid.all()


def test_a_range_is_never_shorter_than_its_share_by_hand():
    rng = ScriptedRandom((0.46, 0.0), [0, 0], permutation=None)  # 1.23 * 10 = 12.3: 13 frames
    sample_windows(13, 10, alpha=1.5, beta=0.0, rng=rng)
    assert rng.ranges == [(0, 1), (0, 4)]  # 13 of 13: one place; 10 of 13: four


def test_even_frames_are_those_of_a_ruler_by_hand():
    rng = ScriptedRandom((0.6, 0.0), [7, 20])  # lengths 13 and 10
    windows = sample_windows(100, 10, alpha=1.5, beta=0.0, rng=rng, kind="even")
    # 12 / 9 = 1.33 frames apart
    assert windows.frames[0].tolist() == [7, 8, 10, 11, 12, 14, 15, 16, 18, 19]
    assert windows.frames[1].tolist() == list(range(20, 30))


def test_of_a_window_beyond_its_clip_one_frame_stays():
    # a range of 2 frames over a clip of 1, of which the second is drawn: beyond the end
    rng = ScriptedRandom((1.0, 1.0), [0, 0], permutation=[1, 0])
    windows = sample_windows(1, 3, alpha=2.0, beta=0.2, rng=rng, kind="official")
    assert windows.frames.tolist() == [[0, 0, 0]] * 2
    assert windows.valid.tolist() == [[True, False, False]] * 2


def test_a_uniform_window_of_the_whole_clip_draws_as_a_shorter_one_does():
    rng = np.random.default_rng(1)
    positives = []
    for _ in range(2):
        rng.permutation(8)
        positives.append(np.arange(8) + rng.integers(-3, 0, size=8))
    windows = sample_windows(
        8,
        16,
        alpha=1.5,
        beta=0.2,
        rng=np.random.default_rng(1),
        kind="uniform",
        pair_window=3,
    )
    assert np.array_equal(windows.frames[:, 0::2], np.tile(np.arange(8), (2, 1)))
    assert np.array_equal(windows.frames[:, 1::2], np.clip(positives, 0, 7))
