"""Features of the user's own: into a store as stated, or refused with what is wrong."""

import codecs
import importlib.util
import json
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from tokenreel.cache.embedding_arrays import array_specs
from tokenreel.cache.errors import EmbeddingFileError, UsageError, WrongIdentity
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools import import_features as import_module
from tokenreel.cache.tools import imported_clips
from tokenreel.cache.tools.export import export_store
from tokenreel.cache.tools.import_features import ImportStatement, import_features, read_statement
from tokenreel.cache.tools.maintenance import compare_stores
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.pipeline.cli.main import main

_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

STATED = {
    "dataset": "mine",
    "architecture": "i3d",
    "weights_sha256": "a" * 64,
    "blocks": [0],
    "grid": [1, 1],
    "dim": 12,
    "image_size": [224, 224],
    "transform": {"name": "theirs"},
    "fps": 12.5,
}


def statement(**changes) -> ImportStatement:
    return ImportStatement.model_validate(STATED | changes)


def features(folder: Path, **shapes) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        np.save(folder / f"{name}.npy", rng.standard_normal(shape).astype(np.float32))
    return folder


def test_a_folder_of_npy_features_becomes_a_clean_store(tmp_path):
    folder = features(tmp_path / "f", a=(70, 12), b=(3, 1, 12))
    (folder / "clips.csv").write_text("file,clip_id,split,action\nb,v/b,val,turn\n")
    assert import_features(folder, tmp_path / "s", statement()).written == ["a", "v/b"]
    assert import_features(folder, tmp_path / "s", statement()).written == []
    store = open_store(tmp_path / "s")
    want = np.load(folder / "a.npy").astype(np.float16)
    np.testing.assert_array_equal(store.read("a").codes[0][:, 0], want)
    assert (store.record("v/b").split, store.record("v/b").action) == ("val", "turn")
    assert store.times_seconds("a")[2] == pytest.approx(2 / 12.5)
    assert store.labels("a").tolist() == [-1] * 70
    assert store.made_with["made_by"] == "import"
    assert verify_store(tmp_path / "s", deep=True).problems == ()


def test_what_export_writes_is_imported_with_labels_times_and_words(tmp_path):
    path = stores.make_store(tmp_path / "s", "fp16")
    with StoreWriter(path, writer_id="w") as writer:
        for name in ("a/1", "v/2"):
            stores.write_clip(writer, name, 70)
    export_store(path, tmp_path / "out")
    fields = {"blocks": stores.BLOCKS, "grid": stores.GRID, "dim": stores.DIM}
    assert import_features(tmp_path / "out", tmp_path / "t", statement(**fields)).written == [
        "a/1",
        "v/2",
    ]
    here, there = open_store(path), open_store(tmp_path / "t")
    for name in here.records:
        for block in stores.BLOCKS:
            left, right = here.read(name).codes[block], there.read(name).codes[block]
            np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(here.labels(name), there.labels(name))
        np.testing.assert_allclose(here.times_seconds(name), there.times_seconds(name), atol=1e-5)
        for word in ("split", "action", "video", "phases"):
            assert getattr(here.record(name), word) == getattr(there.record(name), word)


def test_units_tags_and_bytes_survive_export_and_import(tmp_path):
    golden = Path(__file__).parents[2] / "golden" / "store_v2"
    export_store(golden, tmp_path / "out")
    fields = {"blocks": stores.BLOCKS, "grid": stores.GRID, "dim": stores.DIM, "unit": "scene"}
    import_features(tmp_path / "out", tmp_path / "t", statement(**fields))
    here, there = open_store(golden), open_store(tmp_path / "t")
    assert there.identity.unit == "scene"
    np.testing.assert_allclose(here.units("a/1"), there.units("a/1"), atol=1e-5)
    assert there.record("a/1").tags == ("comedy", "war")
    assert there.read_bytes("a/1", "text") == here.read_bytes("a/1", "text")
    assert verify_store(tmp_path / "t", deep=True).problems == ()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("units", np.zeros((4, 3)), r"units is \(4, 3\) for 4 units; wanted start and stop"),
        ("units", np.zeros((4, 2)), "units: one does not end after its start"),
        ("bytes/Text", np.zeros(4), r"bytes/Text is float64\(4,\) for 4 units; wanted variable-"),
    ],
)
def test_wrong_units_and_bytes_are_refused(tmp_path, name, values, message):
    (tmp_path / "f").mkdir()
    with h5py.File(tmp_path / "f" / "a.h5", "w") as file:
        file["tokens/0"], file[name] = np.zeros((4, 12)), values
    with pytest.raises(UsageError, match=message):
        import_features(tmp_path / "f", tmp_path / "s", statement())
    assert not (tmp_path / "s").exists()


