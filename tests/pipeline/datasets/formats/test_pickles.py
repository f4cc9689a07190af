"""Pickles: plain data is read, nothing is executed."""

import collections
import os
import pickle

import numpy as np
import pytest
import torch

from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.datasets.formats.pickles import read_plain_pickle


class Evil:
    def __init__(self, call, *words):
        self.parts = call, words

    def __reduce__(self):
        return self.parts


def write(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


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


def test_tensors_come_back_as_arrays(tmp_path):
    value = [torch.arange(12, dtype=torch.float32).reshape(3, 4)[1:, ::2], torch.tensor([1, 2])]
    read = read_plain_pickle(write(tmp_path / "tensor.pkl", value))
    np.testing.assert_array_equal(read[0], value[0].numpy())
    np.testing.assert_array_equal(read[1], [1, 2])


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
