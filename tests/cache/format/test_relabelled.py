"""The file of renewed labels: what it holds, and what of it is refused or passed over."""

import json
from dataclasses import replace

import crc32c
import numpy as np
import pytest

from tests.cache import stores
from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.errors import Damaged
from tokenreel.cache.format import relabelled
from tokenreel.cache.format.clip import ClipRecord, clip_key, labels_hash
from tokenreel.cache.format.relabelled import (
    LABELS,
    load_relabelled,
    record_sum,
    relabel,
    write_relabelled,
)

FRAMES = 5
OWN = ClipRecord(
    clip_id="a",
    key=clip_key("a"),
    dataset="d",
    video="a.mp4",
    split="train",
    action="turn",
    group="",
    phases=("x", "y"),
    num_frames=FRAMES,
    num_views=1,
    start_seconds=None,
    stop_seconds=None,
    time_base=(1, 25),
    source=stores.SOURCE.to_dict(format_version=2),
    labels_sha256="0" * 64,
)
FIELDS = {"split": "val", "action": "jump", "group": "g", "tags": ["t"], "phases": ["up", "down"]}
NEW = np.array([-1, -1, 1, 0, 0], np.int16)


def write(path, entry=None, **changes):
    """A sealed file with one entry of the clip."""
    values = {"of": record_sum(OWN), **FIELDS, "labels": [[-1, 2], [1, 1], [0, 2]], **changes}
    content = {"clips": {OWN.key: values} if entry is None else entry}
    (path / LABELS).write_bytes(canonical_json(seal(content)))


def test_what_is_written_is_each_field_and_the_runs_of_labels_under_a_checksum(tmp_path):
    write_relabelled(tmp_path, {"a": relabel(OWN, FIELDS, NEW)})
    assert json.loads((tmp_path / LABELS).read_bytes()) == {
        "clips": {
            OWN.key: {
                "of": crc32c.crc32c(canonical_json(OWN.to_dict(format_version=2))),
                "split": "val",
                "action": "jump",
                "group": "g",
                "tags": ["t"],
                "phases": ["up", "down"],
                "labels": [[-1, 2], [1, 1], [0, 2]],
            }
        },
        "crc32c": json.loads((tmp_path / LABELS).read_bytes())["crc32c"],
    }
    found = load_relabelled(tmp_path, {"a": OWN})["a"]
    assert found.own == OWN
    digest = labels_hash(("up", "down"), NEW)
    words = {"split": "val", "action": "jump", "group": "g"}
    tuples = {"tags": ("t",), "phases": ("up", "down")}
    assert found.record == replace(OWN, **words, **tuples, labels_sha256=digest)
    assert (found.labels.tolist(), found.labels.dtype) == (NEW.tolist(), np.int16)


def test_without_clips_there_is_no_file(tmp_path):
    write_relabelled(tmp_path, {})
    write_relabelled(tmp_path, {"a": relabel(OWN, FIELDS, NEW)})
    write_relabelled(tmp_path, {})
    assert list(tmp_path.iterdir()) == []
    assert load_relabelled(tmp_path, {"a": OWN}) == {}


@pytest.mark.parametrize(
    "field", ["tags", "rules", "byte_arrays", "extra", "labels_sha256", "num_frames"]
)
def test_an_entry_of_another_record_of_the_clip_is_passed_over(tmp_path, field):
    write(tmp_path)
    assert load_relabelled(tmp_path, {"a": OWN}).keys() == {"a"}
    assert load_relabelled(tmp_path, {}) == {}
    others = {"tags": ("z",), "rules": 2, "byte_arrays": ("text",), "extra": {"k": 1}}
    others |= {"labels_sha256": "1" * 64, "num_frames": 6}
    assert load_relabelled(tmp_path, {"a": replace(OWN, **{field: others[field]})}) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [[-1, 4]]}, "4 labels for 5 rows of a"),
        ({"labels": [[-1, 6]]}, "6 labels for 5 rows of a"),
        ({"labels": []}, "0 labels for 5 rows of a"),
        ({"labels": [[0, 6], [1, -1]]}, "negative"),
        ({"labels": [[0]]}, "not enough values"),
        ({"labels": 5}, "not iterable"),
        ({"entry": []}, "has no attribute 'get'"),
        ({"entry": {OWN.key: {}}}, "'of'"),
        ({"entry": {OWN.key: []}}, "list indices"),
        ({"entry": {OWN.key: {"of": record_sum(OWN), "labels": [[0, 5]]}}}, "'split'"),
    ],
)
def test_an_entry_that_does_not_fit_its_clip_is_damage_and_says_what_to_type(
    tmp_path, changes, message
):
    write(tmp_path, **changes)
    with pytest.raises(Damaged, match=rf"damaged \(.*{message}.*`store relabel` to renew"):
        load_relabelled(tmp_path, {"a": OWN})


def test_a_changed_byte_is_damage(tmp_path):
    write(tmp_path)
    data = (tmp_path / LABELS).read_bytes()
    (tmp_path / LABELS).write_bytes(data.replace(b'"val"', b'"van"'))
    with pytest.raises(Damaged, match="its contents do not match their checksum"):
        load_relabelled(tmp_path, {"a": OWN})


def test_a_file_that_is_removed_is_gone_after_a_power_cut_too(tmp_path, monkeypatch):
    write(tmp_path)
    seen = []
    monkeypatch.setattr(
        relabelled, "sync_directory", lambda folder: seen.append((folder, [*folder.iterdir()]))
    )
    write_relabelled(tmp_path, {})
    assert seen == [(tmp_path, [])]


def test_a_file_that_cannot_be_read_is_not_taken_for_none(tmp_path):
    (tmp_path / LABELS).mkdir()
    with pytest.raises(IsADirectoryError):
        load_relabelled(tmp_path, {"a": OWN})