def test_features_are_kept_by_the_stated_codec_within_a_hundredth(tmp_path):
    folder = features(tmp_path / "f", a=(70, 12), b=(9, 12))
    import_features(folder, tmp_path / "s", statement(codec="int8"))
    want = np.load(folder / "a.npy")
    found = open_store(tmp_path / "s").read("a").decode(0)[:, 0]
    assert np.linalg.norm(found - want) < 0.01 * np.linalg.norm(want)


@pytest.mark.parametrize(
    ("shapes", "changes", "words"),
    [
        ({"a": (5, 12), "b": (5, 13)}, {}, r"b\.npy: block 0 is \(5, 13\), stated are"),
        ({"a": (5, 4, 12)}, {}, r"stated are \(frames, 1 tokens, 12 channels\)"),
        ({"a": (0, 12)}, {}, "at least 1"),
        ({"a.0": (5, 12), "a.1": (6, 12)}, {"blocks": [0, 1]}, "wanted the same"),
        ({"a.0": (5, 12)}, {"blocks": [0, 1]}, r"has blocks \[0\], stated are \[0, 1\]"),
        ({"a": (5, 12)}, {"blocks": [0, 1]}, r"name it <name>\.<block>\.npy"),
        ({}, {}, r"no \.npy"),
    ],
)
def test_shapes_that_disagree_are_refused_before_anything_is_written(
    tmp_path, shapes, changes, words
):
    folder = features(tmp_path / "f", **shapes)
    with pytest.raises(UsageError, match=words):
        import_features(folder, tmp_path / "s", statement(**changes))
    assert not (tmp_path / "s").exists()


def test_wrong_files_and_tables_are_named(tmp_path):
    folder = features(tmp_path / "f", a=(5, 12))
    (folder / "clips.csv").write_text("file,split\nb,val\n")
    with pytest.raises(UsageError, match="no file 'b'"):
        import_features(folder, tmp_path / "s", statement())
    (folder / "clips.csv").write_text("file,split\na,vall\n")
    with pytest.raises(UsageError, match="train, val, test"):
        import_features(folder, tmp_path / "s", statement())
    (folder / "clips.csv").write_text("file,clip_id,video\na,a,../../v.mp4\n")
    with pytest.raises(UsageError, match="not a path below"):
        import_features(folder, tmp_path / "s", statement())
    (folder / "clips.csv").unlink()
    (folder / "a.npy").write_bytes((folder / "a.npy").read_bytes()[:-9])
    with pytest.raises(UsageError, match=r"a\.npy"):
        import_features(folder, tmp_path / "s", statement())
    np.save(folder / "a.npy", np.array([{}], object))
    with pytest.raises(UsageError, match="Python objects"):
        import_features(folder, tmp_path / "s", statement())
    (folder / "a.npy").unlink()
    with h5py.File(folder / "a.h5", "w") as file:
        file["tokens/0"], file["labels"] = np.zeros((4, 12)), np.zeros(3)
    with pytest.raises(UsageError, match=r"labels is \(3,\) for 4 frames"):
        import_features(folder, tmp_path / "s", statement())


