"""A power cut: only what was flushed is sure to survive; no committed clip may be lost.

The disk that is simulated keeps, of each file, the bytes it had at its last fsync (none without
one) and, of each directory, the entries it had at its last fsync.  What was not flushed may have
survived all the same, in any mixture: so each cut is also tried with files and directories that
are by chance as they were flushed or as they are.
"""

import importlib.util
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache import files
from tokenreel.cache.embeddings import EmbeddedClip, read_embeddings, write_embeddings
from tokenreel.cache.errors import TokenReelError
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.store_files import read_failures, record_failure
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.copying import merge_store, recode_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write import clip_writer as clipwriter
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

NAMES = ["a/1", "v/2", "b"]


class Disk:
    """What of the tree below `live` is flushed; after every `every`-th flush a cut is tried."""

    def __init__(self, live: Path, cuts: Path, *, every: int, seed: int = 0) -> None:
        self.live, self.cuts, self.every = live, cuts, every
        self.promised: set[str] = set()
        self.tried: list[tuple[Path, set[str]]] = []
        self._flush, self._lock, self._count = os.fsync, threading.Lock(), 0
        self._rng = np.random.default_rng(seed)
        self._bytes: dict[int, bytes] = {}
        self._entries: dict[int, dict[str, int]] = {}
        self._folders: dict[int, int] = {}  # inode -> handle, so that no number is used again
        self._files = cuts / "files"  # links to files, likewise: handles are few
        self._files.mkdir()
        self._entries[live.stat().st_ino] = {}

    def fsync(self, handle: int) -> None:
        """In the place of os.fsync."""
        with self._lock:
            self._flush(handle)
            path = Path(f"/proc/self/fd/{handle}").readlink()
            if not path.is_relative_to(self.live):
                return
            status = os.fstat(handle)
            if stat.S_ISDIR(status.st_mode):
                if status.st_ino not in self._folders:
                    self._folders[status.st_ino] = os.dup(handle)
                self._entries[status.st_ino] = {
                    entry.name: entry.inode() for entry in os.scandir(handle)
                }
            else:
                if status.st_ino not in self._bytes:
                    os.link(path, self._files / f"{status.st_ino}")
                self._bytes[status.st_ino] = Path(f"/proc/self/fd/{handle}").read_bytes()
            self._count += 1
            if self._count % self.every == 0:
                self.cut()

    def cut(self) -> None:
        """Keep what a power cut could leave now: only what is flushed, and by chance more."""
        there = {path.stat().st_ino: path for path in self.live.rglob("*")}
        for chance in (0.0, 0.5, 1.0):
            target = self.cuts / f"{len(self.tried)}"
            self._restore(self.live.stat().st_ino, self.live, target, there, chance)
            self.tried.append((target, set(self.promised)))

    def _restore(self, inode: int, live: Path | None, target: Path, there, chance: float) -> None:
        target.mkdir()
        entries = dict(self._entries.get(inode, {}))
        if live is not None and self._rng.random() < chance:
            entries = {entry.name: entry.inode() for entry in os.scandir(live)}
        for name, child in entries.items():
            now = there.get(child)
            if child in self._entries or (now is not None and now.is_dir()):
                self._restore(child, now, target / name, there, chance)
                continue
            data = self._bytes.get(child, b"")
            if now is not None and self._rng.random() < chance:
                data = now.read_bytes()
            (target / name).write_bytes(data)

    def close(self) -> None:
        """Let go of the inodes."""
        for handle in self._folders.values():
            os.close(handle)


@pytest.fixture
def plug(tmp_path, monkeypatch):
    """Plug a disk in below tmp_path/live."""
    disks = []

    def plugged(every: int) -> Disk:
        (tmp_path / "live").mkdir()
        (tmp_path / "cuts").mkdir()
        disks.append(Disk(tmp_path / "live", tmp_path / "cuts", every=every))
        monkeypatch.setattr(os, "fsync", disks[0].fsync)
        return disks[0]

    yield plugged
    for disk in disks:
        disk.close()


def write_all(disk: Disk, path: Path) -> None:
    """A store, three clips and a quarantine record; each is promised once its call has returned."""
    stores.make_store(path, views=2)
    disk.promised.add("store")
    with StoreWriter(path, writer_id="w") as one:
        for name in NAMES:
            stores.write_clip(one, name, 70)
            disk.promised.add(name)
    record_failure(path, "bad", stage="decode", reason="torn", details={})
    disk.promised.add("failure")


