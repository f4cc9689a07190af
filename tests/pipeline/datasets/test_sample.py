"""`sample`: what is rendered, the same each time; the position in a clip tells little."""

import json
import logging
from itertools import pairwise

import av
import numpy as np
import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.methods.probe import classify_phases
from tokenreel.evaluate.methods.progression import fit_progression, progression_targets
from tokenreel.pipeline.datasets import load_dataset
from tokenreel.pipeline.datasets.render import draw_frames
from tokenreel.pipeline.datasets.sample import NUM_TRAIN, NUM_VAL
from tokenreel.pipeline.datasets.script import BACK, BETWEEN, FPS, PHASES, THERE, write_script
from tokenreel.pipeline.defaults import SAMPLE, root_of

TINY = {"train": "2", "val": "1"}
MOVES = {  # of each action: what goes there and back, and the sign of its motion on the way there
    "lift": (1, lambda script: script.poses[:, 0]),
    "visit": (-1, lambda script: script.thing[:, 0] - script.figure),
}
ALL = [
    write_script(split, index)
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL))
    for index in range(count)
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("sample")
    load_dataset("sample", path, TINY)
    return path


@pytest.fixture(params=[2, 3, 4])
def older(root, tmp_path, request):
    """A root as an older version left it: the same tables, another note."""
    for path in root.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(root)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (tmp_path / "sample.json").write_text(
        json.dumps({"train": 2, "val": 1, "version": request.param})
    )
    return tmp_path


def of(action, split):
    return [script for script in ALL if (script.action, script.split) == (action, split)]


def clock(num_frames):
    """The position in a clip as eight pairs of cosine and sine, (T, 16)."""
    angles = np.pi * np.arange(1, 9) * np.arange(num_frames)[:, None] / num_frames
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def spans(phases):
    """[start, stop) and phase of each stretch of a clip."""
    edges = [0, *(np.flatnonzero(np.diff(phases)) + 1), len(phases)]
    return [(start, stop, phases[start]) for start, stop in pairwise(edges)]


def test_the_clips_have_the_promised_numbers_lengths_and_phases():
    assert [sum(script.split == split for script in ALL) for split in ("train", "val")] == [60, 30]
    assert all(60 <= len(script.phases) <= 85 for script in ALL)
    assert sum(len(script.phases) for script in ALL) == 6551
    assert all(set(script.phases) == {THERE, BETWEEN, BACK} for script in ALL)
    assert [len(names) for names in PHASES.values()] == [3, 3]


# Of the scripts of docs/calibration.md: frames and first frames of the later stretches; at a
# third of the clip the pose, the x of the figure, the ball, and the camera.
VERSION_5 = {
    ("train", 0): (
        77,
        [61, 71],
        [85.465, 90.779, 0.0, 0.061, 0.3, 1.561, 0.0, 0.0, 2.901, -3.219, 1.008],
    ),
    ("train", 4): (
        66,
        [54, 60],
        [78.755, 77.665, 0.0, 0.081, 0.3, -3.642, 0.0, 0.0, -5.028, -1.785, 1.008],
    ),
    ("val", 1): (
        67,
        [55, 61],
        [19.111, 30.889, 1.961, 0.05, 0.163, -61.072, 32.63, 54.0, -13.367, -1.64, 1.003],
    ),
    ("val", 7): (
        64,
        [7, 57],
        [20.619, 29.381, 0.789, 0.05, 0.174, -20.916, 19.901, 26.539, 2.296, -1.8, 1.015],
    ),
}


@pytest.mark.parametrize("clip", VERSION_5)
def test_other_scripts_are_another_version(clip):
    assert SAMPLE == "sample-5"
    script, (num_frames, edges, numbers) = write_script(*clip), VERSION_5[clip]
    at = num_frames // 3
    found = [*script.poses[at], script.figure[at], *script.thing[at], *script.camera[at]]
    assert [start for start, _, _ in spans(script.phases)] == [0, *edges]
    assert len(script.phases) == num_frames
    assert found == pytest.approx(numbers, abs=2e-3)