TABLES = {  # how a spreadsheet saves it -> bytes
    "UTF-8 with a mark": codecs.BOM_UTF8 + b"file,split,action\r\na,train,salto\r\nb,val,salto\r\n",
    "UTF-16 with tabs": "file\tsplit\taction\na\ttrain\tsalto\nb\tval\tsalto\n".encode("utf-16"),
    "semicolons": b"file;split;action;\na;train;salto;\nb;val;salto;\n;;;\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_a_spreadsheet_names_splits_and_actions(tmp_path, name):
    folder = features(tmp_path / "f", a=(5, 12), b=(3, 12))
    (folder / "clips.csv").write_bytes(TABLES[name])
    assert import_features(folder, tmp_path / "s", statement()).written == ["a", "b"]
    records = open_store(tmp_path / "s").records
    assert [(records[c].split, records[c].action) for c in ("a", "b")] == [
        ("train", "salto"),
        ("val", "salto"),
    ]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("file,split\na,train\nb,val\na,val\n", r"csv:4: the file 'a' is listed at clips\.csv:2"),
        (
            "file,split\na,train\na,train\n",
            r"csv:3: the file 'a' is listed at clips\.csv:2 already",
        ),
        ("file,clip_id\na,x\nb,x\n", r"csv:3: the clip 'x' is listed at clips\.csv:2 already"),
        (
            "file,split\na,train\nb,val,x\n",
            r"csv:3: 3 cells where the header has 2, .* cell 3 is 'x'",
        ),
        ("file,split\na\n", r"csv:2: 1 cells where the header has 2, .* none for split"),
        (b"file,action\na,caf\xe9\n", r"csv:2: not UTF-8 text: byte 6 of the line is 0xE9"),
        ("file,split\nc.0,val\n", r"csv:2: no file 'c\.0' in "),
        ("file,split\na,vall\n", r"csv:2: split is 'vall', not one of train, val, test"),
        ("split\ntrain\n", r"csv:1: no column file; the columns are file,clip_id,video,split,"),
        ("file,spilt\na,val\n", r"csv:1: unknown column 'spilt', did you mean split\?"),
        ("file,split,split\na,val,train\n", r"csv:1: the column 'split' is listed twice"),
        ("", r"clips\.csv: empty, its first line is file,"),
    ],
)
def test_a_table_of_clips_that_is_wrong_is_refused_by_line(tmp_path, table, words):
    folder = features(tmp_path / "f", a=(5, 12), b=(3, 12))
    (folder / "clips.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(UsageError, match=words):
        import_features(folder, tmp_path / "s", statement())
    assert not (tmp_path / "s").exists()


@pytest.mark.skipif("TOKENREEL_FIELD" not in os.environ, reason="TOKENREEL_FIELD names no folder")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("import_bom", None),
        ("import_latin1", r"clips\.csv:2: not UTF-8 text: byte 12 of the line is 0xE9"),
        ("import_ragged", r"clips\.csv:3: 4 cells where the header has 3"),
    ],
)
def test_folders_of_the_field_are_imported_or_refused_by_line(tmp_path, name, words):
    field = Path(os.environ["TOKENREEL_FIELD"])
    stated = read_statement(field / "import_recipe.toml")
    if words is None:
        assert import_features(field / name, tmp_path / "s", stated).written == ["a", "b"]
        assert open_store(tmp_path / "s").record("b").split == "val"
        return
    with pytest.raises(UsageError, match=words):
        import_features(field / name, tmp_path / "s", stated)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_statement_is_read_in_the_encodings_of_editors(tmp_path, encoding, suffix):
    fields = STATED | {"dataset": "caf\u00e9"}
    transform = fields.pop("transform")
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    toml = "\r\n".join([*lines, "[transform]", f'name = "{transform["name"]}"'])
    text = toml if suffix == ".toml" else json.dumps(fields | {"transform": transform})
    path = tmp_path / f"statement{suffix}"
    path.write_bytes(text.encode(encoding))
    assert read_statement(path) == statement(dataset="caf\u00e9")


@pytest.mark.parametrize("kind", ["S", "U", "vlen"])
def test_attributes_of_bytes_are_text(tmp_path, kind):
    (folder := tmp_path / "f").mkdir()
    with h5py.File(folder / "a.h5", "w") as file:
        file["tokens/0"] = np.zeros((4, 12))
        words = {"clip_id": "caf\u00e9", "split": "val", "phases": '["a"]'}
        for name, text in words.items():
            file.attrs[name] = np.bytes_(text.encode()) if kind == "S" else text
            if kind == "vlen":
                file.attrs.create(name, text.encode(), dtype=h5py.string_dtype())
    assert import_features(folder, tmp_path / "s", statement()).written == ["caf\u00e9"]
    record = open_store(tmp_path / "s").record("caf\u00e9")
    assert (record.split, record.phases) == ("val", ("a",))


def test_an_attribute_in_another_encoding_is_refused(tmp_path):
    (folder := tmp_path / "f").mkdir()
    with h5py.File(folder / "a.h5", "w") as file:
        file["tokens/0"] = np.zeros((4, 12))
        file.attrs["action"] = np.bytes_(b"caf\xe9")
    with pytest.raises(UsageError, match=r"a\.h5: an attribute: .*caf.*is not UTF-8 text"):
        import_features(folder, tmp_path / "s", statement())


