"""`tokenreel similar`: patches of a rendered disc are found on the disc of other clips."""

import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.fuse.tiny import write_store
from tests.pipeline.explore import scene
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.search.query import Click
from tokenreel.pipeline.cli.main import app
from tokenreel.pipeline.explore import strip
from tokenreel.pipeline.explore.strip import find_similar


def call(*words):
    return CliRunner().invoke(app, ["similar", *map(str, words)])


def test_the_best_patch_of_each_other_clip_is_on_the_same_object(work):
    store = open_store(work / "store")
    for colour in (scene.RED, scene.BLUE):
        patch = scene.patch_at(*scene.centre("one", 3, colour))
        made = find_similar(store, [Click("train/one.mp4", 3, patch)], block=0)
        others = made.found.of_clips[1:]
        assert len(others) == 3
        for one in others:
            picture = scene.draw(one.clip_id.split("/")[1][:-4], one.frame)
            rows, columns = scene.pixels_of(one.patch)
            own = (picture[rows, columns] == colour).all(axis=-1)
            assert own.mean() > 0.5, one


def test_the_command_lists_patches_and_draws_them_on_their_frames(work, tmp_path):
    patch = scene.patch_at(*scene.centre("one", 3))
    out = tmp_path / "strip.png"
    result = call(
        work / "store",
        "--clip",
        "one",
        "--frame",
        3,
        "--patch",
        patch,
        "--block",
        0,
        "--out",
        out,
        "--root",
        work / "videos",
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["score", "clip", "frame", "seconds", "row", "column"]
    row, column = divmod(patch, scene.GRID)
    assert lines[1].split() == ["1", "train/one.mp4", "3", "0.3", str(row), str(column)]
    assert "40 frames, 0.00 GB of codes" in result.stdout
    picture = np.asarray(Image.open(out).convert("RGB"))
    side = strip.HEIGHT
    assert picture.shape[:2] == (side + 2 * 8 + 3 * 17, (side + 8) * 4 + 8)
    for cell in range(4):  # the frames are there, red inside the frame of the patch
        part = picture[8 : 8 + side, 8 + (side + 8) * cell :][:, :side]
        frame = (part == (strip.QUERY if cell == 0 else strip.LIKE)).all(axis=-1)
        y, x = np.nonzero(frame)
        inside = part[y.min() + 4 : y.max() - 3, x.min() + 4 : x.max() - 3]
        assert scene.is_red(inside).mean() > 0.5


def test_without_the_videos_patches_are_on_a_blank_grid_and_a_line_says_why(tmp_path):
    store, out = write_store(tmp_path / "s", cls=False), tmp_path / "strip.png"
    result = call(store, "--clip", "val1", "--frame", 2, "--patch", "0,1,1,2", "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("without frames: ") == 1
    assert "(--root names the videos)" in result.stdout
    picture = np.asarray(Image.open(out).convert("RGB"))
    assert (picture == 236).all(axis=-1).mean() > 0.5
    side = 222  # of a grid of 2 x 3
    y, x = np.nonzero((picture[: 8 + side] == strip.QUERY).all(axis=-1))
    box = (y.min(), y.max() + 1, x.min(), x.max() + 1)
    assert box == (8, 8 + side, 8 + side // 3, 8 + side)  # of the whole click


def test_a_box_and_a_negative_patch_are_taken(work):
    words = [work / "store", "--clip", "one", "--frame", 0, "--count", 3]
    result = call(*words, "--patch", "1,1,2,2", "--patch", 9, "--negative", "7,7")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--patch", "x"], "patch 'x': its number, as in 27"),
        (["--patch", "64"], "patch 64: there are 0 to 63"),
        (["--patch", "1,2,3"], "row,column,last row,last column"),
        (["--patch", "1", "--block", "3"], "block 3: .* has blocks 0, 5"),
        (["--patch", "1", "--view", "1"], "view 1: .* has views 0 to 0"),
        (["--patch", "1", "--out", "/dev/null/x.png"], "cannot be written"),
    ],
)
def test_wrong_words_are_refused(work, words, message):
    result = call(work / "store", "--clip", "one", "--frame", 0, *words)
    assert isinstance(result.exception, UsageError)
    assert re.search(message, str(result.exception))
