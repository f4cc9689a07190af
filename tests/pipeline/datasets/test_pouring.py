"""`pouring`: TFRecords read without TensorFlow, their frames packed into videos."""

import re
import struct

import av
import crc32c
import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.datasets import check_dataset, load_dataset
from tokenreel.pipeline.datasets.formats.tfrecord import read_examples


def varint(number):
    number &= 2**64 - 1
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(value):
    if isinstance(value, bytes):
        return field(1, field(1, value))
    if isinstance(value, float):
        return field(2, field(1, struct.pack("<f", value)))
    return field(3, field(1, varint(value)))


def example(name, pictures, labels):
    context = b"".join(
        field(1, field(1, key) + field(2, feature(value)))
        for key, value in ((b"name", name), (b"len", len(pictures)), (b"negative", -3))
    )
    lists = b"".join(
        field(1, field(1, key) + field(2, b"".join(field(1, feature(v)) for v in values)))
        for key, values in ((b"video", pictures), (b"frame_labels", labels))
    )
    return field(1, context) + field(2, lists)


def masked(data):
    crc = crc32c.crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data):
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


@pytest.fixture
def root(tmp_path, jpegs):
    train = example(b"creme/1", jpegs(5), [0, 1, 1, 4, 4])
    val = example(b"milk", jpegs(3), [0.0, 2.0, 4.0])
    (tmp_path / "pouring_train-0-of-2.tfrecord").write_bytes(record(train))
    (tmp_path / "pouring_val-0-of-1.tfrecord").write_bytes(
        record(val) + record(example(b"oil", jpegs(2), [3, 3]))
    )
    return tmp_path


def test_records_become_labelled_videos(root):
    manifest = load_dataset("pouring", root, {})

    assert [clip.clip_id for clip in manifest.clips] == ["train/creme_1", "val/milk", "val/oil"]
    assert [span.phase for span in manifest.clips[0].spans] == [0, 1, 4]
    assert manifest.clips[2].spans[0].where == "pouring_val-0-of-1.tfrecord#1"
    for clip, count in zip(manifest.clips, (5, 3, 2), strict=True):
        with av.open(str(manifest.root / clip.video)) as container:
            assert sum(1 for _ in container.decode(video=0)) == count


def test_a_check_counts_records_and_writes_nothing(root):
    before = sorted(root.iterdir())
    check = check_dataset("pouring", root, {})
    assert [(s.split, s.published, s.listed, s.found) for s in check.splits] == [
        ("train", 70, 1, 1),
        ("val", 14, 2, 2),
    ]
    assert "pouring: 1 train, 2 val" in check.text()
    assert not check.is_complete, "all that is listed, but not all that was published"
    assert check.text().endswith("partial (1 of 70 train, 2 of 14 val): what is there can be used")
    assert sorted(root.iterdir()) == before


def test_every_kind_of_value_is_read(root):
    (read,) = read_examples(root / "pouring_train-0-of-2.tfrecord")
    assert read.context == {"name": [b"creme/1"], "len": [5], "negative": [-3]}
    assert read.lists["frame_labels"] == [[0], [1], [1], [4], [4]]
    first, _ = read_examples(root / "pouring_val-0-of-1.tfrecord")
    assert first.lists["frame_labels"] == [[0.0], [2.0], [4.0]]


def test_numbers_one_by_one_and_packed_are_read(tmp_path):
    given = {
        b"one": field(3, varint(1 << 3) + varint(300)),
        b"packed": field(3, field(1, varint(1) + varint(128) + varint(2**40) + varint(-2))),
        b"float": field(2, varint(1 << 3 | 5) + struct.pack("<f", 1.5)),
        b"floats": field(2, field(1, struct.pack("<2f", 0.5, -2.0))),
    }
    entries = (field(1, field(1, key) + field(2, value)) for key, value in given.items())
    (tmp_path / "a").write_bytes(record(field(1, b"".join(entries))))
    [read] = read_examples(tmp_path / "a")
    assert read.context == {
        "one": [300],
        "packed": [1, 128, 2**40, -2],
        "float": [1.5],
        "floats": [0.5, -2.0],
    }


