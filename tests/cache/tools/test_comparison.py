"""Two stores compared, and what is said of one: each field, each array, each count."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.cache import stores
from tokenreel.cache.codec import Encoded
from tokenreel.cache.format.store_files import create_store, record_failure
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.maintenance import (
    StoreDifference,
    compare_stores,
    diff_stores,
    store_info,
)
from tokenreel.cache.write.store_writer import StoreWriter

FRAMES = 66  # two segments


def make_store(path: Path, *, version: int = 2, names=("a",), changed="", views: int = 2) -> Path:
    """A store whose clips differ from those of another in one array, or one field."""
    identity, calibration = stores.make_identity(views=views)
    identity = identity.model_copy(update={"format_version": version})
    create_store(path, identity, made_with={}, calibration=calibration)
    with StoreWriter(path, writer_id="w") as writer:
        for name in names:
            write(writer, name, changed=changed, version=version)
    return path


def write(writer: StoreWriter, name: str, *, changed: str, version: int) -> None:
    source = replace(stores.SOURCE, mtime_ns=7 if changed == "time" else 5)
    source = replace(source, sha256="1" * 64) if changed == "source" else source
    clip = writer.begin(
        stores.make_clip(name),
        dataset="e" if changed == "dataset" else "d",
        phases=("x", "y"),
        source=source,
        time_base=Fraction(1, 25),
        byte_arrays=("text",) if version == 2 else (),
    )
    for view in range(writer.identity.num_views):
        is_last = view == writer.identity.num_views - 1
        encoded, cls = {}, {}
        for block in stores.BLOCKS:
            tokens = stores.make_tokens(name, view, block, FRAMES)
            made = writer.codec.encode(tokens, block=block, grid=stores.GRID)
            codes, scales, rows = made.codes.copy(), made.scales.copy(), tokens[:, 0].copy()
            if block == 3 and is_last:
                codes[65, 2, 1] += changed == "codes"
                scales[65, 2] *= 2 if changed == "scales" else 1
                rows[65, 1] += changed == "cls"
            encoded[block], cls[block] = Encoded(codes, scales), rows
        normed = stores.make_tokens(name, view, 3, FRAMES)[:, 0] * 2
        normed[65, 1] += changed == "normed cls" and is_last
        clip.append(view, encoded, cls, normed)
    if version == 2:
        clip.append_bytes("text", [b"y" if changed == "bytes" else b"x"] * FRAMES)
    arrays = {name: np.arange(FRAMES) for name in ("pts", "index")}
    arrays |= {"labels": np.arange(FRAMES) % 2, "flags": np.zeros(FRAMES, np.uint8)}
    stops = arrays["pts"] + 1
    if changed in arrays:
        arrays[changed] = arrays[changed].copy()
        arrays[changed][-1] += 1
    if changed == "stops":
        stops = stops.copy()
        stops[-1] += 4
    given = {"stop_pts": stops} if version == 2 and changed != "pts" else {}
    clip.commit(*arrays.values(), **given)


@pytest.mark.parametrize(
    ("version", "changed"),
    [
        *((2, name) for name in ("codes", "scales", "cls", "normed cls", "bytes")),
        *((2, name) for name in ("pts", "stops", "index", "labels", "flags", "dataset", "source")),
        *((1, name) for name in ("labels", "pts")),
    ],
)
def test_one_value_of_one_array_or_field_is_a_difference(tmp_path, version, changed):
    one = make_store(tmp_path / "a", version=version)
    two = make_store(tmp_path / "b", version=version, changed=changed)
    assert diff_stores(one, two) == ["differs: a"]
    assert diff_stores(two, one) == ["differs: a"]


def test_the_time_of_a_video_and_the_format_are_no_difference(tmp_path):
    one = make_store(tmp_path / "a")
    assert diff_stores(one, make_store(tmp_path / "b", changed="time")) == []
    plain = stores.make_store(tmp_path / "c")
    identity, calibration = stores.make_identity()
    old = identity.model_copy(update={"format_version": 1})
    create_store(tmp_path / "d", old, made_with={}, calibration=calibration)
    for path in (plain, tmp_path / "d"):
        with StoreWriter(path, writer_id="w") as writer:
            stores.write_clip(writer, "a", 3)
    assert [line for line in diff_stores(plain, tmp_path / "d") if "identity" not in line] == []


def test_clips_of_one_store_alone_are_named_by_store_and_counted_for_people(tmp_path):
    one = make_store(tmp_path / "a", names=("a", "c", "b"), views=1)
    two = make_store(tmp_path / "b", names=("d", "c"), views=1, changed="flags")
    found = compare_stores(one, two)
    assert found.identity == ()
    assert found.clips == {f"only in {one}": ["a", "b"], f"only in {two}": ["d"], "differs": ["c"]}
    lines = [f"only in {one}: a", f"only in {one}: b", f"only in {two}: d", "differs: c"]
    assert found.lines == lines
    assert found.table(clips=True) == "\n".join(lines)
    assert found.table() == "\n".join(
        [
            f"only in {one}: 2 clips, the first a (--clips names all)",
            f"only in {two}: 1 clip, the first d (--clips names all)",
            "differs: 1 clip, the first c (--clips names all)",
        ]
    )
    assert found.exit_status == 1
    same = compare_stores(one, one)
    assert (same.table(), same.table(clips=True), same.exit_status) == (
        *("no difference", "no difference"),
        0,
    )


def test_clips_of_stores_of_other_settings_are_not_compared(tmp_path):
    one, two = make_store(tmp_path / "a", views=1), stores.make_store(tmp_path / "b", "fp16")
    with StoreWriter(two, writer_id="w") as writer:
        stores.write_clip(writer, "a", 3)
    found = compare_stores(one, two)
    assert found.clips["differs"] == []
    assert "identity codec.name: 'int8' | 'fp16'" in found.identity
    only = StoreDifference(("identity x: 1 | 2",), {"differs": []})
    assert (only.table(), only.exit_status) == ("identity x: 1 | 2", 1)


def test_a_store_is_summed_up_in_one_line_a_field(tmp_path):
    path = make_store(tmp_path / "s", names=("a", "b"))
    for name in "cde":
        record_failure(path, name, stage="decode", reason="torn", details={})
    store = open_store(path)
    wanted = {
        "name": "s",
        "fingerprint": store.fingerprint,
        "uncalibrated": store.identity.before_calibration.fingerprint,
        "codec": "int8",
        "blocks": (1, 3),
        "num_views": 2,
        "num_clips": 2,
        "num_frames": 132,
        "num_token_bytes": 132 * 2 * 2 * 16 * 16,
        "num_failed": 3,
        "format_version": 2,
        "unit": "frame",
    }
    info = store_info(path)
    assert {name: getattr(info, name) for name in wanted} == wanted
    assert info.fingerprint != info.uncalibrated
    assert info.table().splitlines() == [f"{name:<16}{value}" for name, value in wanted.items()]
