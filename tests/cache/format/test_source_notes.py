"""Notes of sources: added to those that are there, sealed, and none where they are damaged."""

import json

import pytest

from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.errors import Damaged
from tokenreel.cache.format.source_notes import (
    NOTES,
    SourceNotes,
    add_notes,
    load_notes,
    read_notes,
)

ONE, TWO, THREE = ((size, size * 7, str(size) * 64) for size in (1, 2, 3))


def test_notes_are_added_and_the_last_one_of_a_video_counts(tmp_path):
    add_notes(tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing is new
    assert load_notes(tmp_path) == SourceNotes()
    add_notes(tmp_path, root="r", videos={"a": ONE, "b": TWO})
    add_notes(tmp_path, videos={"b": THREE})
    assert load_notes(tmp_path) == SourceNotes("r", {"a": ONE, "b": THREE})
    add_notes(tmp_path, root="s")
    assert load_notes(tmp_path) == SourceNotes("s", {"a": ONE, "b": THREE})
    before = (tmp_path / NOTES).stat().st_ino
    add_notes(tmp_path, root="s", videos={"a": ONE})
    assert (tmp_path / NOTES).stat().st_ino == before  # nothing is written again


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"root": "", "videos": []}, "has no attribute 'items'"),
        ({"root": "", "videos": {"a": [1, 2]}}, "not enough values"),
        ({"root": "", "videos": {"a": 5}}, "cannot unpack"),
        ({"root": "", "videos": {"a": ["x", 1, ""]}}, "invalid literal"),
        ({"videos": {}}, "'root'"),
        ({"root": ""}, "'videos'"),
    ],
)
def test_notes_of_another_form_are_damage_and_none_for_who_only_saves_work(
    tmp_path, caplog, values, message
):
    (tmp_path / NOTES).write_bytes(canonical_json(seal(values)))
    with pytest.raises(Damaged, match=rf"{NOTES}: no notes of videos \(.*{message}.*; delete it"):
        load_notes(tmp_path)
    assert read_notes(tmp_path) == SourceNotes()
    assert "videos are hashed again" in caplog.text


def test_notes_that_were_altered_are_damage(tmp_path):
    add_notes(tmp_path, videos={"a": ONE})
    values = json.loads((tmp_path / NOTES).read_bytes())
    values["videos"]["a"][0] = 9
    (tmp_path / NOTES).write_bytes(canonical_json(values))
    with pytest.raises(Damaged, match="its contents do not match their checksum"):
        load_notes(tmp_path)
