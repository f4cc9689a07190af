"""What the claims cost, and how long the last clip takes, from 1 to 1,024 workers on one store.

    python benchmarks/scale_simulation.py [--quick]

The operations that a clip costs are counted while the code of the claims runs on a folder here; the
workers, their failures and their stragglers are simulated, with a seed.  So the rows say nothing of
a machine: they say what the protocol does at 2 ms an operation, as on a shared disk, and at 30 ms a
request, as on a bucket, where claims are taken in batches: of requests side by side one is counted,
and ended claims are deleted with the heartbeats.

A worker looks at the store's folders when it starts, takes the clips of its share, longest first,
then lists the store and takes what is left of the others', in the order of the code.  One that
fails loses its clip and starts again after 30 s; its claim is dead at once, as where a driver sees
the death, or after 300 s without a heartbeat, and the driver gives the clip to a worker that has
nothing left.
"""

import heapq
import io
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from harness import Row, Timing, make_row, quick_flag, write_rows
from obstore.store import MemoryStore

from tokenreel.cache.bucket import objects as objects_module
from tokenreel.cache.bucket.objects import REQUESTS, Bucket, ObjectState
from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.files import clock_of, names_in
from tokenreel.cache.format import bucket_store, index
from tokenreel.cache.format.clip import SourceInfo, clip_key, folder_of
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.index import committed_keys, is_committed
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.manifest import Clip
from tokenreel.cache.write import bucket_claims, bucket_writer, store_writer
from tokenreel.cache.write import claims as claims_module
from tokenreel.cache.write.claims import (
    EXPIRY_SECONDS,
    ClaimHeld,
    WriterClaims,
    is_live,
    take_claim,
)
from tokenreel.cache.write.clip_writer import ClipWriter
from tokenreel.cache.write.store_writer import StoreWriter, scan_clips
from tokenreel.extract.flow.clip_queue import MOST_LOOKS, HelpOrder, batches_of

