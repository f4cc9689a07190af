"""Format 2: units, tags, facts of the source, extra fields; format 1 kept and migrated."""

import dataclasses
import importlib.util
import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.errors import Damaged, UsageError, WrongIdentity
from tokenreel.cache.format.clip import SourceInfo, clip_key, folder_of, labels_hash
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.store_files import StoreFacts, create_store, load_identity
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.copying import merge_store, recode_store, upgrade_store
from tokenreel.cache.tools.maintenance import diff_stores
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write import clip_writer
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

GOLDEN = Path(__file__).parents[2] / "golden" / "store_v1"
SOURCE = dataclasses.replace(
    stores.SOURCE, mtime_ns=1_700_000_000_123_456_789, pixel_aspect=(16, 15), orientation=90
)


def make_store(path: Path, *, version: int = 2, **changes: object) -> Path:
    identity, calibration = stores.make_identity("int8")
    values = identity.model_dump(mode="json") | {"format_version": version} | changes
    made = StoreIdentity.model_validate(values)
    return create_store(path, made, made_with={"numpy": "any"}, calibration=calibration)


def write_clip(path: Path, frames: int = 70, *, tags=("comedy", "war"), stop_pts=None, extra=None):
    """A clip of tags and extra fields."""
    clip = dataclasses.replace(stores.make_clip("a"), tags=tags)
    with StoreWriter(path, writer_id="w") as writer:
        begun = writer.begin(
            clip,
            dataset="d",
            phases=("x", "y"),
            source=SOURCE,
            time_base=Fraction(1, 25),
            extra=extra,
        )
        try:
            stores.append(writer, begun, "a", frames)
            count = np.arange(frames)
            return begun.commit(
                count * 2, count, count % 2, np.zeros(frames, np.uint8), stop_pts=stop_pts
            )
        finally:
            begun.abort()


def test_a_record_of_format_2_says_all_of_its_source_labels_and_tags(tmp_path):
    path = make_store(tmp_path / "s")
    extra = {"lab.camera": {"id": 3, "unknown": [1, None]}}
    written = write_clip(path, extra=extra)
    record = open_store(path).record("a")
    assert record == written
    assert record.tags == ("comedy", "war")
    assert record.rules == 1
    assert record.extra == extra
    assert record.labels_sha256 == labels_hash(("x", "y"), open_store(path).labels("a"))
    assert SourceInfo.from_dict(record.source) == SOURCE
    shutil.rmtree(path / "manifest")
    (path / "manifest").mkdir()
    assert open_store(path).record("a") == record


def test_extra_fields_are_kept_by_copies(tmp_path):
    extra = {"lab.camera": 3}
    path = stores.make_store(tmp_path / "s", "fp16")
    write_clip(path, extra=extra)
    other = stores.make_store(tmp_path / "t", "fp16")
    merge_store(path, other)
    recode_store(path, tmp_path / "u", codec="int8")
    for copy in (other, tmp_path / "u"):
        record = open_store(copy).record("a")
        assert (record.extra, record.tags) == (extra, ("comedy", "war"))
        assert SourceInfo.from_dict(record.source) == SOURCE


def test_extra_fields_that_are_no_json_are_refused(tmp_path):
    with pytest.raises(UsageError, match="extra fields of a are no JSON"):
        write_clip(make_store(tmp_path / "s"), extra={"path": Path("x")})


def test_a_store_records_its_root_and_extra_fields(tmp_path):
    identity, calibration = stores.make_identity("int8")
    facts = StoreFacts(root="videos", extra={"lab.note": [1]})
    path = create_store(
        tmp_path / "s", identity, made_with={}, calibration=calibration, facts=facts
    )
    assert open_store(path).facts == facts
    with pytest.raises(UsageError, match="format 1 keeps no root"):
        create_store(
            tmp_path / "t",
            identity.model_copy(update={"format_version": 1}),
            made_with={},
            calibration=calibration,
            facts=facts,
        )


def test_units_have_a_start_and_a_stop(tmp_path):
    path = make_store(tmp_path / "s", unit="scene")
    count = np.arange(70)
    write_clip(path, stop_pts=count * 2 + 1)
    units = open_store(path).units("a")
    assert units.dtype == np.float64
    np.testing.assert_array_equal(units[:, 0], open_store(path).times_seconds("a"))
    np.testing.assert_allclose(units, np.stack([count * 2, count * 2 + 1], axis=1) / 25)
    assert verify_store(path, deep=True).problems == ()


@pytest.mark.parametrize("version", [1, 2])
def test_a_frame_lasts_until_the_next_one(tmp_path, version):
    path = make_store(tmp_path / "s", version=version)
    write_clip(path, 3, tags=())
    np.testing.assert_allclose(open_store(path).units("a") * 25, [[0, 2], [2, 4], [4, 6]])


def test_a_clip_of_one_frame_lasts_a_tick(tmp_path):
    path = make_store(tmp_path / "s")
    write_clip(path, 1)
    assert open_store(path).units("a").tolist() == [[0.0, 0.04]]


def test_a_unit_that_does_not_end_after_its_start_is_refused(tmp_path):
    stops = np.arange(1, 141, 2)
    stops[7] = 14
    with pytest.raises(ValueError, match="unit 7 does not end after its start"):
        write_clip(make_store(tmp_path / "s"), stop_pts=stops)


