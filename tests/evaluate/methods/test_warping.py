"""The warping path by anti-diagonals against plain loops, enumeration and a case by hand."""

import itertools
import tracemalloc

import numpy as np
import pytest

from tokenreel.evaluate.methods import warping
from tokenreel.evaluate.methods.warping import tiled_distances, warp, warp_frames


def plain_warp(costs):
    """The textbook's loops: sums, then back from the end; ties as documented."""
    n, m = costs.shape
    sums = np.full((n + 1, m + 1), np.inf)
    sums[0, 0] = 0
    for i, j in itertools.product(range(n), range(m)):
        sums[i + 1, j + 1] = costs[i, j] + min(sums[i, j], sums[i, j + 1], sums[i + 1, j])
    steps, i, j = [(n - 1, m - 1)], n, m
    while (i, j) != (1, 1):
        move = int(np.argmin([sums[i - 1, j - 1], sums[i - 1, j], sums[i, j - 1]]))
        i, j = i - (move != 2), j - (move != 1)
        steps.append((i - 1, j - 1))
    return steps[::-1], sums[n, m]


def every_path(n, m):
    """All monotone paths through an (n, m) matrix."""
    if (n, m) == (1, 1):
        return [[(0, 0)]]
    before = [(n - 1, m - 1), (n - 1, m), (n, m - 1)]
    return [
        [*path, (n - 1, m - 1)] for a, b in before if a > 0 and b > 0 for path in every_path(a, b)
    ]


def test_a_path_worked_by_hand():
    costs = np.array([[0.0, 5, 5, 5], [5, 0, 0, 5], [5, 5, 5, 0]])
    path = warp(costs)
    assert path.steps.tolist() == [[0, 0], [1, 1], [1, 2], [2, 3]]
    assert (path.total, path.mean) == (0, 0)


@pytest.mark.parametrize(
    ("n", "m"), [(1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (17, 4), (40, 41), (64, 200)]
)
@pytest.mark.parametrize("ties", [False, True])
def test_it_equals_the_plain_loops_bit_by_bit(n, m, ties):
    rng = np.random.default_rng([n, m])
    costs = rng.integers(0, 3, (n, m)).astype(float) if ties else rng.random((n, m))
    steps, total = plain_warp(costs)
    path = warp(costs)
    assert path.steps.tolist() == [list(step) for step in steps]
    assert path.total == total


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 3), (2, 5)])
def test_no_other_path_is_cheaper(n, m):
    costs = np.random.default_rng(n * m).random((n, m))
    sums = [sum(costs[cell] for cell in path) for path in every_path(n, m)]
    assert warp(costs).total == pytest.approx(min(sums), abs=1e-12)


def test_every_step_goes_on_by_one_frame_at_most_and_its_cost_is_the_cell_s():
    costs = np.random.default_rng(0).random((30, 50)).astype(np.float32)
    path = warp(costs)
    moves = set(map(tuple, np.diff(path.steps, axis=0).tolist()))
    assert moves <= {(0, 1), (1, 0), (1, 1)}
    assert path.steps[0].tolist() == [0, 0]
    assert path.steps[-1].tolist() == [29, 49]
    assert path.costs.tolist() == [float(costs[i, j]) for i, j in path.steps]
    assert path.total == pytest.approx(path.costs.sum())
    assert path.mean == path.total / len(path.steps)


def test_constant_costs_take_the_diagonal_and_then_the_second_clip():
    assert warp(np.ones((2, 4))).steps.tolist() == [[0, 0], [0, 1], [0, 2], [1, 3]]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,), (1, 2, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="costs are"):
        warp(np.zeros(shape))


def test_costs_that_are_not_finite_are_counted():
    with pytest.raises(
        ValueError, match=r"costs holds 2 value.s. that are NaN or infinite, the first in row 0"
    ):
        warp(np.array([[1.0, np.nan], [np.inf, 0.0]]))


@pytest.mark.parametrize("seed", range(200))
def test_linear_memory_gives_the_path_and_cost_of_the_table(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(warping, "TILE", int(rng.choice([3, 8, 16])))
    n, m = rng.integers(1, 60, 2)
    if seed % 3:  # frames in order, so that the path wanders; else noise
        first, second = (np.sort(rng.random((count, 1)), axis=0) * 4 for count in (n, m))
        first, second = np.hstack([first, first**2]), np.hstack([second, second**2])
    else:
        first, second = rng.standard_normal((n, 5)), rng.standard_normal((m, 5))
    if seed % 2:  # equal distances
        first, second = first.round(), second.round()
    distances = tiled_distances(first, second)
    wanted = warp(distances)
    found = warp_frames(first, second)
    assert found.path.steps.tolist() == wanted.steps.tolist()
    assert found.path.costs.tolist() == wanted.costs.tolist()
    assert found.path.total == wanted.total
    assert found.nearest.tolist() == distances.argmin(axis=1).tolist()


def test_clips_of_several_tiles_and_checkpoints_equal_the_table():
    rng = np.random.default_rng(0)
    first = np.cumsum(rng.standard_normal((1500, 3)), axis=0).astype(np.float32)
    second = first[np.sort(rng.integers(0, 1500, 1900))] + rng.normal(0, 0.1, (1900, 3)).astype(
        "f4"
    )
    wanted = warp(tiled_distances(first, second))
    found = warp_frames(first, second).path
    assert found.steps.tolist() == wanted.steps.tolist()
    assert found.total == wanted.total


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (np.ones((3, 2, 1)), r"first is \(frames, channels\) >= 1, got shape \(3, 2, 1\)"),
        (np.ones((0, 2)), "first is"),
        (
            np.full((3, 2), np.nan),
            r"first holds 6 value.s. that are NaN or infinite, the first in row 0",
        ),
    ],
)
def test_frames_that_cannot_be_warped_are_refused(first, words):
    with pytest.raises(ValueError, match=words):
        warp_frames(first, np.ones((3, 2)))


@pytest.mark.parametrize("seed", range(20))
def test_in_linear_memory_equal_steps_are_chosen_as_in_the_table(seed, monkeypatch):
    # of frames that are 0 or 1 a step in either clip is often as cheap, and cheaper than in both
    monkeypatch.setattr(warping, "TILE", 3)
    rng = np.random.default_rng(seed)
    first, second = (rng.integers(0, 2, (count, 1)).astype(float) for count in (70, 61))
    wanted = warp(tiled_distances(first, second))
    assert warp_frames(first, second).path.steps.tolist() == wanted.steps.tolist()


def test_memory_is_linear_in_the_frames():
    rng = np.random.default_rng(0)
    first, second = (np.cumsum(rng.standard_normal((3000, 2)), axis=0) for _ in range(2))
    tracemalloc.start()
    try:
        warp_frames(first, second)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 25e6  # a table of distances alone would take 72 MB


def test_of_equal_steps_the_one_in_the_first_clip_is_taken_in_linear_memory_too():
    first, second = np.array([[0.0], [1], [0]]), np.array([[1.0], [0], [1]])
    # sums 1 1 2 | 1 2 1 | 2 1 2: the last cell comes at 1 from above and from the left
    wanted = [[0, 0], [0, 1], [1, 2], [2, 2]]
    assert warp_frames(first, second).path.steps.tolist() == wanted
    assert warp(tiled_distances(first, second)).steps.tolist() == wanted
