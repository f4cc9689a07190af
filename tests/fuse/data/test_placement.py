"""Where codes stay: what is chosen, why, and that a bound is a bound."""

import logging
import threading
import weakref

import numpy as np
import pytest
import torch

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.fuse.config import ClsConfig, DataConfig, LstpConfig, OptimConfig
from tokenreel.fuse.data import placement
from tokenreel.fuse.data.placement import available_memory_bytes, choose_placement, frame_bytes
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.systems.base import make_source
from tokenreel.fuse.train.memory import most_frames
from tokenreel.fuse.train.run import Run
from tokenreel.fuse.train.train import train

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("wanted", "memory", "kind", "reason"),
    [
        ("auto", 1000, "ram", "within 0.00 GB"),
        ("auto", 999, "disk", "more than 0.00 GB of ram"),
        ("ram", 1000, "ram", "requested"),
        ("disk", 0, "disk", "requested"),
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


@pytest.mark.parametrize(
    ("wanted", "memory", "kind", "ahead"),
    [
        ("auto", 1400, "ram", 2),
        ("auto", 1399, "ram", 1),
        ("auto", 1100, "ram", 0),
        ("auto", 1099, "disk", 2),
        ("disk", 399, "disk", 1),
        ("disk", 100, "disk", 0),
    ],
)
def test_batches_on_their_way_are_within_the_bound_with_what_stays(wanted, memory, kind, ahead):
    found = choose_placement(wanted, 1000, CPU, memory_bytes=memory, batch_bytes=100)
    assert (found.kind, found.ahead) == (kind, ahead)


@pytest.mark.parametrize("wanted", ["auto", "disk"])
def test_a_batch_that_no_memory_holds_is_refused(wanted):
    with pytest.raises(UsageError, match=r"up to 3\.00 GB of codes are read at once, 2\.00 GB may"):
        choose_placement(wanted, 10**10, CPU, memory_bytes=2 * 10**9, batch_bytes=3 * 10**9)


def test_the_choice_is_logged_before_training(store, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(
        tiny_config(),
        store=store,
        out=tmp_path / "run",
        device="cpu",
        memory_bytes=6000,
        progress=False,
    )
    assert "GB of codes, placement disk: more than 0.00 GB of ram; up to 0.00 GB" in caplog.text
    assert "at once, 0 batches ahead" in caplog.text


@pytest.mark.parametrize(
    ("data", "world", "frames"),
    [
        (DataConfig(num_frames=6, batch_clips=2), 1, 12 + 12 + 12),  # 5 clips: the last is joined
        (DataConfig(num_frames=8, batch_clips=4), 1, 16 + 15 + 12 + 9 + 6),
        (DataConfig(num_frames=8, batch_clips=4), 2, 16 + 15 + 12),
        (DataConfig(num_frames=8, batch_clips=2, views="all"), 1, 16 + 16 + 16),
        (DataConfig(num_frames=2, batch_clips=2), 1, 18),  # the longest clip is embedded at once
    ],
)
def test_frames_at_once_are_those_of_the_largest_batch_or_of_the_longest_clip(
    store, data, world, frames
):
    assert most_frames(tiny_config(data=data), open_store(store), world=world) == frames


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("long") / "s", train=16, first_frames=300)


@pytest.mark.parametrize(("batches", "used"), [(1, 1), (2, 1), (3, 3), (4, 4), (9, 4)])
@pytest.mark.parametrize("placement", ["disk", "ram"])
def test_codes_in_memory_are_never_more_than_the_bound(
    long_clips, tmp_path, monkeypatch, batches, used, placement
):
    config = tiny_config(
        data=DataConfig(num_frames=16, batch_clips=4, held_out=0.25, sampling="uniform"),
        optim=OptimConfig(lr=1e-2, epochs=3, evaluate_epochs=1),
    )
    opened = open_store(long_clips)
    each = frame_bytes(opened, (1, 3))
    batch = most_frames(config, opened) * each
    frames = sum(clip.num_frames for clip in opened.select(split="train"))
    stays = frames * each if placement == "ram" else 0
    held, most, is_ahead = {}, [], threading.Event()
    read, backward = TokenSource.read, Run.backward

    def counted(self, pieces):
        found = read(self, pieces)
        for part in (*found.codes.values(), *found.scales.values()):
            memory = part.untyped_storage()
            held[id(memory)] = memory.nbytes()
            weakref.finalize(memory, held.pop, id(memory))
        most.append(sum(held.values()))
        if len(most) >= used:
            is_ahead.set()
        return found

    def wait_and_step(*arguments):
        assert is_ahead.wait(300)  # until batches are read as far ahead as they may be
        return backward(*arguments)

    monkeypatch.setattr(TokenSource, "read", counted)
    monkeypatch.setattr(Run, "backward", wait_and_step)
    train(
        config,
        store=long_clips,
        out=tmp_path / "run",
        device="cpu",
        progress=False,
        memory_bytes=stays + batches * batch,
        placement=placement,
    )
    assert (used - 0.1) * batch < max(most) <= used * batch


def test_the_size_is_that_of_codes_and_scales_of_the_blocks_used(store, tmp_path):
    opened = open_store(store)
    frames = sum(clip.num_frames for clip in opened.select(split="train"))
    assert frame_bytes(opened, (1,)) == 6 * (8 + 4)  # int8 codes, a float32 scale
    source = make_source(opened, [tiny_config()], CPU)
    assert source.placement.num_bytes == 2 * frames * 6 * (8 + 4)
    views = open_store(write_store(tmp_path / "s", views=3))
    for words, count in (("clean", 1), ("augmented", 3)):
        config = tiny_config(data=DataConfig(views=words))
        assert make_source(views, [config], CPU).placement.num_bytes == (
            count * source.placement.num_bytes
        )


def test_what_is_not_read_yet_is_all_at_first_and_nothing_after_an_epoch(store):
    config = tiny_config(pooling=LstpConfig(num_entities=2, num_dynamic=1, channels=8))
    source = make_source(open_store(store), [config], CPU, placement="ram")
    assert source.unread_bytes == source.placement.num_bytes > 0
    first, *others = source.store.select(split="train")
    source.frames(first.clip_id, np.arange(1))
    assert 0 < source.unread_bytes < source.placement.num_bytes
    for clip in others:
        source.frames(clip.clip_id, np.arange(1))
    assert source.unread_bytes == 0


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
    config = tiny_config(pooling=ClsConfig())
    assert frame_bytes(opened, (), cls=True) == 8 * 4
    for memory, kind in ((frames * 8 * 4, "ram"), (frames * 8 * 4 - 1, "disk")):
        source = make_source(opened, [config], CPU, memory_bytes=memory)
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


@pytest.mark.parametrize(("num_bytes", "kind"), [(500, "ram"), (501, "disk")])
def test_without_a_bound_codes_take_half_of_the_memory_that_is_available(
    monkeypatch, num_bytes, kind
):
    monkeypatch.setattr(placement, "available_memory_bytes", lambda: 1000)
    assert choose_placement("auto", num_bytes, CPU).kind == kind


@pytest.mark.parametrize(("taken", "kind"), [(0, "ram"), (400, "ram"), (401, "disk")])
def test_what_other_stores_will_take_is_no_room(taken, kind):
    found = choose_placement(
        "auto", 500, CPU, memory_bytes=1000, batch_bytes=100, taken_bytes=taken
    )
    assert found.kind == kind
    with pytest.raises(UsageError, match="are read at once"):
        choose_placement("auto", 500, CPU, memory_bytes=1000, batch_bytes=100, taken_bytes=901)
