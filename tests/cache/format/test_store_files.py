"""Files of a store: why a path is none, what is refused, twins, and records of failures."""

import json

import numpy as np
import pytest

from tests.cache import stores
from tokenreel.cache.canonical import canonical_json, open_seal, seal
from tokenreel.cache.errors import Damaged, StoreError, StoreNotFound, UsageError, WrongIdentity
from tokenreel.cache.format.store_files import (
    StoreFacts,
    array_files,
    create_store,
    create_twin,
    load_arrays,
    load_identity,
    read_failures,
    record_failure,
)


def create(path, **changes):
    identity, calibration = stores.make_identity()
    given = {"made_with": {"numpy": "any"}, "calibration": calibration}
    return create_store(path, identity, **(given | changes))


def test_a_path_that_is_no_store_says_what_it_is(tmp_path):
    def why(name):
        with pytest.raises(StoreNotFound) as told:
            load_identity(tmp_path / name)
        return str(told.value).removeprefix(f"{tmp_path / name}: ")

    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_bytes(canonical_json({"store_name": "pour"}))
    assert why("run") == "this is a run, not a store; its store is pour"
    (tmp_path / "run/run.json").write_bytes(b"{}")
    assert why("run") == ("this is a run, not a store: name the store that it was trained on")
    assert why("run/run.json") == "this is a file; a token store is a folder"
    assert why("none") == "no token store here (no recipe.json)"
    for names, told in ((("b", "a", ".h"), "a, b"), ("c", "a, b, c"), ("d", "a, b, c, ...")):
        for name in names:
            (tmp_path / "stores" / name).mkdir(parents=True)
            (tmp_path / "stores" / name / "recipe.json").touch()
        assert why("stores") == f"this folder holds stores, name one: {told}"


def test_a_twin_has_the_calibration_the_canary_and_the_facts(tmp_path):
    canary = {"pixels": np.arange(6, dtype=np.uint8).reshape(2, 3)}
    facts = StoreFacts("videos", ("f",), {"lab": 1})
    source = create(tmp_path / "s", canary=canary, facts=facts)
    twin = create_twin(tmp_path / "t", source)
    for folder in ("calibration", "canary"):
        first, second = load_arrays(source / folder), load_arrays(twin / folder)
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)
    assert load_arrays(twin / "canary")["pixels"].tolist() == [[0, 1, 2], [3, 4, 5]]
    attributes = load_identity(twin)[1]
    assert attributes == load_identity(source)[1]
    assert StoreFacts.of(attributes) == facts
    assert attributes["made_with"] == {"numpy": "any"}
    assert load_identity(create(tmp_path / "u"))[1]["canary_sha256"] is None
    assert array_files(twin / "canary") == {
        twin / "canary/pixels" / name for name in ("zarr.json", "c/0/0")
    }


def test_a_store_that_is_there_is_left_and_nothing_is_left_beside(tmp_path):
    path = create(tmp_path / "s")
    before = (path / "zarr.json").read_bytes()
    create(path, made_with={"numpy": "other"})
    assert (path / "zarr.json").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
    assert sorted(entry.name for entry in path.iterdir() if entry.is_dir()) == [
        *("calibration", "canary", "claims", "clips", "failed", "manifest")
    ]
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match="cannot create a store here") as told:
        create(tmp_path / "file/s")
    assert "Not a directory" in str(told.value)


def test_a_store_that_cannot_be_moved_to_its_place_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.rename", fail)
    with pytest.raises(StoreError, match="cannot create a store here: Input/output error"):
        create(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_format_1_keeps_no_facts(tmp_path):
    identity, calibration = stores.make_identity()
    old = identity.model_copy(update={"format_version": 1})
    given = {"made_with": {}, "calibration": calibration}
    with pytest.raises(UsageError, match="format 1 keeps no root"):
        create_store(tmp_path / "s", old, facts=StoreFacts("videos"), **given)


def rewrite(path, change):
    root = json.loads((path / "zarr.json").read_bytes())
    attributes = open_seal(root["attributes"]["tokenreel"], where=path)
    root = change(root, attributes) or root
    (path / "zarr.json").write_bytes(canonical_json(root))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root, _: root | {"zarr_format": 2}, "not a Zarr v3 group"),
        (lambda root, _: root | {"node_type": "array"}, "not a Zarr v3 group"),
        (
            lambda root, own: root | {"attributes": {"tokenreel": seal(own | {"made_with": 1})}},
            "lacks a fingerprint, or what made the store",
        ),
        (
            lambda root, own: (
                root | {"attributes": {"tokenreel": seal(own | {"fingerprint": "f" * 64})}}
            ),
            "zarr.json was written for ffffffffffff$",
        ),
        (lambda root, _: root | {"attributes": {}}, r"or zarr\.json is damaged: 'tokenreel'"),
    ],
    ids=["version", "kind", "made_with", "fingerprint", "attributes"],
)
def test_a_root_that_is_not_that_of_the_identity_is_damaged(tmp_path, change, words):
    path = create(tmp_path / "s")
    rewrite(path, change)
    with pytest.raises(Damaged, match=words):
        load_identity(path)


def test_a_later_format_or_field_is_refused_by_name(tmp_path):
    path = create(tmp_path / "s")
    values = json.loads((path / "recipe.json").read_bytes())
    (path / "recipe.json").write_text(json.dumps(values | {"format_version": 3}))
    with pytest.raises(WrongIdentity, match="format 3, this version reads 1 and 2: update"):
        load_identity(path)
    (path / "recipe.json").write_text(json.dumps(values | {"depth": 3}))
    with pytest.raises(WrongIdentity, match=r"recipe\.json has depth, which this version does not"):
        load_identity(path)


def test_arrays_with_other_metadata_or_behind_a_link_are_refused(tmp_path):
    path = create(tmp_path / "s", canary={"x": np.zeros(2, np.int8)})
    meta = path / "canary/x/zarr.json"
    values = json.loads(meta.read_bytes())
    for change, words in (
        ({"fill_value": 1}, "not metadata of the format"),
        ({"data_type": "float64"}, "float64"),
    ):
        meta.write_text(json.dumps(values | change))
        with pytest.raises(Damaged, match=words):
            load_arrays(path / "canary")
    (tmp_path / "link").symlink_to(path / "calibration")
    with pytest.raises(Damaged, match="is a symbolic link; a store holds files only"):
        load_arrays(tmp_path / "link")


def test_failures_are_counted_for_each_clip_and_listed_by_its_name(tmp_path):
    path = create(tmp_path / "s")
    for clip_id in ("a", "b", "a"):
        record_failure(path, clip_id, stage="open", reason="gone", details={"n": 1})
    assert [(r["clip_id"], r["attempts"], r["details"]) for r in read_failures(path)] == [
        ("a", 2, {"n": 1}),
        ("b", 1, {"n": 1}),
    ]
    [file, _] = sorted((path / "failed").glob("*.json"))
    file.write_bytes(file.read_bytes().replace(b"gone", b"here"))
    with pytest.raises(Damaged, match="delete this file, and its clip is tried again"):
        read_failures(path)
