"""Pickles: plain data is read, nothing is executed, and nothing larger than the file is made."""

import collections
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pipeline.datasets.formats import pickle_inputs
from tests.pipeline.datasets.formats.pickle_inputs import HOSTILE, STOP, sound
from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.datasets.formats.pickles import read_plain_pickle

FIELD = os.environ.get("TOKENREEL_FIELD")
KEPT = sorted((Path(__file__).parent / "hostile").glob("*.pkl"))
FUZZ = "tests.pipeline.datasets.formats.pickle_fuzz"


class Evil:
    def __init__(self, call, *words):
        self.parts = call, words

    def __reduce__(self):
        return self.parts


def write(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def check_equal(read, value):
    """Equal in type, shape and value, throughout."""
    assert isinstance(read, type(value))
    if isinstance(value, np.ndarray | np.generic):
        assert (read.dtype, read.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(read, value)
    elif isinstance(value, dict):
        assert list(read) == list(value)
        for key in value:
            check_equal(read[key], value[key])
    elif isinstance(value, list | tuple):
        assert len(read) == len(value)
        for one, other in zip(read, value, strict=True):
            check_equal(one, other)
    else:
        assert read == value


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_arrays_and_tensors_come_back(tmp_path, protocol):
    value = {
        "list": [1, 2.5, "text", None, True, b"bytes"],
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "scalar": np.float32(1.5),
        "ordered": collections.OrderedDict(a=1),
    }
    read = read_plain_pickle(write(tmp_path / "plain.pkl", value, protocol))
    assert read["list"] == value["list"]
    np.testing.assert_array_equal(read["array"], value["array"])
    assert (read["scalar"], read["ordered"]) == (1.5, {"a": 1})


FIRST_PROTOCOL = {"sets": 4, "bytearray": 5}  # with an opcode for it; before it is a function


@pytest.mark.parametrize(
    ("name", "protocol"),
    [(name, p) for name in sound() for p in range(FIRST_PROTOCOL.get(name, 0), 6)],
)
def test_sound_values_are_read_as_they_were_written(tmp_path, name, protocol):
    value = sound()[name]
    check_equal(read_plain_pickle(write(tmp_path / "sound.pkl", value, protocol)), value)


def test_tensors_come_back_as_arrays(tmp_path):
    value = [torch.arange(12, dtype=torch.float32).reshape(3, 4)[1:, ::2], torch.tensor([1, 2])]
    read = read_plain_pickle(write(tmp_path / "tensor.pkl", value))
    np.testing.assert_array_equal(read[0], value[0].numpy())
    np.testing.assert_array_equal(read[1], [1, 2])


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "kind", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
)
def test_tensors_of_every_kind_are_read_without_torch(tmp_path, kind, protocol):
    whole = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, kind))
    value = [
        whole,
        whole[1].T,
        whole[:, 1:, ::3],
        whole[0, 0, 0],
        whole[:0],
        whole[:, :1].expand(2, 5, 4),
    ]
    read = read_plain_pickle(write(tmp_path / "tensor.pkl", value, protocol))
    for one, tensor in zip(read, value, strict=True):
        assert one.dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(one, tensor.numpy())


def test_a_tensor_of_a_kind_that_numpy_lacks_is_refused(tmp_path):
    path = write(tmp_path / "brain.pkl", torch.zeros(2, dtype=torch.bfloat16))
    with pytest.raises(UsageError, match=r"brain\.pkl: the pickle asks for torch\.BFloat16Storage"):
        read_plain_pickle(path)


def test_an_array_that_python_2_wrote_is_read(tmp_path):
    data = np.arange(250, 254, dtype="<u2").tobytes().ljust(300, b"\0")
    program = (
        b"\x80\x02}U\x04\xe9tat(U\x05textsU\x03abcU\x04name"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
        b"(K\x01K\x96\x85cnumpy\ndtype\nU\x02u2K\0K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\0tb\x89T\x2c\x01\0\0" + data + b"tbuu."
    )
    program = program.replace(b"}U\x04\xe9tat(U\x05textsU\x03abc", b"}(U\x04\xe9tatU\x03abc")
    program = program.replace(b"tbuu.", b"tbu.")
    path = tmp_path / "old.pkl"
    path.write_bytes(program)
    read = read_plain_pickle(path)
    assert read[b"\xe9tat"] == "abc"
    np.testing.assert_array_equal(read["name"][:4], [250, 251, 252, 253])
    assert read["name"].shape == (150,)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_in_one_sentence(tmp_path, name):
    program, words = HOSTILE[name]
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.PROTO + b"\x04" + program + STOP)
    with pytest.raises(UsageError) as raised:
        read_plain_pickle(path)
    message = str(raised.value)
    assert message.startswith("evil.pkl: ")
    assert words in message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_pickles_that_ended_the_reader_before_are_refused(path):
    with pytest.raises(UsageError, match=rf"{path.name}: (the pickle|not a pickle)"):
        read_plain_pickle(path)