def test_the_clock_stays_below_its_bounds_of_classification_and_progression():
    found = []
    for action in PHASES:
        sides = [of(action, split) for split in ("train", "val")]
        frames = [np.concatenate([clock(len(s.phases)) for s in side]) for side in sides]
        labels = [np.concatenate([s.phases for s in side]) for side in sides]
        targets = [[progression_targets(s.phases, 3) for s in side] for side in sides]
        accuracy = classify_phases(frames[0], labels[0], frames[1], labels[1]).accuracy
        progression = fit_progression(frames[0], targets[0], frames[1], targets[1]).score
        found.append((accuracy, progression))
    accuracy, progression = np.mean(found, axis=0)
    assert 0.4 < accuracy <= 0.60  # as good as always naming one phase, or better
    assert 0.3 < progression <= 0.50


def test_each_phase_is_the_longest_of_some_clips_of_every_action_and_split():
    for action in PHASES:
        for split in ("train", "val"):
            longest = {int(np.bincount(s.phases).argmax()) for s in of(action, split)}
            assert longest == {THERE, BETWEEN, BACK}


def test_the_way_there_and_the_way_back_pass_the_same_places():
    for action, (_, what) in MOVES.items():
        there, back = (
            np.concatenate([what(s)[s.phases == phase] for s in of(action, "train")])
            for phase in (THERE, BACK)
        )
        quarters = np.quantile(there, [0.25, 0.5, 0.75])
        shares = np.bincount(np.searchsorted(quarters, back), minlength=4) / len(back)
        assert shares.min() > 0.12, action  # a quarter each, if they were passed alike


def test_place_and_direction_say_how_far_a_boundary_is_and_the_place_alone_does_not():
    """What a model of time can earn in progression, and what no single frame tells."""

    def seen(script, *, direction):
        place = MOVES[script.action][1](script)
        what = [place, script.phases == BETWEEN]
        if direction:
            what += [(script.phases == phase) * on for phase in (0, 1, 2) for on in (1.0, place)]
        return np.stack(what, axis=1).astype(np.float32)

    for action in PHASES:
        sides = [of(action, split) for split in ("train", "val")]
        targets = [[progression_targets(s.phases, 3) for s in side] for side in sides]
        score = {}
        for direction in (True, False):
            frames = [
                np.concatenate([seen(s, direction=direction) for s in side]) for side in sides
            ]
            score[direction] = fit_progression(frames[0], targets[0], frames[1], targets[1]).score
        assert score[True] > 0.6, action
        assert score[False] < 0.1, action


def told_apart(action, what):
    """Share of the frames of the way there and back that the numbers of one frame tell apart."""
    sides = []
    for split in ("train", "val"):
        scripts = of(action, split)
        numbers = np.concatenate([np.stack(what(script), axis=1) for script in scripts])
        phases = np.concatenate([script.phases for script in scripts])
        sides.append((numbers[phases != BETWEEN], phases[phases != BETWEEN]))
    (known, labels), (asked, truth) = sides
    mean, spread = known.mean(0), known.std(0) + 1e-9
    known, asked = (known - mean) / spread, (asked - mean) / spread
    distances = ((asked[:, None] - known[None]) ** 2).sum(-1)
    votes = labels[np.argsort(distances, axis=1, kind="stable")[:, :15]] == BACK
    return float(((votes.mean(1) > 0.5) == (truth == BACK)).mean())


def test_no_pose_of_one_frame_tells_the_way_there_from_the_way_back():
    lift = told_apart("lift", lambda s: [*s.poses.T[[0, 1, 3]], s.figure, s.camera[:, 2]])
    gap = told_apart("visit", lambda s: [s.thing[:, 0] - s.figure, s.thing[:, 1], s.camera[:, 2]])
    gait = told_apart("visit", lambda s: [s.thing[:, 0] - s.figure, s.poses[:, 0], s.poses[:, 4]])
    assert max(lift, gap, gait) < 0.6  # half, where it says nothing


