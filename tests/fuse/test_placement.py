"""Where codes stay: what is chosen, why, and that a bound is a bound."""

import logging
from dataclasses import replace

import pytest
import torch

from tests.fuse.tiny import tiny_config
from tokenreel.cache.errors import UsageError
from tokenreel.cache.reader import open_store
from tokenreel.fuse.config import PoolingConfig
from tokenreel.fuse.placement import available_memory_bytes, choose_placement, code_bytes
from tokenreel.fuse.source import TokenSource
from tokenreel.fuse.train import train

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("wanted", "memory", "kind", "reason"),
    [
        ("auto", 1000, "ram", "within 0.00 GB"),
        ("auto", 999, "disk", "more than 0.00 GB of ram"),
        ("ram", 1000, "ram", "asked for"),
        ("disk", 0, "disk", "asked for"),
    ],
)
def test_what_fits_is_kept_and_the_reason_is_told(wanted, memory, kind, reason):
    found = choose_placement(wanted, 1000, CPU, memory_bytes=memory)
    assert (found.kind, found.reason) == (kind, reason)
    assert found.num_bytes == (0 if kind == "disk" else 1000)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("ram", r"placement ram: 0\.00 GB of codes, 0\.00 GB may be used: take placement=disk"),
        ("gpu", r"placement gpu: the model runs on cpu; use ram, disk or auto"),
        ("tape", r"'tape' is none of auto, disk, ram, gpu"),
    ],
)
def test_what_does_not_fit_or_is_no_place_is_refused(wanted, message):
    with pytest.raises(UsageError, match=message):
        choose_placement(wanted, 1000, CPU, memory_bytes=10)


def test_the_choice_is_logged_before_training(store, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(
        tiny_config(), store=store, out=tmp_path / "run", device="cpu", memory_bytes=10,
        progress=False,
    )  # fmt: skip
    assert "GB of codes, placement disk: more than 0.00 GB of ram" in caplog.text


def test_the_size_is_that_of_codes_and_scales_of_the_blocks_used(store):
    opened = open_store(store)
    clips = opened.select(split="train")
    frames = sum(clip.num_frames for clip in clips)
    assert code_bytes(opened, clips, (1,)) == frames * 6 * (8 + 4)  # int8 codes, a float32 scale
    views = [replace(clip, num_views=3) for clip in clips]
    assert code_bytes(opened, views, (1,)) == 3 * code_bytes(opened, clips, (1,))
    assert code_bytes(opened, views, (1,), every_view=False) == code_bytes(opened, clips, (1,))
    source = TokenSource(opened, [tiny_config()], CPU)
    assert source.placement.num_bytes == 2 * frames * 6 * (8 + 4)


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_processes_of_torchrun_share_the_memory_of_the_machine(tmp_path, monkeypatch):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_memory_bytes(tmp_path) == 2000 * 1024


def test_cls_vectors_that_stay_are_counted(store):
    opened = open_store(store)
    clips = opened.select(split="train")
    frames = sum(clip.num_frames for clip in clips)
    config = tiny_config(pooling=PoolingConfig(kind="cls"))
    assert code_bytes(opened, clips, (), cls=True) == frames * 8 * 4
    for memory, kind in ((frames * 8 * 4, "ram"), (frames * 8 * 4 - 1, "disk")):
        source = TokenSource(opened, [config], CPU, memory_bytes=memory)
        assert source.placement.kind == kind


def test_a_limit_of_a_container_counts_as_the_memory_that_there_is(tmp_path):
    write(tmp_path, "proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    8000 kB\n")
    assert available_memory_bytes(tmp_path) == 8000 * 1024
    write(tmp_path, "proc/self/cgroup", "0::/a/b\n")
    write(tmp_path, "sys/fs/cgroup/a/memory.max", "3000000\n")
    write(tmp_path, "sys/fs/cgroup/a/memory.current", "2500000\n")
    write(tmp_path, "sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 100000\n")
    assert available_memory_bytes(tmp_path) == 600_000
    write(tmp_path, "sys/fs/cgroup/a/memory.max", "max\n")
    assert available_memory_bytes(tmp_path) == 8000 * 1024
