"""Attention on the page: what is read from a run's folder, and how wide entities look."""

import logging

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.evaluate.report import made
from tokenreel.evaluate.report.build import make_report
from tokenreel.evaluate.report.data.gather import ReportConfig, gather_runs
from tokenreel.evaluate.report.sections.attention import attention_article, focus, read_attention


@pytest.fixture
def run(tmp_path):
    """A run with attention over one clip: entity 0 looks at one token, entity 1 at all of 6."""
    found = made.write_runs(tmp_path)
    folder = found.files[0].path.parent / "attention"
    folder.mkdir()
    weights = np.zeros((4, 2, 2, 3), np.float32)
    weights[:, 0, 0, 1] = 1
    weights[:, 1] = 1 / 6
    write(folder / "jump_v0.npz", weights)
    Pillow.new("RGB", (1500, 300), (10, 200, 30)).save(folder / "jump_v0.png")
    return found


def write(path, weights, **changes):
    values = {"weights": weights, "clip_id": "jump/v0", "phases": np.array(["a"]), **changes}
    np.savez_compressed(path, **values)


def test_focus_is_the_share_of_tokens_looked_at():
    weights = np.zeros((2, 1, 1, 4))
    weights[0, 0, 0, :2] = 0.5  # half of the tokens; in the other frame it looks at nothing
    assert focus(weights).tolist() == [0.5]


def test_the_page_shows_the_picture_and_the_focus_of_each_entity(run):
    page = make_report(run.files, run.scores.scores, frames=made.make_frames).decode()
    assert "2 entities over 2 x 3 tokens; entity 0 looks at 17 % of the tokens; " in page
    assert "entity 1 looks at 100 % of the tokens" in page
    assert 'alt="Attention of good over jump/v0: a column a moment' in page
    assert 'width="1400" height="280"' in page


def test_without_files_the_page_says_what_to_type(evaluated):
    page = make_report(evaluated.files, [], frames=made.make_frames).decode()
    assert "`fuse attend RUN --clips CLIP` computes it" in page


def test_a_missing_picture_is_said_to_be_missing(run):
    runs = gather_runs(run.files)
    (runs[0].folder / "attention/jump_v0.png").unlink()
    [found] = read_attention(runs, ReportConfig())
    assert "Without the picture jump_v0.png: No such file or directory." in attention_article(found)
    (runs[0].folder / "attention/jump_v0.png").write_bytes(b"no picture")
    assert "jump_v0.png: not a picture." in attention_article(found)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones((3, 4)), "weights of shape (3, 4)"),
        (np.full((1, 1, 1, 1), np.nan), "not finite"),
        (np.ones((0, 1, 2, 2)), "weights of shape (0, 1, 2, 2)"),
        (None, "not the attention of a clip"),
    ],
)
def test_files_of_another_layout_are_left_out_and_logged(run, caplog, weights, message):
    runs = gather_runs(run.files)
    path = runs[0].folder / "attention/a.npz"
    if weights is None:
        path.write_bytes(b"torn")
    else:
        write(path, weights)
    with caplog.at_level(logging.WARNING):
        found = read_attention(runs, ReportConfig())
    assert [one.clip_id for one in found] == ["jump/v0"]
    assert message in caplog.text


def test_so_many_clips_of_a_run_are_shown(run):
    runs = gather_runs(run.files)
    write(runs[0].folder / "attention/z.npz", np.ones((1, 1, 2, 2)), clip_id="z")
    names = [one.clip_id for one in read_attention(runs, ReportConfig(attention_clips=1))]
    assert names == ["jump/v0"]
