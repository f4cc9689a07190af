"""`extract show VIDEO --scenes FOLDER`: what the picture of a video's scenes shows."""

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.extract.scenes.films import COLOURS, write_film
from tokenreel.cache.errors import UsageError
from tokenreel.extract.preview import scene_strip
from tokenreel.extract.preview.scene_strip import draw_scenes, look_at_scenes
from tokenreel.extract.scene_list import Scene
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.methods import cutter_for
from tokenreel.extract.scenes.segment import find_scenes
from tokenreel.pipeline.cli.extract import app


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_film(tmp_path_factory.mktemp("films") / "a.mp4", [20, 14, 30])


def picture_of(film, **given):
    scenes = find_scenes(film, cutter_for(ScenesConfig()))
    return look_at_scenes(film, "a.mp4", scenes, **({"made": {}} | given))


def test_the_frames_shown_are_the_centres_of_the_scenes(film):
    picture = picture_of(film)
    assert list(picture.shown) == [0, 1, 2]
    for frame, colour in zip(picture.frames, COLOURS, strict=False):
        np.testing.assert_allclose(frame.mean(axis=(0, 1)), colour, atol=4)
    assert [image.shape for image in picture.frames] == [(48, 64, 3)] * 3


def test_the_curves_are_the_mean_colour_and_the_running_mean_before_each_frame(film):
    picture = picture_of(film)
    assert picture.means.shape == picture.running.shape == (64, 3)
    np.testing.assert_allclose(picture.means[25], COLOURS[1], atol=4)
    assert np.isnan(picture.running[0]).all()
    np.testing.assert_allclose(picture.running[20], COLOURS[0], atol=4)  # of the scene before
    np.testing.assert_allclose(picture.running[21], COLOURS[1], atol=4)
    np.testing.assert_allclose(picture.running[19], picture.means[16:19].mean(axis=0), rtol=1e-5)


def test_of_many_scenes_some_are_shown_evenly_chosen(film):
    assert list(picture_of(film, most=2).shown) == [0, 2]


def test_a_list_of_a_longer_video_is_refused(film, tmp_path):
    scenes = find_scenes(film, cutter_for(ScenesConfig()))
    short = write_film(tmp_path / "a.mp4", [20])
    with pytest.raises(UsageError, match=r"a scene at 1\.0\d* s, its frames end at 0\.760 s"):
        look_at_scenes(short, "a.mp4", scenes, made={})


def test_the_command_draws_a_picture(film, tmp_path):
    out, png = tmp_path / "scenes", tmp_path / "a.png"
    words = ["scenes", "folder", "--root", str(film.parent), "--out", str(out)]
    assert CliRunner().invoke(app, words).exit_code == 0
    drawn = CliRunner().invoke(app, ["show", "a.mp4", "--scenes", str(out), "--out", str(png)])
    assert drawn.exit_code == 0, drawn.output
    with av.open(str(png)) as container:
        pixels = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert pixels.shape[1] > 700
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
    wrong = CliRunner().invoke(app, ["show", "b.mp4", "--scenes", str(out)])
    assert "has no video 'b.mp4', did you mean a.mp4?" in str(wrong.exception)
    neither = CliRunner().invoke(app, ["show", "a.mp4"])
    assert "give --store STORE, or --scenes FOLDER" in str(neither.exception)


MADE = {"method": "running-mean", "parameters": {"threshold": 77.0, "min_frames": 2, "window": 4}}


def test_the_threshold_is_that_of_the_list_where_it_was_made_by_the_running_mean(film):
    picture = picture_of(film, made=MADE)
    assert (picture.threshold, picture.title) == (
        77.0,
        "a.mp4  (3 scenes, 64 frames, running-mean)",
    )
    other = picture_of(film, made={"method": "content", "parameters": {}})
    assert (other.threshold, other.title) == (None, "a.mp4  (3 scenes, 64 frames, content)")
    assert picture_of(film).title == "a.mp4  (3 scenes, 64 frames)"


def test_a_centre_is_in_the_frame_that_is_shown_then(film):
    scenes = [Scene(0.0, 0.8, 19.5 / 25, 20), Scene(0.8, 1.36, 0.8, 14)]
    picture = look_at_scenes(film, "a.mp4", scenes, made={})
    for frame, colour in zip(picture.frames, COLOURS, strict=False):
        np.testing.assert_allclose(frame.mean(axis=(0, 1)), colour, atol=4)


def test_a_cut_is_a_line_on_both_curves_and_the_threshold_one_on_the_distance(film, monkeypatch):
    monkeypatch.setattr(scene_strip, "save_figure", lambda figure, out: figure)
    figure = draw_scenes(picture_of(film, made=MADE), None)
    colours, jumps = figure.axes[-2:]
    upright = [
        [line.get_xdata()[0] for line in axis.lines if len(set(line.get_xdata())) == 1]
        for axis in (colours, jumps)
    ]
    assert upright == [pytest.approx([0.8, 1.36])] * 2
    level = [line.get_ydata()[0] for line in jumps.lines if list(line.get_xdata()) == [0, 1]]
    assert level == [77.0]
