"""What the claims cost, and how long the last clip takes, from 1 to 1,024 workers on one store.

    python benchmarks/scale_simulation.py [--quick]

The operations that a clip costs are counted while the code of the claims runs on a folder here; the
workers, their failures and their stragglers are simulated, with a seed.  So the rows say nothing of
a machine: they say what the protocol does at 2 ms an operation, as on a shared disk.

A worker takes the clips of its share, longest first, then lists the store and takes what is left of
the others', each from another place on.  One that fails loses its clip and starts again after 30 s;
its claim is dead at once, as where a driver sees the death, or after 300 s without a heartbeat, and
the driver gives the clip to a worker that has nothing left.
"""

import heapq
import io
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from harness import Timing, make_row, quick_flag, write_rows

from tokenreel.cache.format.index import committed_keys, is_committed
from tokenreel.cache.write.claims import EXPIRY_SECONDS, is_live, take_claim

CALLS = ("stat", "lstat", "open", "link", "unlink", "rename", "mkdir", "utime", "scandir")
OPERATION_SECONDS = 0.002  # a shared disk
CLIP_SECONDS = 1.0
CLIPS_A_WORKER = 200
FAILURE_SECONDS = 3600.0  # mean time of a worker until it fails
RESTART_SECONDS = 30.0
SLOW_SHARE, SLOW_FACTOR = 0.02, 3.0  # stragglers
SEEDS = 3
WORKERS = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Operations:
    """Operations of the file system, counted.

    Attributes:
        take: a clip of the worker's share, its commit, without the clip's own files.
        help: a clip of another's share, which is looked at before.
        look: at a clip that another worker has.
        beat: of a claim.
        listing: of the store's clips, once all 256 folders are there, and of its claims.
    """

    take: int
    help: int
    look: int
    beat: int
    listing: int


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts the calls that ask a file system."""
    count: Counter[str] = Counter()

    def wrap(name: str, real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
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
    """Count what the claims do for a clip, on a folder of this machine."""
    with tempfile.TemporaryDirectory() as name:
        store, claims = Path(name), Path(name) / "claims"
        claims.mkdir()
        take_claim(claims, "first", owner="w", expiry_seconds=EXPIRY_SECONDS)  # asks the clock
        is_live(claims / "first.json")
        with counted() as take:
            claim = take_claim(claims, "clip", owner="w", expiry_seconds=EXPIRY_SECONDS)
            is_committed(store, "clip")
            claim.release()
        claim = take_claim(claims, "clip", owner="w", expiry_seconds=EXPIRY_SECONDS)
        with counted() as beat:
            claim.beat()
        with counted() as look:
            is_committed(store, "clip")
            is_live(claims / "clip.json")
        claim.release()
        with counted() as free:
            is_committed(store, "clip")
            is_live(claims / "clip.json")
        unheld = sum(free.values())
        for number in range(256):
            (store / "clips" / f"{number:02x}").mkdir(parents=True)
        with counted() as listing:
            committed_keys(store)
            sorted(claims.glob("*.json"))
    taken, looked, beaten, listed = (sum(c.values()) for c in (take, look, beat, listing))
    return Operations(taken, taken + unheld, looked, beaten, listed)


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
    held_until = np.zeros(count)  # a claim, or that of a worker that failed
    cursor = np.arange(num_workers)
    helping: dict[int, list[int]] = {}
    spent, failures = 0.0, 0
    events = [(0.0, worker) for worker in range(num_workers)]
    heapq.heapify(events)
    fails_at = rng.exponential(FAILURE_SECONDS, num_workers)
    left = count

    idle: set[int] = set()

    def candidates(worker: int, now: float) -> Iterator[int]:
        while cursor[worker] < count:
            clip = int(cursor[worker])
            cursor[worker] += num_workers
            yield clip
        if worker not in helping:  # a list that is taken from its end: those in work come last
            open_clips = np.flatnonzero(done_at > now)
            is_held = held_until[open_clips] > now
            free = open_clips[~is_held]
            free = np.roll(free, worker * len(free) // num_workers)
            helping[worker] = [*open_clips[is_held].tolist(), *free.tolist()]
        while helping[worker]:
            yield helping[worker].pop()

    while events and left:
        now, worker = heapq.heappop(events)
        cost, chosen = 0.0, -1
        was_helping = worker in helping
        for clip in candidates(worker, now):
            if worker in helping and not was_helping:
                cost += operations.listing * operation_seconds
                was_helping = True
            if done_at[clip] <= now + cost or held_until[clip] > now + cost:
                cost += operations.look * operation_seconds
                continue
            chosen = clip
            break
        if chosen < 0:
            spent += cost
            idle.add(worker)
            continue
        idle.discard(worker)
        if fails_at[worker] < now:  # while it had nothing to do
            fails_at[worker] = now + rng.exponential(FAILURE_SECONDS)
        work = length[chosen] * speed[worker]
        beats = int(work // (EXPIRY_SECONDS / 10))
        each = operations.help if worker in helping else operations.take
        cost += (each + beats * operations.beat) * operation_seconds
        end = now + cost + work
        spent += cost
        if fails_at[worker] < end:
            failures += 1
            at = max(float(fails_at[worker]), now)
            fails_at[worker] = at + RESTART_SECONDS + rng.exponential(FAILURE_SECONDS)
            held_until[chosen] = at if sees_deaths else at + EXPIRY_SECONDS
            # A driver gives the clip to a worker that has nothing left, once its claim is dead.
            helper = min(idle, default=worker)
            idle.discard(helper)
            helping.setdefault(helper, []) if cursor[helper] >= count else None
            if helper in helping:
                helping[helper].insert(0, chosen)
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


def main() -> None:
    """Simulate with three seeds each, and write the rows."""
    operations = count_operations()
    print(f"operations of the claims: {operations}")
    sizes = WORKERS[:4] if quick_flag() else WORKERS
    clips = 20 if quick_flag() else CLIPS_A_WORKER
    rows = []
    for workers in sizes:
        for how, sees in (("seen", True), ("by heartbeat", False)):
            found = [
                simulate(workers, operations, clips_a_worker=clips, sees_deaths=sees, seed=seed)
                for seed in range(SEEDS)
            ]
            shape = f"{workers} workers, {clips} clips of 1 s each, 2 ms an operation"
            for name, unit, values, baseline, ratio in (
                ("overhead", "share", [f.overhead for f in found], "a worker's time", None),
                (
                    "time to the last clip",
                    "s",
                    [f.seconds for f in found],
                    "work spread evenly, at no cost",
                    [f.seconds / f.ideal_seconds for f in found],
                ),
                ("tail of the last 1 %", "s", [f.tail_seconds for f in found], "no tail", None),
                (
                    "operations a second",
                    "1/s",
                    [f.operations_a_second for f in found],
                    "of all workers",
                    None,
                ),
            ):
                timing = Timing(tuple(values))
                ratios = Timing(tuple(ratio or values))
                rows.append(
                    make_row(
                        "scale_simulation",
                        f"{name}, deaths {how}",
                        timing,
                        shape=shape,
                        baseline=baseline,
                        ratio=ratios.median,
                        unit=unit,
                    )
                )
    write_rows(rows)


if __name__ == "__main__":
    main()