@pytest.mark.parametrize(
    ("field", "value"), [("unit", "scene"), ("frames_per_window", 12), ("rows_per_window", 2)]
)
def test_what_a_row_is_belongs_to_the_identity(field, value):
    identity = stores.make_identity("int8")[0]
    other = StoreIdentity.model_validate(identity.model_dump(mode="json") | {field: value})
    assert other.fingerprint != identity.fingerprint
    with pytest.raises(WrongIdentity, match=f"1 field\\(s\\) differ:\n  {field}"):
        identity.require(other, path="some-store")
    assert field.encode() not in identity.to_json()
    with pytest.raises(ValidationError, match=f"format 1 has no {field}"):
        StoreIdentity.model_validate(other.model_dump(mode="json") | {"format_version": 1})


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ({"policy": "uniform"}, "count None; wanted an integer >= 1"),
        ({"policy": "uniform", "count": 0}, "count 0"),
        ({"policy": "listed", "sha256": "abc"}, "wanted 64 hexadecimal digits"),
        ({"policy": "scenes"}, "policy 'scenes' has sha256 None"),
    ],
)
def test_a_policy_of_frames_without_its_parameter_is_refused(frames, message):
    values = stores.make_identity("int8")[0].model_dump(mode="json")
    with pytest.raises(ValidationError, match=message):
        StoreIdentity.model_validate(values | {"frames": frames})
    for whole in ({"policy": "uniform", "count": 8}, {"policy": "listed", "sha256": "a" * 64}):
        assert StoreIdentity.model_validate(values | {"frames": whole}).frames == whole


def test_a_field_of_a_later_version_is_refused_by_name(tmp_path):
    path = make_store(tmp_path / "s")
    values = json.loads((path / "recipe.json").read_text()) | {"tubelet": 2}
    (path / "recipe.json").write_text(json.dumps(values))
    with pytest.raises(WrongIdentity, match="has tubelet, which this version does not know"):
        open_store(path)


def test_formats_of_one_identity_hold_the_same_tokens():
    second = stores.make_identity("int8")[0]
    first = second.model_copy(update={"format_version": 1})
    assert first.fingerprint != second.fingerprint
    assert first.has_tokens_of(second)
    first.require(second, path="some-store")
    assert not first.has_tokens_of(stores.make_identity("fp16")[0])


def test_a_store_of_format_1_is_used_as_it_is(tmp_path):
    path = make_store(tmp_path / "s", version=1)
    before = (path / "recipe.json").read_bytes(), (path / "zarr.json").read_bytes()
    stores.make_store(path)
    assert ((path / "recipe.json").read_bytes(), (path / "zarr.json").read_bytes()) == before
    write_clip(path, 5, tags=())
    meta = json.loads((path / folder_of(clip_key("a")) / "zarr.json").read_text())
    record = meta["attributes"]["tokenreel"]["record"]
    assert set(record) == {
        *("clip_id", "key", "dataset", "video", "split", "action", "group", "phases"),
        *("num_frames", "num_views", "start_seconds", "stop_seconds", "time_base", "source"),
    }
    assert set(record["source"]) == {
        *("video", "num_bytes", "sha256", "decoder", "decoder_version", "container"),
    }
    assert not (path / folder_of(clip_key("a")) / "stop_pts").exists()
    assert verify_store(path, deep=True).problems == ()


@pytest.mark.parametrize(
    "given", [{"tags": ("x",)}, {"tags": (), "extra": {"a": 1}}], ids=["tags", "extra"]
)
def test_what_format_1_cannot_keep_is_refused_by_name(tmp_path, given):
    path = make_store(tmp_path / "s", version=1)
    with pytest.raises(UsageError, match=r"format 1 cannot keep .*store migrate"):
        write_clip(path, 5, **given)
    with pytest.raises(UsageError, match="cannot keep when units end"):
        write_clip(path, 5, tags=(), stop_pts=np.arange(5) * 2 + 1)
    assert open_store(path).records == {}


def test_a_store_of_format_1_is_migrated_with_its_tokens_and_its_fingerprint(tmp_path):
    with pytest.raises(UsageError, match="of format 2 already"):
        upgrade_store(make_store(tmp_path / "t"), tmp_path / "x")
    first, out = open_store(GOLDEN), tmp_path / "s"
    assert upgrade_store(GOLDEN, out).copied == ("a/1",)
    assert upgrade_store(GOLDEN, out).copied == ()
    second = open_store(out)
    assert second.identity.format_version == 2
    assert second.facts.former_fingerprints == (first.fingerprint,)
    assert second.made_with == first.made_with
    for path in sorted((GOLDEN / folder_of(clip_key("a/1"))).rglob("*/c/*")):
        if path.is_file():
            copy = out / path.relative_to(GOLDEN)
            assert copy.read_bytes() == path.read_bytes(), path
    np.testing.assert_array_equal(first.units("a/1"), second.units("a/1"))
    assert diff_stores(GOLDEN, out) == []
    assert verify_store(out, deep=True).problems == ()
    with pytest.raises(WrongIdentity, match="was not made of"):
        upgrade_store(GOLDEN, stores.make_store(tmp_path / "u"))


def test_a_clip_of_format_2_without_the_fingerprint_of_its_store_is_damaged(tmp_path):
    path = make_store(tmp_path / "s")
    write_clip(path, 5)
    file = path / folder_of(clip_key("a")) / "zarr.json"
    meta = json.loads(file.read_text())
    inner = meta["attributes"]["tokenreel"]
    kept = {k: v for k, v in inner.items() if k not in ("crc32c", "fingerprint")}
    meta["attributes"]["tokenreel"] = seal(kept)
    file.write_bytes(canonical_json(meta))
    with pytest.raises(Damaged, match="does not name the fingerprint"):
        open_store(path).read("a")


def test_labels_that_are_not_those_of_the_hash_are_found(tmp_path, monkeypatch):
    path = make_store(tmp_path / "s")
    monkeypatch.setattr(clip_writer, "labels_hash", lambda phases, labels: "0" * 64)
    write_clip(path, 5)
    assert "its labels are not those" in verify_store(path, deep=True).table()
    assert load_identity(path)[0].format_version == 2
