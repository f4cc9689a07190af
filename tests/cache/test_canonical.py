"""The one reading of JSON: what it refuses, and what no file of ours may do to a command."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

import tokenreel
from tests.cache import stores
from tokenreel.cache.canonical import (
    canonical_json,
    field_differences,
    is_whole_number,
    open_seal,
    parse_object,
    read_json,
    seal,
)
from tokenreel.cache.embeddings import EmbeddedClip, read_embeddings, write_embeddings
from tokenreel.cache.errors import Damaged, EmbeddingFileError, UsageError
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.store_files import load_identity, read_failures, record_failure
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter

BOMB = b"[" * 100_000 + b"]" * 100_000
REFUSED = {
    "deep": (BOMB, "JSON of more than 64 levels"),
    "deep object": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "JSON of more than 64 levels"),
    "65 levels": (b"[" * 65 + b"]" * 65, "JSON of more than 64 levels"),
    "65 levels of objects": (b'{"a":' * 65 + b"1" + b"}" * 65, "JSON of more than 64 levels"),
    "65 levels of both": (b'[{"a":' * 32 + b"[]" + b"}]" * 32, "JSON of more than 64 levels"),
    "open and deep": (b"[" * 100_000, "JSON of more than 64 levels"),
    "NaN": (b'{"a": NaN}', "NaN is no JSON"),
    "infinity": (b'{"a": -Infinity}', "-Infinity is no JSON"),
    "beyond float64": (b'{"a": 1e999}', "1e999 is beyond a float64"),
    "beyond float64 below": (b'{"a": -1e999}', "-1e999 is beyond a float64"),
    "twice": (b'{"a": 1, "a": 2}', "the key 'a' is given twice"),
    "twice inside": (b'[{"b": {"a": 1, "c": 0, "a": 1}}]', "the key 'a' is given twice"),
    "latin-1": ('{"a": "é"}'.encode("latin-1"), "not UTF-8: byte 7 is 0xe9"),
    "utf-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8: byte 0 is 0xff"),
    "utf-32": ('{"a": 1}'.encode("utf-32-le"), "not JSON"),
    "mark": (b'\xef\xbb\xbf{"a": 1}', "not JSON"),
    "half a pair": (b'{"a": "\\ud800"}', "half of a surrogate pair"),
    "half a pair as a key": (b'{"\\uDC00": 1}', "half of a surrogate pair"),
    "65 bits": (b'{"a": 18446744073709551616}', "a whole number of 20 digits, beyond 64 bits"),
    "65 bits below": (
        b'{"a": -9223372036854775809}',
        "a whole number of 19 digits, beyond 64 bits",
    ),
    "4,500 digits": (b'{"a": -' + b"9" * 4500 + b"}", "a whole number of 4500 digits"),
    "10,000 digits": (b'{"a": ' + b"9" * 10_000 + b"}", "a whole number of 10000 digits"),
    "empty": (b"", "not JSON"),
    "torn": (b'{"a": 1', "not JSON"),
    "two": (b"{} {}", "not JSON"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_strict_json_is_damage_with_the_reason(data, reason):
    with pytest.raises(Damaged, match=f"file: {reason}") as found:
        parse_object(data, where="file")
    assert found.value.exit_status == 5


@pytest.mark.parametrize("data", [b"[]", b"null", b"3", b'"recipe"', b"true"])
def test_another_kind_at_the_top_is_damage(data):
    with pytest.raises(Damaged, match="file: not an object of names and values but"):
        parse_object(data, where="file")


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1.5, None, True], "é": "\x1f\U0001f600", "": {}},
        [[[]] * 200, 2**64 - 1, -(2**63), 1e308, 5e-324, -0.0],
        json.loads("[" * 64 + "]" * 64),
    ],
)
def test_what_is_written_is_read_again(value):
    assert read_json(canonical_json(value)) == value
    assert read_json(json.dumps(value)) == value  # escaped, as other programs write it


def test_equal_values_are_written_as_the_same_bytes():
    wanted = '{"A":{"c":[1,2.5],"d":null},"b":true,"é":"\U0001f600"}'.encode()
    assert canonical_json({"é": "\U0001f600", "b": True, "A": {"d": None, "c": [1, 2.5]}}) == wanted
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json([value])


def test_where_nan_is_allowed_all_else_is_as_strict():
    found = read_json('{"a": [NaN, Infinity, -Infinity, 1]}', allows_nan=True)["a"]
    assert str(found) == "[nan, inf, -inf, 1]"
    for name, (data, reason) in REFUSED.items():
        if name not in ("NaN", "infinity"):
            with pytest.raises(ValueError, match=reason):
                read_json(data, allows_nan=True)


def test_half_of_a_pair_in_a_text_is_refused_as_in_bytes():
    with pytest.raises(ValueError, match=r"half of a surrogate pair, '\\udc41', which is no text"):
        read_json('{"a": "\udc41"}')


def test_differences_name_each_field_that_one_side_has_or_both_have_otherwise():
    here = {"a": {"b": 1, "c": {"d": [1]}}, "same": {"x": 1}, "one": 0, "kind": {"y": 1}}
    there = {"a": {"b": 1, "c": {"d": [2], "e": 3}}, "same": {"x": 1}, "kind": 4}
    assert field_differences(here, there) == [
        ("a.c.d", [1], [2]),
        ("a.c.e", None, 3),
        ("kind", {"y": 1}, 4),
        ("one", 0, None),
    ]


def test_a_whole_number_has_at_most_18_digits_of_ascii():
    assert is_whole_number("9" * 18)
    assert not any(
        map(is_whole_number, ["9" * 19, "9" * 20, "", "-1", "+1", " 1", "1.0", "\u0663"])
    )


def test_no_module_reads_json_in_another_way():
    root = Path(tokenreel.__file__).parent
    others = {"extract/backbone/weight_files.py"}  # files of other programs, looser than ours
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("load", "loads"):
                name = node.value.id if isinstance(node.value, ast.Name) else ""
                found |= {path.relative_to(root).as_posix()} if name == "json" else set()
    assert found == others


@pytest.fixture
def store(tmp_path):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as writer:
        stores.write_clip(writer, "a", 3)
    record_failure(path, "b", stage="decode", reason="torn", details={})
    return path


def test_a_failure_record_that_was_altered_says_what_to_do(store):
    [record] = (store / "failed").glob("*.json")
    record.write_bytes(b"[]")
    with pytest.raises(Damaged, match="no checksum: delete this file, and its clip is tried again"):
        read_failures(store)
    record.unlink()
    assert read_failures(store) == []


HOSTILE = {name: data for name, (data, _) in REFUSED.items() if name not in ("mark", "utf-32")} | {
    "null": b"null",
    "list": b"[]",
    "number": b"7",
    "text": b'"a"',
}


def first(path, pattern):
    return sorted(path.glob(pattern))[0]


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_no_file_of_a_store_can_do_more_than_be_damaged(store, data):
    files = {
        "recipe.json": load_identity,
        "zarr.json": load_identity,
        "calibration/**/zarr.json": open_store,
        f"{folder_of(clip_key('a'))}/zarr.json": lambda path: open_store(path).read("a"),
        "failed/*.json": read_failures,
    }
    for pattern, read in files.items():
        file = first(store, pattern)
        former = file.read_bytes()
        file.write_bytes(data)
        if "clips" in pattern:  # the log has its record: reading it from the clip needs none
            first(store, "manifest/*.jsonl").write_bytes(b"")
        with pytest.raises(Damaged):
            read(store)
        assert verify_store(store).exit_status == 5
        file.write_bytes(former)


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_line_of_a_log_is_only_an_index(store, data):
    file = first(store, "manifest/*.jsonl")
    file.write_bytes(data.replace(b"\n", b"") + b"\n" + file.read_bytes())
    assert list(open_store(store).records) == ["a"]
    assert verify_store(store).exit_status == 5


def test_the_provenance_of_an_embedding_file_is_read_as_strictly(tmp_path):
    clips = [
        EmbeddedClip(
            "a", "val", "", "", np.zeros((2, 3), np.float32), np.zeros(2, np.int16), np.arange(2.0)
        )
    ]
    path = write_embeddings(tmp_path / "e.h5", clips, provenance={"run": "a"})
    arrays = {"embeddings": np.zeros((2, 3)), "lengths": [2], "clip_id": ["a"], "split": ["val"]}
    assert read_embeddings(path).provenance == {"run": "a"}
    for data, reason in REFUSED.values():
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            continue
        np.savez(tmp_path / "e.npz", provenance=text, **arrays)
        with pytest.raises(EmbeddingFileError, match=reason):
            read_embeddings(tmp_path / "e.npz")


@pytest.mark.parametrize("extra", [{"a": 2**64}, {"a": json.loads("[" * 80 + "]" * 80)}])
def test_what_could_not_be_read_again_is_not_written(tmp_path, extra):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as writer, pytest.raises(UsageError, match="extra"):
        writer.begin(
            stores.make_clip("a"),
            dataset="d",
            phases=(),
            source=stores.SOURCE,
            time_base=1,
            extra=extra,
        )


def test_a_sealed_object_with_one_bit_turned_is_refused_however_it_parses():
    whole = canonical_json(seal({"clip_id": "a", "attempts": 1}))
    for place in range(len(whole) * 8):
        altered = bytearray(whole)
        altered[place // 8] ^= 1 << place % 8
        with pytest.raises(Damaged):
            open_seal(parse_object(bytes(altered), where="x"), where="x")
