"""`sample`: what is rendered, the same each time; the number of a frame tells little."""

import av
import numpy as np
import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.datasets import load_dataset
from tokenreel.pipeline.datasets.render import FPS, PHASES, write_script
from tokenreel.pipeline.datasets.sample import NUM_TRAIN, NUM_VAL

TINY = {"train": "2", "val": "1"}
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


def test_the_clips_have_the_promised_numbers_lengths_and_phases():
    assert [sum(script.split == split for script in ALL) for split in ("train", "val")] == [36, 18]
    assert all(40 <= len(script.phases) <= 160 for script in ALL)
    assert all(set(script.phases) == set(range(len(PHASES[script.action]))) for script in ALL)
    assert sorted(map(len, PHASES.values())) == [3, 5]


def test_the_best_guess_from_the_frame_number_alone_is_often_wrong():
    for action in PHASES:
        train = [script for script in ALL if script.action == action and script.split == "train"]
        val = [script for script in ALL if script.action == action and script.split == "val"]
        right = total = 0
        for script in val:
            for index, phase in enumerate(script.phases):
                seen = [other.phases[index] for other in train if index < len(other.phases)]
                right += bool(seen) and int(np.bincount(seen).argmax()) == phase
                total += 1
        assert right / total < 0.75


def test_a_clip_decodes_to_the_frames_of_its_script(root):
    script = write_script("train", 0)
    with av.open(str(root / script.video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == len(script.phases)
    assert frames[0].shape == (240, 320, 3)


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


def test_an_unknown_option_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"data\.size: the data set `sample` takes"):
        load_dataset("sample", tmp_path, {"size": "3"})