def test_nan_is_refused_with_its_place_and_nothing_of_the_clip_stays(tmp_path):
    folder = features(tmp_path / "f", a=(5, 12))
    values = np.load(folder / "a.npy")
    values[3, 2] = np.nan
    np.save(folder / "a.npy", values)
    with pytest.raises(UsageError, match=r"a\.npy: block 0, frame 3, token 0, channel 2"):
        import_features(folder, tmp_path / "s", statement())
    assert open_store(tmp_path / "s").records == {}
    assert not list((tmp_path / "s" / "clips").rglob(".tmp-*"))


def test_another_statement_is_refused_by_the_store(tmp_path):
    folder = features(tmp_path / "f", a=(5, 12))
    import_features(folder, tmp_path / "s", statement())
    with pytest.raises(WrongIdentity, match="architecture"):
        import_features(folder, tmp_path / "s", statement(architecture="slowfast"))


def test_a_statement_is_read_from_toml_and_json_and_its_faults_are_named(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(STATED))
    text = "\n".join(f"{k} = {json.dumps(v)}" for k, v in STATED.items() if not isinstance(v, dict))
    (tmp_path / "r.toml").write_text(text + '\n[transform]\nname = "theirs"\n')
    assert read_statement(path) == read_statement(tmp_path / "r.toml") == statement()
    path.write_text(json.dumps(STATED | {"gird": [1, 1], "dim": -1}))
    with pytest.raises(UsageError, match=r"dim: .*greater than 0.*gird: Extra"):
        read_statement(path)
    with pytest.raises(UsageError, match="No such file"):
        read_statement(tmp_path / "none.toml")
    (tmp_path / "r.toml").write_text("a b")
    with pytest.raises(UsageError, match="neither TOML nor JSON"):
        read_statement(tmp_path / "r.toml")


DOCS = Path(__file__).parents[3] / "docs" / "store.md"


def test_the_example_of_the_docs_runs(tmp_path, monkeypatch):
    after = DOCS.read_text(encoding="utf-8").partition("<!-- import:")[2]
    code, toml, command = re.findall(r"```\w*\n(.*?)```", after, re.DOTALL)[:3]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/store.md", "exec"), {})
    Path("statement.toml").write_text(toml)
    program, *words = command.split()
    assert program == "tokenreel"
    monkeypatch.setattr("sys.argv", ["tokenreel", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    store = open_store("stores/kitchen")
    one, two = store.record("kitchen/1"), store.record("kitchen/2")
    assert (one.split, one.action, one.phases, one.video) == (
        *("train", "pour", ("reach", "tilt")),
        "kitchen/1.mp4",
    )
    assert two.split == "val"
    np.testing.assert_array_equal(store.labels("kitchen/1"), np.repeat([0, 1], [30, 20]))
    np.testing.assert_array_equal(store.labels("kitchen/2"), np.repeat([0, 1], 25))
    assert store.times_seconds("kitchen/1")[30] == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"clips": "file,labels\na,l.npy\n"},
            r"clips\.csv:2: labels l\.npy is int64\(4,\), wanted .*\(5,",
        ),
        ({"clips": "file,labels\na,none.npy\n"}, r"clips\.csv:2: labels none\.npy: .*No such file"),
        ({"clips": "file,labels\na,../l.npy\n"}, r"clips\.csv:2: labels '\.\./l\.npy' leads out"),
        (
            {"clips": "file,labels\na,f.npy\n"},
            r"clips\.csv:2: labels f\.npy: label 0\.5 of frame 0 of a",
        ),
        ({"clips": "file,labels\na,m.npy\n"}, r"clips\.csv:2: labels m\.npy: frame 4 has phase -2"),
        (
            {"labels": "file,start_seconds,stop_seconds,phase\nb,0,1,0\n"},
            r"labels\.csv:2: no file 'b'",
        ),
        (
            {"labels": "file,start_seconds,stop_seconds,phase\na,9,10,0\n"},
            r"labels\.csv:2: no frame from 9",
        ),
        (
            {"labels": "file,start_seconds,stop_seconds,phase\na,0,.2,0\na,.1,.3,1\n"},
            r"labels\.csv:3: overlaps labels\.csv:2",
        ),
        (
            {"labels": "file,start_seconds,stop_seconds,phase\na,0,1,reach\n"},
            r"labels\.csv:2: unknown phase 'reach' \(known: numbers from 0",
        ),
        (
            {
                "clips": "file,labels\na,m.npy\n",
                "labels": "file,start_seconds,stop_seconds,phase\na,0,1,0\n",
            },
            r"clips\.csv:2: 'a' has labels here and at labels\.csv:2: give one",
        ),
    ],
)
def test_wrong_labels_are_named_by_file_and_line(tmp_path, tables, message):
    np.save(tmp_path / "a.npy", np.zeros((5, 12), np.float32))
    listed = tables.get("clips", "")
    for name, values in {"l": [0] * 4, "f": [0.5] * 5, "m": [0, 0, 0, 0, -2]}.items():
        if f"{name}.npy" in listed:
            np.save(tmp_path / f"{name}.npy", values)
    for name, text in tables.items():
        (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        import_features(tmp_path, tmp_path / "store", statement())
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("labels", np.float32([0, 0.5, 1]), r"label 0.5 of frame 1 of a.h5"),
        ("labels", np.array([0, 70_000, 1]), r"label 70000 of frame 1 of a.h5"),
        ("labels", np.array([0, 1j, 1]), r"labels are complex128, wanted whole numbers"),
        ("labels", np.array([b"a", b"b", b"c"]), r"labels are \|S1, wanted whole numbers"),
        ("labels", np.array([0, np.inf, 1]), r"label inf of frame 1"),
        ("times_seconds", np.array([0, np.nan, 1]), r"times_seconds are not all finite"),
        ("times_seconds", np.array([0, 2.0, 1]), r"times_seconds of frames 1 and 2 are 2 and 1:"),
    ],
)
def test_labels_and_times_that_would_be_cast_are_refused(tmp_path, name, values, message):
    folder = tmp_path / "f"
    folder.mkdir()
    with h5py.File(folder / "a.h5", "w") as file:
        file["tokens/0"] = np.ones((3, 12), np.float32)
        file[name] = values
    with pytest.raises(UsageError, match=message):
        import_features(folder, tmp_path / "s", statement())
    assert not (tmp_path / "s").exists()