@pytest.mark.parametrize("at", [0, 9, 40, -1])
def test_a_flipped_byte_anywhere_is_noticed_and_the_other_files_are_read(root, at):
    path = root / "pouring_train-0-of-2.tfrecord"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    manifest = load_dataset("pouring", root, {})
    assert {clip.split for clip in manifest.clips} == {"val"}
    (note,) = manifest.notes
    assert re.match(r"pouring_train-0-of-2\.tfrecord#0: (the checksum|cut short)", note)
    assert note.endswith("it and what follows are left out")


@pytest.mark.parametrize(("keep", "whole"), [(5, 0), (10, 0), (12, 0), (100, 0), (-1, 1)])
def test_of_a_download_that_was_cut_short_the_whole_records_are_read(root, keep, whole):
    path = root / "pouring_val-0-of-1.tfrecord"
    path.write_bytes(path.read_bytes()[:keep])
    manifest = load_dataset("pouring", root, {})
    assert sum(clip.split == "val" for clip in manifest.clips) == whole
    (note,) = manifest.notes
    assert note.startswith(f"pouring_val-0-of-1.tfrecord#{whole}: cut short: ")


def test_a_record_that_is_no_example_is_named(root):
    (root / "pouring_val-0-of-1.tfrecord").write_bytes(record(b"\x0a\xff\xff"))
    with pytest.raises(UsageError, match=r"#0: not a SequenceExample"):
        load_dataset("pouring", root, {})


@pytest.mark.parametrize(
    ("name", "num_pictures", "message"),
    [
        (b"milk", 1, r"pouring_val-1-of-2\.tfrecord#0: val/milk is listed twice"),
        (7, 1, r"tfrecord#0: no name in its context"),
        (b"x", 0, r"tfrecord#0: no pictures"),
    ],
)
def test_a_record_that_is_no_clip_is_named(root, jpegs, name, num_pictures, message):
    data = record(example(name, jpegs(num_pictures), [0] * num_pictures))
    (root / "pouring_val-1-of-2.tfrecord").write_bytes(data)
    with pytest.raises(UsageError, match=message):
        load_dataset("pouring", root, {"pack": "no"})


def test_a_record_without_a_name_is_named(root):
    context = field(1, field(1, b"len") + field(2, feature(3)))
    (root / "pouring_val-1-of-2.tfrecord").write_bytes(record(field(1, context)))
    with pytest.raises(UsageError, match="tfrecord#0: no name in its context"):
        load_dataset("pouring", root, {"pack": "no"})


@pytest.mark.parametrize(
    ("num_pictures", "labels", "kept", "phases"),
    [(4, [1, 3], [0, 2], [1, 3]), (2, [0, 1, 2, 3], [0, 1], [0, 2]), (3, [], [0, 1, 2], [])],
)
def test_the_longer_of_labels_and_pictures_is_resampled(
    tmp_path, jpegs, num_pictures, labels, kept, phases
):
    data = record(example(b"a", jpegs(num_pictures), labels))
    (tmp_path / "pouring_val-0-of-1.tfrecord").write_bytes(data)
    manifest = load_dataset("pouring", tmp_path, {})
    with av.open(str(manifest.root / manifest.clips[0].video)) as container:
        reds = [f.to_ndarray(format="rgb24")[0, 0, 0] for f in container.decode(video=0)]
    assert [round(red / 10) for red in reds] == kept  # jpegs: ten brighter each
    assert [span.phase for span in manifest.clips[0].spans] == phases


def test_a_phase_beyond_the_fifth_is_named(root, jpegs):
    data = record(example(b"x", jpegs(2), [0, 5]))
    (root / "pouring_train-1-of-2.tfrecord").write_bytes(data)
    with pytest.raises(UsageError, match=r"train-1-of-2\.tfrecord#0: frame 1 has phase 5"):
        load_dataset("pouring", root, {})
