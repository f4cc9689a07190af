"""Use of the machine: what a config says, else what its cores give, and words for devices."""

import logging
import os
from types import SimpleNamespace

import pytest
import torch

from tokenreel.cache.errors import MachineError, UsageError
from tokenreel.extract.backbone.base import BackboneShape, FrameTokens
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.flow import devices
from tokenreel.extract.flow.devices import (
    is_place_free,
    machine_for,
    named_failures,
    pick_device,
    pick_gpus,
    prepare_backbone,
)


@pytest.fixture
def gpus(monkeypatch):
    """A machine of 64 cores with two GPUs, of which nothing is used."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(devices, "num_threads", lambda processes: max(12 // processes, 1))


def machine(processes=1, window=1, **fields):
    config = ExtractConfig(**({"device": "cpu"} | fields))
    found = machine_for(config, processes=processes, window_frames=window)
    return found.batch_frames, found.workers, found.write_threads, found.mixes


@pytest.mark.usefixtures("gpus")
def test_a_machine_is_what_the_config_says_else_its_cores():
    assert machine() == (48, 12, 1, False)  # four frames a thread
    assert machine(12) == (8, 1, 1, False)
    assert machine(device="cuda") == (128, 24, 4, True)  # of 62 cores
    assert machine(8, device="cuda:1") == (128, 6, 4, True)  # of 8, without two
    assert machine(64, device="cuda") == (128, 1, 4, True)
    given = {"batch_frames": 10, "workers": 3, "write_threads": 2}
    assert machine(**given) == (10, 3, 2, False)
    assert machine(window=12, **given) == (12, 3, 2, False)
    assert machine(window=16, device="cuda")[0] == 128
    assert machine(window=5)[0] == 50


@pytest.mark.usefixtures("gpus")
def test_devices_are_picked_by_their_words():
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 0)
    assert pick_device("cuda:1").index == 1
    with pytest.raises(UsageError, match="'cuda:2': torch sees 2 CUDA devices"):
        pick_device("cuda:2")
    with pytest.raises(UsageError, match="'meta': not auto, cpu, cuda or cuda:N"):
        pick_device("meta")
    assert pick_gpus("all") == pick_gpus("2") == pick_gpus("0,1") == ("cuda:0", "cuda:1")
    assert pick_gpus("1,") == ("cuda:1",)
    assert pick_gpus("1") == ("cuda:0",)
    assert pick_gpus("cpu") == ("cpu",)
    for words in ("3", "0,2", "2,"):
        with pytest.raises(UsageError, match=f"--gpus {words}: torch sees 2 CUDA devices"):
            pick_gpus(words)
    for words in ("0", "x", "-1", "", "cpu,0"):
        with pytest.raises(UsageError, match="--gpus is all, how many, or numbers"):
            pick_gpus(words)


def test_without_a_gpu_all_of_them_are_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="--gpus all: torch sees 0 CUDA devices"):
        pick_gpus("all")


class Fake:
    """A backbone whose CLS, or normed CLS, depends on the place where it is told so."""

    shape = BackboneShape((0,), (1, 1), 1, (2, 2), True, frames_per_window=2, rows_per_window=3)

    def __init__(self, part):
        self._part = part

    def __call__(self, images):
        rows = images.float().mean(dim=(1, 2, 3)).reshape(-1, 2)[:, :1].repeat_interleave(3, 0)
        rows = rows + torch.arange(3).repeat(len(images) // 2)[:, None]
        values = {part: rows.clone() for part in ("tokens", "cls", "normed")}
        if self._part in values:
            values[self._part] += torch.arange(len(rows))[:, None]
        return FrameTokens({0: values["tokens"][:, None]}, {0: values["cls"]}, values["normed"])


def fake_machine(**fields):
    values = {"device": torch.device("cpu"), "batch_frames": 8, "mixes": True, "resizes": True}
    return SimpleNamespace(**(values | {"is_cuda": False} | fields))


@pytest.mark.parametrize("part", ["tokens", "cls", "normed", ""])
def test_batches_are_filled_across_clips_where_no_part_depends_on_the_place(part, caplog):
    assert is_place_free(Fake(part), fake_machine()) is (part == "")
    caplog.set_level(logging.INFO)
    real = devices.Machine(torch.device("cpu"), 8, True, False, True, 1, 1)
    found = prepare_backbone(Fake(part), real, compiles=True)
    assert (found.mixes, found.resizes) == ((True, True) if part == "" else (False, False))
    assert "compile_backbone is ignored on cpu" in caplog.text


def test_half_of_the_batch_is_advised_and_one_frame_at_least():
    for frames, advised in ((8, 4), (1, 1)):
        with pytest.raises(MachineError, match=f"set batch_frames={advised}, or free"):  # noqa: SIM117
            with named_failures(fake_machine(batch_frames=frames)):
                raise torch.OutOfMemoryError("CUDA out of memory")