def test_labels_that_are_nan_are_unlabelled_and_told(tmp_path, caplog):
    folder = tmp_path / "f"
    folder.mkdir()
    with h5py.File(folder / "a.h5", "w") as file:
        file["tokens/0"] = np.ones((3, 12), np.float32)
        file["labels"] = np.array([0, np.nan, 1])
    import_features(folder, tmp_path / "s", statement())
    assert "1 labels are NaN: read as -1, unlabelled" in caplog.text
    assert open_store(tmp_path / "s").labels("a").tolist() == [0, -1, 1]


@pytest.mark.parametrize("name", ["labels", "tokens/0"])
@pytest.mark.parametrize("kind", ["external storage", "a virtual array", "an external link"])
def test_bytes_of_another_file_are_not_read(tmp_path, kind, name):
    folder = tmp_path / "f"
    folder.mkdir()
    shape, dtype = ((3,), np.int16) if name == "labels" else ((3, 12), np.float32)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1000))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.zeros(shape, dtype)
    with h5py.File(folder / "a.h5", "w") as file:
        if name == "labels":
            file["tokens/0"] = np.ones((3, 12), np.float32)
        if kind == "external storage":
            file.create_dataset(name, shape, dtype, external=[(str(secret), 0, 1000)])
        elif kind == "a virtual array":
            layout = h5py.VirtualLayout(shape, dtype)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape)
            file.create_virtual_dataset(name, layout)
        else:
            file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")
    with pytest.raises(UsageError, match=f"the bytes of {name} lie in another file"):
        import_features(folder, tmp_path / "s", statement())
    if name == "labels":
        with pytest.raises(EmbeddingFileError, match="the bytes of labels lie in another file"):
            array_specs(folder / "a.h5")


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: np.save(f / "a.npy", np.ones((7, 12), "f4")), "was of 464 bytes (sha256 "),
        (lambda f: np.save(f / "a.npy", np.ones((9, 12), "f4")), ", is of 560 bytes (sha256 "),
        (lambda f: _edit(f / "labels.csv", "a,0,1,0", "a,0,1,2"), "other labels of frames"),
        (lambda f: _edit(f / "labels.csv", "a,0,1,0\n", ""), "other labels of frames"),
        (lambda f: _edit(f / "clips.csv", "a,train,turn", "a,val,turn"), "split was 'train', is"),
        (lambda f: _edit(f / "clips.csv", "a,train,turn", "a,train,leap"), "action was 'turn', is"),
        (lambda f: (f / "phases.csv").write_text("action,phase\nturn,x\n"), "phases was (), is"),
    ],
    ids=["features", "length", "phase", "no phase", "split", "action", "names"],
)
def test_features_and_labels_that_changed_are_listed_and_replaced_on_demand(
    tmp_path, change, message
):
    folder = features(tmp_path / "f", a=(7, 12), b=(3, 12))
    (folder / "clips.csv").write_text("file,split,action\na,train,turn\n")
    (folder / "labels.csv").write_text("file,start_seconds,stop_seconds,phase\na,0,1,0\n")
    store = tmp_path / "s"
    assert import_features(folder, store, statement()).exit_status == 0
    again = import_features(folder, store, statement())
    assert (again.written, again.changed, again.exit_status) == ([], {}, 0)
    before = open_store(store).read("a").codes[0].copy()
    change(folder)
    report = import_features(folder, store, statement())
    assert list(report.changed) == ["a"]
    assert message in report.changed["a"]
    assert (report.written, report.exit_status) == ([], 3)
    np.testing.assert_array_equal(open_store(store).read("a").codes[0], before)
    assert import_features(folder, store, statement(), changed="keep").exit_status == 0
    report = import_features(folder, store, statement(), changed="replace")
    assert (report.written, report.replaced, report.exit_status) == (["a"], ["a"], 0)
    fresh = tmp_path / "fresh"
    import_features(folder, fresh, statement())
    assert compare_stores(store, fresh).exit_status == 0
    assert import_features(folder, store, statement()).exit_status == 0