@pytest.mark.skipif(not FIELD, reason="TOKENREEL_FIELD names no folder of failing inputs")
def test_every_pickle_of_the_field_is_refused():
    paths = sorted(Path(FIELD, "pickles").glob("*"))
    assert {path.name for path in KEPT} <= {path.name for path in paths}
    for path in paths:
        with pytest.raises(UsageError, match=path.name):
            read_plain_pickle(path)


@pytest.mark.parametrize(
    ("call", "name"), [(os.system, "system"), (eval, "eval"), (getattr, "getattr")]
)
def test_a_pickle_that_calls_a_function_is_refused_and_nothing_runs(tmp_path, call, name):
    marker = tmp_path / "ran"
    words = (os, "system") if call is getattr else (f"open({str(marker)!r}, 'w')",)
    if call is os.system:
        words = (f"touch {marker}",)
    if call is getattr:
        words = ("text", "upper")
    path = write(tmp_path / "evil.pkl", [Evil(call, *words)])
    with pytest.raises(UsageError, match=rf"evil\.pkl: the pickle asks for \w+\.{name}; only"):
        read_plain_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize("cut", [0, 1, 20, 60])
def test_a_pickle_that_is_cut_short_is_named(tmp_path, cut):
    path = write(tmp_path / "cut.pkl", {"array": np.arange(20)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UsageError, match=r"cut\.pkl: "):
        read_plain_pickle(path)


def test_a_pickle_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.pkl: No such file"):
        read_plain_pickle(tmp_path / "absent.pkl")


def test_the_largest_place_of_the_memo_takes_no_memory(tmp_path):
    path = tmp_path / "memo.pkl"
    path.write_bytes(b"\x80\x02K\x07r\xff\xff\xff\xff.")
    assert read_plain_pickle(path) == 7


def test_a_place_of_the_memo_that_was_filled_anew_is_not_built(tmp_path):
    unbuilt = b"cnumpy\ndtype\nX\x02\0\0\0i4K\0K\x01\x87R"
    state = b"(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0t"
    path = tmp_path / "memo.pkl"  # the dtype is kept as 0 and 1; 0 becomes 7 before it is built
    path.write_bytes(
        b"\x80\x02" + unbuilt + b"q\0q\1" + b"K\x07q\0" + b"0" + state + b"b" + b"0h\0."
    )
    assert read_plain_pickle(path) == 7


def test_values_that_are_built_again_and_again_take_no_longer_each_time(tmp_path):
    unbuilt = b"cnumpy\ndtype\nX\x02\0\0\0i4K\0K\x01\x87R"
    state = b"(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tq\0"
    kept = b"".join(b"r" + number.to_bytes(4, "little") for number in range(1, 20_001))
    path = tmp_path / "again.pkl"  # a state, then 20,000 places for one dtype, built 20,000 times
    path.write_bytes(b"\x80\x02" + state + unbuilt + kept + 20_000 * b"2h\0b0" + b"0.")
    started = time.process_time()
    assert isinstance(read_plain_pickle(path), tuple)
    assert time.process_time() - started < 8


def test_truth_values_are_0_and_1_whatever_their_bytes_are(tmp_path):
    state = pickle_inputs.dtype_state("|")
    made = pickle_inputs.array((3,), pickle_inputs.raw(b"\0\2\1"), pickle_inputs.dtype("b1", state))
    data = pickle_inputs.saved_storage([0, 2, 1], kind="BoolStorage")
    path = tmp_path / "truth.pkl"
    for program in (made, pickle_inputs.tensor(data, 0, (3,), (1,))):
        path.write_bytes(pickle.PROTO + b"\x04" + program + STOP)
        read = read_plain_pickle(path)
        assert read.dtype == bool
        assert read.view(np.uint8).tolist() == [0, 1, 1]


def test_a_lack_of_memory_is_a_sentence(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("tokenreel.pipeline.datasets.formats.pickles._check_plain", fail)
    with pytest.raises(UsageError, match=r"a\.pkl: not enough memory for this pickle"):
        read_plain_pickle(write(tmp_path / "a.pkl", [1]))


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenreel.pipeline.datasets.formats.pickles.MOST_BYTES", 2**20)
    path = tmp_path / "large.pkl"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UsageError, match=r"large\.pkl: has over 1 MiB, too many for labels"):
        read_plain_pickle(path)


def test_more_values_than_labels_can_be_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenreel.pipeline.datasets.formats.pickles.MOST_STEPS", 1000)
    path = write(tmp_path / "many.pkl", [0] * 2000)
    with pytest.raises(UsageError, match=r"many\.pkl: .*too many values: keep labels in arrays"):
        read_plain_pickle(path)


def run_fuzz(count, seconds, seed):
    """Feed mutated pickles to the reader, in a process whose end is seen; how many."""
    done = subprocess.run(
        [sys.executable, "-m", FUZZ, str(count), str(seconds), str(seed)],
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return int(done.stdout.split()[0])


def test_mutated_pickles_give_a_value_or_one_sentence():
    assert run_fuzz(count=1500, seconds=600, seed=0) == 1500


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mutated_pickles_give_a_value_or_one_sentence_for_ten_minutes():
    count = run_fuzz(count=2**40, seconds=600, seed=int.from_bytes(os.urandom(4), "little"))
    assert count > 20_000