def test_the_motion_of_a_phase_is_the_one_that_its_name_says():
    for action, (sign, what) in MOVES.items():
        for script in of(action, "train"):
            for start, stop, phase in spans(script.phases):
                moved = sign * (what(script)[stop - 1] - what(script)[start])
                if phase != BETWEEN:
                    assert (moved > 0) == (phase == THERE), (script.video, start, stop)


def test_some_clips_were_there_before_they_begin():
    orders = {tuple(int(phase) for *_, phase in spans(script.phases)) for script in ALL}
    assert orders == {(0, 1, 2), (2, 0, 1, 2)}


def test_the_look_does_not_depend_on_the_phase():
    script = write_script("train", 0)
    other = type(script)(**{**vars(script), "phases": script.phases[::-1], "video": "x"})
    frames = zip(draw_frames(script), draw_frames(other), strict=True)
    assert all(np.array_equal(one, two) for one, two in frames)


def test_a_clip_decodes_to_the_frames_of_its_script(root):
    script = write_script("train", 0)
    with av.open(str(root / script.video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == len(script.phases)
    assert frames[0].shape == (240, 240, 3)
    error = np.abs(frames[5].astype(int) - draw_frames(script)[5]).mean()
    assert error < 8  # of 255, after the encoder


def test_the_spans_say_the_phase_of_every_frame(root):
    manifest = load_dataset("sample", root, TINY)
    clip = next(clip for clip in manifest.clips if clip.video == write_script("train", 0).video)
    times = (np.arange(len(write_script("train", 0).phases))) / FPS
    read = [
        next(s.phase for s in clip.spans if s.start_seconds <= t + 1e-6 < s.stop_seconds)
        for t in times
    ]
    assert read == list(write_script("train", 0).phases)


def test_rendering_again_gives_the_same_bytes_and_touches_nothing(root, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")}
    load_dataset("sample", root, TINY)
    load_dataset("sample", tmp_path, TINY)

    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")} == before
    for path in before:
        assert path.read_bytes() == (tmp_path / path.relative_to(root)).read_bytes()


def test_a_root_of_other_numbers_is_refused(root):
    with pytest.raises(UsageError, match="use another --root"):
        load_dataset("sample", root, {"train": "3", "val": "1"})


def test_a_root_without_numbers_is_taken_as_it_is(root):
    assert load_dataset("sample", root, {}).clips == load_dataset("sample", root, TINY).clips


def test_each_version_has_a_folder_and_a_name_of_its_own(root):
    assert load_dataset("sample", root, {}).dataset == SAMPLE == "sample-5"
    assert load_dataset("sample-5", root, {}).dataset == SAMPLE  # as its stores call it
    assert root_of("sample") == root_of("sample-5")
    assert root_of("sample").name == "sample-5"


def test_an_older_root_is_read_as_it_is_under_its_old_name(older, root, caplog):
    before = {path: path.read_bytes() for path in older.rglob("*") if path.is_file()}
    with caplog.at_level(logging.WARNING):
        manifest = load_dataset("sample", older, {})

    version = json.loads((older / "sample.json").read_text())["version"]
    assert manifest.dataset == {2: "sample", 3: "sample-3", 4: "sample-4"}[version]
    assert manifest.clips == load_dataset("sample", root, {}).clips
    assert f"is version {version} of the sample, 5 is the newest" in caplog.text
    assert {path: path.read_bytes() for path in older.rglob("*") if path.is_file()} == before


def test_an_older_root_of_other_numbers_is_refused(older):
    with pytest.raises(UsageError, match=r"rendered by an older version.*use another --root"):
        load_dataset("sample", older, {"train": "3"})


def test_a_root_of_a_version_to_come_is_refused(older):
    (older / "sample.json").write_text(json.dumps({"train": 2, "val": 1, "version": 6}))
    with pytest.raises(UsageError, match=r"holds .*\"version\": 6.*use another --root"):
        load_dataset("sample", older, {})


def test_an_unknown_option_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"data\.size: the data set `sample` takes"):
        load_dataset("sample", tmp_path, {"size": "3"})