def test_another_rate_of_features_without_times_is_told(tmp_path):
    folder = features(tmp_path / "f", a=(7, 12))
    import_features(folder, tmp_path / "s", statement())
    report = import_features(folder, tmp_path / "s", statement(fps=25))
    assert report.changed == {"a": "was 25/2 frames/s, is 25 frames/s"}


def test_features_written_to_while_they_are_imported_are_refused(tmp_path, monkeypatch):
    folder = features(tmp_path / "f", a=(7, 12))
    encode = import_module._tokens

    def overwrite(rows, stated):
        tokens = encode(rows, stated)
        with (folder / "a.npy").open("r+b") as file:
            file.seek(-4, 2)
            file.write(b"\1\2\3\4")
        return tokens

    monkeypatch.setattr(import_module, "_tokens", overwrite)
    with pytest.raises(UsageError, match=r"a\.npy changed while it was imported"):
        import_features(folder, tmp_path / "s", statement())
    assert open_store(tmp_path / "s").records == {}


def test_features_that_were_noted_are_not_hashed_again(tmp_path, monkeypatch):
    folder = features(tmp_path / "f", a=(7, 12))
    os.utime(folder / "a.npy", (1e9, 1e9))
    import_features(folder, tmp_path / "s", statement())
    monkeypatch.setattr(imported_clips, "source_sha256", None)
    assert import_features(folder, tmp_path / "s", statement()).exit_status == 0


def test_a_file_of_labels_may_have_nan_for_none(tmp_path, caplog):
    folder = features(tmp_path / "f", a=(4, 12))
    np.save(folder / "steps.npy", np.array([np.nan, 0, 1, np.nan]))
    (folder / "clips.csv").write_text("file,labels\na,steps.npy\n")
    import_features(folder, tmp_path / "s", statement())
    assert open_store(tmp_path / "s").labels("a").tolist() == [-1, 0, 1, -1]
    assert "clips.csv:2: labels steps.npy: 2 labels are NaN" in caplog.text


def test_videos_of_imported_clips_are_not_compared_with_the_features(tmp_path):
    folder = features(tmp_path / "f", a=(7, 12))
    (folder / "clips.csv").write_text("file,video\na,a.mp4\n")
    import_features(folder, tmp_path / "s", statement())
    (tmp_path / "a.mp4").write_bytes(b"a video of another size")
    report = verify_store(tmp_path / "s", root=tmp_path)
    assert report.exit_status == 0
    assert "1 imported clip(s) left out, whose videos were never seen" in report.table()


@pytest.mark.parametrize("name", ["labels.csv", "clips.csv", "phases.csv"])
def test_tables_of_features_that_lead_nowhere_are_refused(tmp_path, name):
    folder = features(tmp_path / "f", a=(7, 12))
    (folder / name).symlink_to("unmounted/table.csv")
    with pytest.raises(UsageError, match="No such file"):
        import_features(folder, tmp_path / "s", statement())


def test_tables_of_other_names_are_told(tmp_path, caplog):
    folder = features(tmp_path / "f", a=(7, 12))
    (folder / "Labels.csv").write_text("file,start_seconds,stop_seconds,phase\na,0,1,0\n")
    import_features(folder, tmp_path / "s", statement())
    assert "1 table(s) are not read, such as Labels.csv" in caplog.text
