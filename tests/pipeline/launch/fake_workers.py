"""Workers that extract nothing: they claim and commit clips of a store, and die of some."""

import os
import time
from collections.abc import Mapping

from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.index import committed_keys
from tokenreel.cache.manifest import Manifest
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.signals import Stopping
from tokenreel.pipeline.launch.drive import Done, Driver, Lost, Ready


class Workers:
    """Workers that commit two clips at each look, in claims of processes of another host.

    Args:
        store: its directory.
        count: of workers.
        poison: clips that end their worker.
        grows: whether each attempt at a poisonous clip leaves another segment.
    """

    def __init__(self, store, part, count=2, poison=(), grows=False, dies_at_once=False):
        self.store, self.part, self.count = store, part, count
        self.poison, self.grows, self.dies_at_once = set(poison), grows, dies_at_once
        self.begun = {}
        self.tasks, self.done, self.events = {}, {}, [Ready(n) for n in range(count)]
        self.log, self.stopped, self.pids = [], 0, 0

    def give(self, worker, task):
        self.tasks[worker] = task
        self.done[worker] = []
        names = [clip.clip_id for clip in task.clips(self.part)]
        self.log.append((worker, names, bool(task.only)))

    def wait(self, seconds):
        events, self.events = self.events, []
        for worker, task in list(self.tasks.items()):
            events += self.step(worker, task)
        return events

    def step(self, worker, task):
        if self.dies_at_once:
            return self.lose(worker)
        names = [clip.clip_id for clip in task.clips(self.part)]
        part, parts = task.share
        names = names[part::parts] + [n for n in reversed(names) if n not in names[part::parts]]
        free = [n for n in names if not self.is_taken(n)][:2]
        if not free or self.stopped:
            del self.tasks[worker]
            return [Done(worker, ExtractReport(committed=self.done[worker]))]
        self.pids += 1
        for name in free:
            self.claim(name, self.pids)
        if self.poison & {*free}:
            for name in free:
                if name in self.poison and self.grows:
                    self.segment(name)
            return self.lose(worker)
        for name in free:
            self.commit(name)
            self.done[worker].append(name)
        return []

    def lose(self, worker):
        del self.tasks[worker]
        self.events.append(Ready(worker))
        return [Lost(worker, "killed", "other", self.pids, "1")]

    def is_taken(self, name):
        return clip_key(name) in committed_keys(self.store) or self.claim_of(name).exists()

    def claim_of(self, name):
        return self.store / "claims" / f"{clip_key(name)}.json"

    def claim(self, name, pid, age=0.0):
        holder = {"owner": "x", "host": "other", "pid": pid, "started": "1", "token": f"{pid}"}
        path = self.claim_of(name)
        path.write_bytes(canonical_json(seal(holder)))
        os.utime(path, (time.time() - age,) * 2)

    def segment(self, name):
        final = self.store / folder_of(clip_key(name))
        folder = final.with_name(f".tmp-{clip_key(name)}-w")
        folder.mkdir(parents=True, exist_ok=True)
        self.begun[name] = self.begun.get(name, 0) + 1
        (folder / str(self.begun[name])).touch()
        if self.begun[name] == 4:
            self.poison.discard(name)

    def commit(self, name):
        self.claim_of(name).unlink()
        (self.store / folder_of(clip_key(name))).mkdir(parents=True)

    def reports(self) -> Mapping[int, ExtractReport]:
        return {}

    def stop(self, number):
        self.stopped = number or -1


def driver_of(workers, store, part, **options):
    """A driver of workers."""
    return Driver(
        workers, Manifest("folder", store.parent, tuple(part), {}), part, store, **options
    )


def drive(workers, store, part, **options):
    """Run a driver to its end."""
    return driver_of(workers, store, part, **options).run(Stopping(), progress=False)