CALLS = ("stat", "lstat", "open", "link", "unlink", "rename", "mkdir", "utime", "scandir")
CALLS += ("listdir",)
OPERATION_SECONDS = 0.002  # a shared disk
CLIP_SECONDS = 1.0
CLIPS_A_WORKER = 200
FAILURE_SECONDS = 3600.0  # mean time of a worker until it fails
RESTART_SECONDS = 30.0
SLOW_SHARE, SLOW_FACTOR = 0.02, 3.0  # stragglers
REQUEST_SECONDS = 0.03  # a bucket
OBJECTS_A_CLIP = 30
BUCKET_WORKERS = 256
CLIP = {"dataset": "d", "phases": (), "time_base": Fraction(1, 25)}
CLIP |= {"source": SourceInfo("v", 1, "0" * 64, "pyav", "1", {})}
SEEDS = 3
WORKERS = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Operations:
    """Operations of the file system, counted; claims of others are those of another host.

    Attributes:
        start: of a writer: a look at each of the 256 folders of clips.
        listing: of the store's clips and of its claims, before a writer helps.
        take: a claim and its end; the clip's own files are not counted.
        refused: a claim that is taken, of the writer's own share.
        look_done: at a clip of another's share that is committed.
        help: a look at one that is free, its claim, and its end.
        look_begun: at one that was free when the store was listed, and has a claim now.
        look_held: at one that had a claim then, and has a live one now.
        take_over: a look at one whose claim is dead, the claim in its place, and its end.
        beat: of all claims of a writer.
    """

    start: float
    listing: float
    take: float
    refused: float
    look_done: float
    help: float
    look_begun: float
    look_held: float
    take_over: float
    beat: float


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts the calls of this thread that ask a file system."""
    count: Counter[str] = Counter()
    thread = threading.get_ident()

    def wrap(name: str, real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if threading.get_ident() == thread:
                count[name] += not str(args[0]).startswith("/proc/")  # this host's, not the disk's
            return real(*args, **options)

        return call

    patches = [patch.object(os, name, wrap(name, getattr(os, name))) for name in CALLS]
    patches.append(patch.object(io, "open", wrap("open", io.open)))
    for one in patches:
        one.start()
    try:
        yield count
    finally:
        for one in patches:
            one.stop()


def count_operations() -> Operations:
    """Count what the claims do, on a folder of this machine."""
    with tempfile.TemporaryDirectory() as name:
        store, claims = Path(name), Path(name) / "claims"
        claims.mkdir()
        for number in range(256):
            (store / "clips" / f"{number:02x}").mkdir(parents=True)
        done = store / folder_of(clip_key("done"))
        done.mkdir()
        (done / "zarr.json").touch()
        mine = WriterClaims(claims, owner="mine")
        mine.take("first")  # writes the writer's file
        clock_of(claims)  # asked once a minute
        found: dict[str, Callable[[], Any]] = {}
        found["start"] = lambda: scan_clips(store, sweep_seconds=1.0)
        found["listing"] = lambda: (committed_keys(store), names_in(claims))
        found["take"] = lambda: mine.take("clip").release()
        found["beat"] = mine.beat
        found["look_done"] = lambda: is_committed(store, "done")
        found["help"] = lambda: (
            is_committed(store, "clip"),
            (claims / "clip.json").is_file(),
            mine.take("clip").release(),
        )
        with patch("socket.gethostname", return_value="elsewhere"):
            take_claim(claims, "held", owner="theirs", expiry_seconds=EXPIRY_SECONDS)
            take_claim(claims, "dead", owner="theirs", expiry_seconds=EXPIRY_SECONDS)
        os.utime(claims / "dead.json", (1, 1))
        found["look_begun"] = lambda: (is_committed(store, "h"), (claims / "held.json").is_file())
        found["look_held"] = lambda: (is_committed(store, "h"), is_live(claims / "held.json"))

        def refused() -> None:
            with suppress(ClaimHeld):
                mine.take("held")

        found["refused"] = refused
        found["take_over"] = lambda: (
            is_committed(store, "dead"),
            is_live(claims / "dead.json"),
            mine.take("dead").release(),
        )
        counts = {}
        for what, call in found.items():
            with counted() as count:
                call()
            counts[what] = sum(count.values())
        mine.release_all()
    return Operations(**counts)


class Requests:
    """Counts the requests to a bucket in memory; of those side by side the longest chain.

    Attributes:
        count: of requests that one has to wait for after another.
        objects_a_page: of a listing.
    """

    def __init__(self) -> None:
        self.count, self.objects_a_page = 0, 1000
        self._thread = threading.get_ident()  # the heartbeats of writers are another's

    def patches(self) -> list[Any]:
        """What counts: every request of a bucket, the pages of a listing, and what is parallel."""
        call, objects, level = Bucket._call, Bucket.objects, Bucket.level

        def counted_call(bucket: Bucket, *args: Any, **options: Any) -> Any:
            self.count += threading.get_ident() == self._thread
            return call(bucket, *args, **options)

        def counted_objects(bucket: Bucket, prefix: str = "") -> list[ObjectState]:
            found = objects(bucket, prefix)
            self.count += max(len(found) - 1, 0) // self.objects_a_page
            return found

        def counted_level(bucket: Bucket, prefix: str = "") -> tuple[list[str], list[ObjectState]]:
            folders, found = level(bucket, prefix)
            if "/clips/" in prefix:  # the folders of 256 are never more than a page
                self.count += max(len(folders) - 1, 0) // self.objects_a_page
            return folders, found

        modules = (bucket_claims, bucket_store, bucket_writer, index, store_writer)
        return [
            patch.object(Bucket, "_call", counted_call),
            patch.object(Bucket, "objects", counted_objects),
            patch.object(Bucket, "level", counted_level),
            patch.dict(objects_module._clients, {("gs", "bucket"): MemoryStore()}),
            *(patch.object(module, "in_parallel", self.in_parallel) for module in modules),
        ]

    def in_parallel(self, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """In the place of objects.in_parallel."""
        found = []
        for start in range(0, len(items), REQUESTS):
            before, longest = self.count, 0
            for item in items[start : start + REQUESTS]:
                self.count = before
                found.append(work(item))
                longest = max(longest, self.count - before)
            self.count = before + longest
        return found


def count_requests(
    num_clips: int = CLIPS_A_WORKER, num_workers: int = BUCKET_WORKERS
) -> Operations:
    """Count the requests to a bucket that a writer waits for.

    Args:
        num_clips: of its share.
        num_workers: on the store, each with a share of that size.
    """
    requests = Requests()
    identity = StoreIdentity(
        architecture="tiny",
        weights_sha256="0" * 64,
        blocks=(0,),
        grid=(1, 1),
        dim=1,
        image_size=(8, 8),
        transform={},
        frames={"policy": "all"},
        codec={"name": "fp16", "calibration_sha256": None},
    )
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(patch.dict(os.environ, {"TOKENREEL_CACHE_DIR": folder}))
        for one in requests.patches():
            stack.enter_context(one)
        store = create_store(store_path("gs://bucket/store"), identity, made_with={})
        claims, bucket = store / "claims", Bucket("gs", "bucket")
        counts: dict[str, float] = {}

        def note(what: str, call: Callable[[], Any], share: float = 1.0) -> None:
            before = requests.count
            call()
            counts[what] = (requests.count - before) * share

        def begin(writer: StoreWriter, name: str) -> ClipWriter:
            return writer.begin(Clip(name, name), **CLIP)

        def take() -> None:
            for batch in batches_of([f"c{number}" for number in range(num_clips)]):
                writer.claim_ahead(batch)
                for name in batch:
                    assert writer.is_free_ahead(name)
                    begin(writer, name).abort()

        def look(name: str, *, is_free: bool) -> None:
            writer.claim_ahead([name])
            assert writer.is_free_ahead(name) is is_free
            if is_free:
                begin(writer, name).abort()

        note("start", lambda: StoreWriter(store, writer_id="first"))
        writer = StoreWriter(store, writer_id="mine")
        clock_of(claims)  # asked once a minute
        note("take", take, 1 / num_clips)
        with patch("socket.gethostname", return_value="elsewhere"):
            begin(StoreWriter(store, writer_id="theirs"), "held")
        bucket.put(f"store/{folder_of(clip_key('done'))}/zarr.json", b"{}")
        note("refused", lambda: look("held", is_free=False))
        counts["look_held"] = counts["look_begun"] = counts["refused"]
        note("look_done", lambda: look("done", is_free=False))
        note("help", lambda: look("free", is_free=True))
        begin(writer, "beaten")
        note("beat", writer._claims.beat)  # and the end of the claims until then
        with patch.object(claims_module, "clock_of", return_value=time.time() + 1000):
            note("take_over", lambda: look("held", is_free=True))
        for number in range(256):  # one clip of each folder, for all of them
            clip = f"store/clips/{number:02x}/clip-{number:02x}000000"
            for name in ("zarr.json", *map(str, range(OBJECTS_A_CLIP - 1))):
                bucket.put(f"{clip}/{name}", b"")
        requests.objects_a_page = max(1000 * 256 // (num_clips * num_workers), 1)
        note("listing", writer.survey)
    return Operations(**counts)


@dataclass(frozen=True)
class Result:
    """A simulated run.

    Attributes:
        overhead: share of the workers' time until the end that is operations of the claims.
        seconds: until the last clip.
        ideal_seconds: of work that is spread evenly and costs no operation.
        tail_seconds: from the moment that 99 % of the clips are done to the end.
        operations_a_second: of all workers, on average.
        failures: of workers.
    """

    overhead: float
    seconds: float
    ideal_seconds: float
    tail_seconds: float
    operations_a_second: float
    failures: int


class Helper:
    """The clips that a worker found when it began to help.

    Args:
        free: without a claim.
        held: with one, of writers that may have died.
        worker, num_workers: i and n of its share.
    """

    def __init__(self, free: np.ndarray, held: np.ndarray, worker: int, num_workers: int) -> None:
        self.free, self.order = free, HelpOrder(len(free), (worker, num_workers))
        start = len(held) * worker // num_workers
        self.held = np.roll(held, -start)[:MOST_LOOKS].tolist()


def simulate(
    num_workers: int,
    operations: Operations,
    *,
    operation_seconds: float = OPERATION_SECONDS,
    clips_a_worker: int = CLIPS_A_WORKER,
    sees_deaths: bool = True,
    seed: int = 0,
) -> Result:
    """Simulate a run.

    Args:
        num_workers: N.
        operations: that the claims cost.
        operation_seconds: of each.
        clips_a_worker: clips over N.
        sees_deaths: whether the claim of a dead worker is dead at once.
        seed: of lengths, failures and stragglers.
    """
    rng = np.random.default_rng([seed, num_workers])
    count = num_workers * clips_a_worker
    length = np.sort(rng.lognormal(0.0, 0.7, count))[::-1]
    length *= CLIP_SECONDS / length.mean()
    speed = np.where(rng.random(num_workers) < SLOW_SHARE, SLOW_FACTOR, 1.0)
    speed[0] = 1.0
    done_at = np.full(count, np.inf)
    held_until = np.zeros(count)  # by a claim, or by that of a worker that failed
    cursor = np.arange(num_workers)  # in its own share
    helpers: dict[int, Helper] = {}
    given: dict[int, list[int]] = {}  # by the driver
    begun: set[int] = set()
    spent, failures = 0.0, 0
    events = [(0.0, worker) for worker in range(num_workers)]
    heapq.heapify(events)
    fails_at = rng.exponential(FAILURE_SECONDS, num_workers)
    left = count
    idle: set[int] = set()

    def choose(worker: int, now: float) -> tuple[int, int]:
        """The next clip of a worker, or -1, and the operations until it has it."""
        cost = 0 if worker in begun else operations.start
        begun.add(worker)
        while given.get(worker):
            clip = given[worker].pop()
            if done_at[clip] > now >= held_until[clip]:
                return clip, cost + operations.take_over
            cost += operations.look_held
        while cursor[worker] < count:
            clip = int(cursor[worker])
            cursor[worker] += num_workers
            if done_at[clip] <= now:
                cost += operations.take  # seen only when its folder is
            elif held_until[clip] > now:
                cost += operations.refused
            else:
                return clip, cost + operations.take
        if worker not in helpers:
            cost += operations.listing
            open_clips = np.flatnonzero(done_at > now)[::-1]
            is_held = held_until[open_clips] > now
            helpers[worker] = Helper(open_clips[~is_held], open_clips[is_held], worker, num_workers)
        helper = helpers[worker]
        for number in helper.order:
            clip = int(helper.free[number])
            if done_at[clip] > now >= held_until[clip]:
                helper.order.took()
                return clip, cost + operations.help
            is_done = done_at[clip] <= now
            cost += operations.look_done if is_done else operations.look_begun
            helper.order.missed()
        while helper.held:
            clip = helper.held.pop(0)
            if done_at[clip] > now >= held_until[clip]:
                return clip, cost + operations.take_over
            cost += operations.look_done if done_at[clip] <= now else operations.look_held
        return -1, cost

    while events and left:
        now, worker = heapq.heappop(events)
        chosen, number = choose(worker, now)
        cost = number * operation_seconds
        if chosen < 0:
            spent += cost
            idle.add(worker)
            continue
        idle.discard(worker)
        if fails_at[worker] < now:  # while it had nothing to do
            fails_at[worker] = now + rng.exponential(FAILURE_SECONDS)
        work = length[chosen] * speed[worker]
        cost += work * 10 / EXPIRY_SECONDS * operations.beat * operation_seconds
        end = now + cost + work
        spent += cost
        if fails_at[worker] < end:
            failures += 1
            at = max(float(fails_at[worker]), now)
            fails_at[worker] = at + RESTART_SECONDS + rng.exponential(FAILURE_SECONDS)
            begun.discard(worker)
            held_until[chosen] = at if sees_deaths else at + EXPIRY_SECONDS
            # A driver gives the clip to a worker that has nothing left, once its claim is dead.
            helper = min(idle, default=worker)
            idle.discard(helper)
            given.setdefault(helper, []).append(chosen)
            ready = max(float(held_until[chosen]), at + RESTART_SECONDS * (helper == worker))
            heapq.heappush(events, (ready, helper))
            if helper != worker:
                heapq.heappush(events, (at + RESTART_SECONDS, worker))
            continue
        held_until[chosen], done_at[chosen] = end, end
        left -= 1
        heapq.heappush(events, (end, worker))
    ends = np.sort(done_at)
    seconds = float(ends[-1])
    ideal = float(length.sum()) / num_workers
    return Result(
        overhead=spent / (num_workers * seconds),
        seconds=seconds,
        ideal_seconds=ideal,
        tail_seconds=seconds - float(ends[int(0.99 * (count - 1))]),
        operations_a_second=spent / operation_seconds / seconds,
        failures=failures,
    )


def rows_of(
    workers: int, operations: Operations, clips: int, *, seconds: float, what: str, name: str
) -> list[Row]:
    """Rows of a number of workers, with deaths seen and unseen.

    Args:
        workers: how many.
        operations: that the claims cost.
        clips: of each.
        seconds: of an operation.
        what: an operation is, in words.
        name: of the disk, before that of a case; "" for a shared one.
    """
    rows = []
    for how, sees in (("seen", True), ("by heartbeat", False)):
        found = [
            simulate(
                workers,
                operations,
                operation_seconds=seconds,
                clips_a_worker=clips,
                sees_deaths=sees,
                seed=seed,
            )
            for seed in range(SEEDS)
        ]
        ratios = [f.seconds / f.ideal_seconds for f in found]
        cases: list[tuple[str, str, list[float], str, list[float] | None]] = [
            ("overhead", "share", [f.overhead for f in found], "a worker's time", None),
            (
                "time to the last clip",
                "s",
                [f.seconds for f in found],
                "work spread evenly, at no cost",
                ratios,
            ),
            ("tail of the last 1 %", "s", [f.tail_seconds for f in found], "no tail", None),
            (
                "operations a second",
                "1/s",
                [f.operations_a_second for f in found],
                "of all workers",
                None,
            ),
        ]
        rows += [
            make_row(
                "scale_simulation",
                f"{name}{case}, deaths {how}",
                Timing(tuple(values)),
                shape=f"{workers} workers, {clips} clips of 1 s each, {what}",
                baseline=baseline,
                ratio=Timing(tuple(ratio or values)).median,
                unit=unit,
            )
            for case, unit, values, baseline, ratio in cases
        ]
    return rows


def main() -> None:
    """Simulate with three seeds each, and write the rows."""
    clips = 20 if quick_flag() else CLIPS_A_WORKER
    operations, requests = count_operations(), count_requests(clips)
    print(f"operations of the claims on a disk: {operations}")
    print(f"requests to a bucket that are waited for: {requests}")
    sizes = WORKERS[:4] if quick_flag() else WORKERS
    rows = []
    for workers in sizes:
        words: dict[str, Any] = {"what": "2 ms an operation", "name": ""}
        rows += rows_of(workers, operations, clips, seconds=OPERATION_SECONDS, **words)
    for workers in sizes[-2:-1]:
        words = {"what": "30 ms a request", "name": "bucket, "}
        rows += rows_of(workers, requests, clips, seconds=REQUEST_SECONDS, **words)
    write_rows(rows)


if __name__ == "__main__":
    main()