def lost(disk: Disk, name: str) -> Iterator[str]:
    """What was promised and is not there, or is there and not whole, after any of the cuts."""
    for number, (tree, promised) in enumerate(disk.tried):
        try:
            store = open_store(tree / name)
            clips = promised & set(NAMES)
            yield from (f"cut {number}: {clip} is gone" for clip in clips - set(store.records))
            report = verify_store(tree / name, deep=True)
            yield from (f"cut {number}: {problem}" for problem in report.problems)
            if "failure" in promised and not read_failures(tree / name):
                yield f"cut {number}: the quarantine is empty"
        except TokenReelError as error:
            if "store" in promised or (tree / name).exists():
                yield f"cut {number}: {error}"


def test_no_committed_clip_is_lost(plug, tmp_path):
    disk = plug(every=23)
    write_all(disk, tmp_path / "live/s")
    disk.cut()
    assert len(disk.tried) > 40
    assert list(lost(disk, "s")) == []
    held = [len(promised & set(NAMES)) for _, promised in disk.tried]
    assert set(held) == {0, 1, 2, 3}


def test_after_a_cut_the_writer_goes_on_and_the_bytes_are_those_of_a_whole_run(plug, tmp_path):
    disk = plug(every=197)
    write_all(disk, tmp_path / "live/s")
    disk.every = 10**9
    for tree, _ in disk.tried:
        if not (tree / "s").exists():
            continue
        shutil.rmtree(tree / "s/claims")  # of a process that is no more
        with StoreWriter(tree / "s", writer_id="x") as again:
            for name in NAMES:
                if not again.is_committed(name):
                    stores.write_clip(again, name, 70)
        for name in NAMES:
            one, two = (path / folder_of(clip_key(name)) for path in (tree / "s", disk.live / "s"))
            names = sorted(p.relative_to(two) for p in two.rglob("*") if p.is_file())
            assert names == sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
            assert all((one / p).read_bytes() == (two / p).read_bytes() for p in names)


@pytest.mark.parametrize("copy", [merge_store, lambda a, b: recode_store(a, b, codec="int4")])
def test_copies_of_a_store_are_as_safe(plug, tmp_path, copy):
    stores.make_store(tmp_path / "source")
    with StoreWriter(tmp_path / "source", writer_id="w") as one:
        for name in NAMES:
            stores.write_clip(one, name, 70)
    disk = plug(every=31)
    if copy is merge_store:
        stores.make_store(tmp_path / "live/s")
        disk.promised.add("store")
    copy(tmp_path / "source", tmp_path / "live/s")
    disk.promised |= {"store", *NAMES}
    disk.cut()
    assert list(lost(disk, "s")) == []


def test_arrays_of_bytes_are_as_safe(plug, tmp_path):
    disk = plug(every=11)
    path = stores.make_store(tmp_path / "live/s")
    disk.promised.add("store")
    count = np.arange(70)
    with StoreWriter(path, writer_id="w") as writer:
        for name in NAMES:
            clip = stores.begin(writer, name, byte_arrays=("text",))
            stores.append(writer, clip, name, 70)
            clip.append_bytes("text", [f"{unit}".encode() for unit in count])
            clip.commit(count, count, count % 2, np.zeros(70, np.uint8))
            disk.promised.add(name)
    disk.cut()
    assert len(disk.tried) > 20
    assert list(lost(disk, "s")) == []


def test_an_embedding_file_is_the_old_one_or_the_new_one(plug, tmp_path):
    disk = plug(every=1)
    path = tmp_path / "live/e.h5"
    for seed in (1, 2):
        clip = EmbeddedClip(
            "a", "train", "", "", np.full((5, 2), seed, "f4"), np.zeros(5, np.int16), np.arange(5.0)
        )
        write_embeddings(path, [clip], provenance={"seed": seed})
        disk.promised.add(f"seed {seed}")
    disk.cut()
    for tree, promised in disk.tried:
        if promised:
            seed = int(read_embeddings(tree / "e.h5").provenance["seed"])
            assert seed >= len(promised)


def nothing(*_: object) -> None:
    """In the place of what flushes."""


@pytest.mark.parametrize(
    ("module", "name"),
    [(clipwriter, "sync_tree"), (clipwriter, "sync_directory"), (files, "sync_directory")],
)
def test_a_flush_that_is_left_out_is_seen_by_this_test(plug, tmp_path, monkeypatch, module, name):
    monkeypatch.setattr(module, name, nothing)
    disk = plug(every=23)
    write_all(disk, tmp_path / "live/s")
    disk.cut()
    assert any(lost(disk, "s"))
