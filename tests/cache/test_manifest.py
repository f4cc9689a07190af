"""Names of files that are not UTF-8 text, and the first clips of each split."""

import os
from pathlib import Path

import pytest

from tokenreel.cache.manifest import Clip, first_clips, path_below, text_of_name


@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"a\x80\xff", "caf\u00e9".encode(), b"a\\x41"])
def test_the_text_of_a_name_leads_back_to_the_file(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.touch()
    assert path_below(tmp_path, text_of_name(path.name)) == path


def test_a_name_that_is_written_with_a_backslash_is_that_file_where_there_is_one(tmp_path):
    written = tmp_path / r"caf\xe9.mp4"
    assert os.fsencode(path_below(tmp_path, written.name).name) == b"caf\xe9.mp4"
    written.symlink_to(tmp_path / "nowhere")
    assert path_below(tmp_path, written.name) == written
    assert path_below(Path("f"), r"a\x41") == Path(r"f/a\x41")  # a letter is never written so


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [(None, "abcdef"), (1, "abf"), (2, "abcdf"), (3, "abcdef"), (0, "")],
)
def test_the_first_clips_are_of_each_split_in_their_order(limit, wanted):
    splits = {"a": "train", "b": "val", "c": "train", "d": "val", "e": "train", "f": "test"}
    clips = [Clip(name, "v.mp4", split=split) for name, split in splits.items()]
    assert "".join(clip.clip_id for clip in first_clips(clips, limit)) == wanted
