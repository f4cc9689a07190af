"""Rendered trailers: their tags say what the scripts say, and their scenes are the ones found."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.methods import cutter_for
from tokenreel.extract.scenes.segment import find_scenes
from tokenreel.pipeline.datasets import load_dataset
from tokenreel.pipeline.datasets.trailers import (
    COLOURS,
    MOTIONS,
    TAGS,
    draw_trailer,
    render_trailer,
    write_trailer,
)

SCRIPTS = [write_trailer("train", index) for index in range(360)]


def colour_of(scene):
    """The named colour of a scene; None where it has another."""
    near = {name: np.abs(np.subtract(scene.tint, rgb)).max() for name, rgb in COLOURS.items()}
    name = min(near, key=near.get)
    return name if near[name] <= 16 else None


def kinds(script):
    colours = [colour_of(scene) for scene in script.scenes]
    motions = [scene.motion if scene.motion in MOTIONS else None for scene in script.scenes]
    return colours, motions


def test_each_tag_is_what_its_scenes_show():
    for script in SCRIPTS:
        colours, motions = kinds(script)
        shown = {name for name in ("red", "green") if name in colours}
        shown |= {name for name in ("left", "down") if name in motions}
        shown |= {"blue-first"} if colours[0] == "blue" else set()
        shown |= {"in-first"} if motions[0] == "in" else set()
        assert set(script.tags) == shown, script.video


def test_the_scenes_in_another_order_say_nothing_of_the_order():
    for script in SCRIPTS:
        for found, (one, other) in zip(
            kinds(script), (("blue", "yellow"), ("in", "out")), strict=True
        ):
            count = Counter(found)
            assert count[one] == count[other] == max(1, len(found) // 4)
            assert {found[0], found[-1]} == {one, other}


def test_each_tag_is_had_by_about_half_of_the_clips_whatever_their_length():
    lengths = np.array([len(script.scenes) for script in SCRIPTS])
    assert (lengths.min(), lengths.max()) == (4, 16)
    for tag in TAGS:
        has = np.array([tag in script.tags for script in SCRIPTS])
        assert 0.4 < has.mean() < 0.6, tag
        assert abs(np.corrcoef(has, lengths)[0, 1]) < 0.16, tag  # three standard errors


def test_neighbours_differ_in_colour_by_more_than_the_threshold():
    for script in SCRIPTS:
        for before, scene in pairwise(script.scenes):
            assert np.linalg.norm(np.subtract(before.tint, scene.tint)) > 20  # 18.5 cuts


def test_the_mean_colour_of_a_frame_is_the_tint_of_its_scene():
    script = SCRIPTS[3]
    frames = draw_trailer(script)
    for scene in script.scenes:
        for _ in range(scene.num_frames):
            means = next(frames).mean(axis=(0, 1))
            np.testing.assert_allclose(means, scene.tint, atol=0.6)


def test_the_scenes_of_a_rendered_trailer_are_those_of_its_script(tmp_path):
    for script in SCRIPTS[:2]:
        (tmp_path / script.video).parent.mkdir(exist_ok=True)
        render_trailer(tmp_path, script)
        found = find_scenes(tmp_path / script.video, cutter_for(ScenesConfig()))
        assert [s.num_frames for s in found] == [s.num_frames for s in script.scenes]


def test_a_root_is_used_again_and_another_number_of_clips_is_refused(tmp_path):
    root = tmp_path / "trailers"
    first = load_dataset("trailers", root, {"train": "2", "val": "1"})
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")}
    again = load_dataset("trailers", root, {})
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")} == before
    assert [(clip.split, clip.tags) for clip in first.clips] == [
        ("train", SCRIPTS[0].tags),
        ("train", SCRIPTS[1].tags),
        ("val", write_trailer("val", 0).tags),
    ]
    with pytest.raises(UsageError, match="use another --root"):
        load_dataset("trailers", root, {"train": "3"})
    with pytest.raises(UsageError, match=r"data\.val is a number of clips from 1, got '0'"):
        load_dataset("trailers", root, {"val": "0"})
    with pytest.raises(UsageError, match=r"data\.clips: no option of trailers"):
        load_dataset("trailers", root, {"clips": "3"})
