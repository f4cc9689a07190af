"""The record of a clip and the check of its files: each refusal alone."""

import shutil

import pytest

from tests.cache.stores import make_store, write_clip
from tokenreel.cache.errors import Damaged
from tokenreel.cache.format.clip import ClipRecord, check_clip, clip_key, folder_of, load_clip
from tokenreel.cache.write.store_writer import StoreWriter


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


@pytest.fixture
def clip(store):
    """The folder of a clip of 70 frames: a whole shard of each block, and one of 6 frames."""
    with StoreWriter(store, writer_id="test") as writer:
        write_clip(writer, "a")
    return store / folder_of(clip_key("a"))


def problems(store, clip, *, deep):
    with StoreWriter(store, writer_id="test") as writer:
        return check_clip(clip, clip.name, writer.identity, writer.codec, deep=deep)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("key", "b-3e23e816", "the record of 'a' has key 'b-3e23e816'"),
        ("video", "../secret.mp4", r"the record of 'a' has video '\.\./secret\.mp4'"),
        ("video", "/secret.mp4", "the record of 'a' has video '/secret.mp4'"),
        ("byte_arrays", ["../x"], r"the record of 'a' has arrays \['\.\./x'\]"),
        ("colour", 1, "the record of a clip has fields .*'colour'"),
    ],
)
def test_a_record_that_would_lead_elsewhere_is_damaged(clip, field, value, message):
    values = load_clip(clip, clip.name)[0].to_dict(format_version=2)
    assert ClipRecord.from_dict(values) == load_clip(clip, clip.name)[0]
    with pytest.raises(Damaged, match=message):
        ClipRecord.from_dict({**values, field: value})


def test_a_clip_in_the_folder_of_another_is_damaged(store, clip):
    other = store / folder_of(clip_key("b"))
    shutil.copytree(clip, other)
    with pytest.raises(Damaged, match=f"holds a, its directory is {other.name}"):
        load_clip(other, other.name)


@pytest.mark.parametrize("frame", [0, 5])
def test_a_byte_in_any_frame_of_a_shard_is_found_where_the_check_is_deep(store, clip, frame):
    path = clip / "views/0/tokens/3/c/1/0/0"
    data = bytearray(path.read_bytes())
    data[frame * (16 * 16) + 255] ^= 1
    path.write_bytes(data)
    assert problems(store, clip, deep=True) == [f"{path}: frame {64 + frame} is damaged"]
    assert problems(store, clip, deep=False) == []


@pytest.mark.parametrize("change", [-1, 1])
def test_a_shard_of_another_size_is_found(store, clip, change):
    path = clip / "views/0/tokens/3/c/0/0/0"
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + b"\0")
    words = f"{path}: {len(data) + change} bytes, wanted {len(data)}"
    assert problems(store, clip, deep=False) == [words]


def test_the_index_of_a_shard_is_compared_in_every_check(store, clip):
    path = clip / "views/0/tokens/3/c/0/0/0"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for deep in (False, True):
        assert problems(store, clip, deep=deep) == [
            f"{path}: its index is not that of a dense shard"
        ]


def test_a_link_to_a_folder_does_not_belong_in_a_clip(store, clip, tmp_path):
    (clip / "extra").symlink_to(tmp_path, target_is_directory=True)
    assert problems(store, clip, deep=False) == [f"{clip / 'extra'}: does not belong here"]
