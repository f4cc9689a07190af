"""The engine of Ray: an actor for each GPU, or for some cores, which Ray starts again when it dies.

Ray core alone: it starts processes where there is room, and says which of them died.  Frames are
decoded beside each actor, in processes of its own, and never cross the network.
"""

import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenreel.cache.bucket.local_cache import BYTES, FOLDER
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest, first_clips
from tokenreel.cache.write.claims import start_of
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.flow.changes import StoreChanges, WhenChanged, find_changes
from tokenreel.extract.flow.clip_queue import clips_of_shard
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.frame_policy import FrameList
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.signals import Stopping, stop_on_signals
from tokenreel.pipeline.launch.base import (
    Extraction,
    Launched,
    Placement,
    first_video,
    import_package,
    ready,
    require_package,
    require_seen,
    require_versions,
    versions_here,
)
from tokenreel.pipeline.launch.drive import Away, Done, Driver, Event, Lost, Ready, Task
from tokenreel.pipeline.phases.extraction import parse_shard

log = logging.getLogger(__name__)

OBJECT_BYTES = 2**28  # of Ray's object store here: it holds the list of clips
CONNECT_SECONDS = 10.0
GREET_SECONDS = 0.5  # between two attempts
NICENESS = "RAY_worker_niceness"  # 15 unless it is set: then they get nothing on busy cores
CALLS = 4  # at once in an actor: its task, and questions
PORT = "6379"

Place = tuple[str, int, str]  # host, process, and when it started


@dataclass(frozen=True)
class Job:
    """What all workers share; it is in Ray's object store once.

    Attributes:
        manifest: the clips.
        part: those of this command.
        config: of the extraction.
        store: its directory, absolute.
        changes: since its clips were committed.
        changed: what is done with them.
        folder: the current folder of the command.
        versions: of the command.
        processes: workers on the machine of each.
        video: that the command saw; None for none.
        environment: variables of --cache-dir and --cache-bytes, where they were given.
    """

    manifest: Manifest
    part: tuple[Clip, ...]
    config: ExtractConfig
    store: Path
    changes: StoreChanges
    changed: WhenChanged
    folder: str
    versions: Mapping[str, str]
    processes: int
    video: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


class Worker:
    """The actor."""

    def __init__(self) -> None:
        self._report, self._stopping = ExtractReport(), Stopping()

    def hello(self, job: Job) -> Place:
        """Host and process of this worker, and when that started.

        Raises:
            WrongIdentity: it has other versions than the command.
            UsageError: it does not see the store, the videos or the current folder of the command.
        """
        logging.basicConfig(format="%(message)s")
        logging.getLogger("tokenreel").setLevel(logging.INFO)
        os.environ.update(job.environment)
        require_seen(job.folder, job.store, job.video)
        os.chdir(job.folder)
        require_versions(job.versions)
        return socket.gethostname(), os.getpid(), start_of(os.getpid())

    def extract(self, job: Job, task: Task) -> ExtractReport:
        """Do a task.  Raises what extract_clips raises."""
        self._report = ExtractReport()

        def note(report: ExtractReport) -> None:
            self._report = report

        return extract_clips(
            job.manifest,
            job.config,
            job.store,
            progress=False,
            part=task.clips(job.part),
            share=task.share,
            changes=job.changes,
            changed=job.changed,
            processes=job.processes,
            stopping=self._stopping,
            tick=note,
        )

    def report(self) -> ExtractReport:
        """The latest report of the task."""
        return self._report

    def stop(self, number: int) -> None:
        """Finish the segments that are begun."""
        self._stopping.stop(number)


def launch(extraction: Extraction, placement: Placement) -> Launched:
    """Extract by actors, and wait for the end.

    Raises:
        UsageError: Ray is not installed, there is no cluster at the address, or it has no GPU.
        WrongIdentity: a worker has other versions, or computes other tokens.
        TokenReelError: see drive.Driver.run.
    """
    placement.require_only("ray", ["gpus", "nodes", "cpus", "address"])
    require_package("ray", "ray")
    shard = parse_shard(extraction.shard)
    with stop_on_signals() as stopping, connected(placement.address) as ray:
        count, gpus, cpus = size_of(placement, nodes_of(ray))
        extraction, manifest, config = ready(extraction)
        assert extraction.out is not None
        store, listed = extraction.out, FrameList(config)
        clips = first_clips(manifest.clips, extraction.limit)
        whole = clips_of_shard(manifest, shard, limit=extraction.limit)
        part = [clip for clip in whole if listed.has(clip)]
        changes = find_changes(manifest, store, whole, policy=extraction.changed)
        job = Job(
            manifest,
            tuple(part),
            config.model_copy(update={"device": device_of(config.device, gpus)}),
            store,
            changes,
            extraction.changed,
            str(Path.cwd()),
            versions_here(),
            max(1, len(os.sched_getaffinity(0)) // cpus) if gpus else 1,
            first_video(manifest),
            {name: os.environ[name] for name in (FOLDER, BYTES) if name in os.environ},
        )
        workers = RayWorkers(ray, job, count=count, gpus=gpus, cpus=cpus)
        driver = Driver(
            workers,
            manifest,
            part,
            store,
            run=[clip.clip_id for clip in clips if listed.has(clip)],
            replaced=changes.replaced,
            max_failures=config.max_failures,
        )
        report = driver.run(stopping)
    report.unreadable = list(manifest.unreadable)
    report.num_over_limit = len(manifest.clips) - len(clips)
    report.num_unlisted = len(whole) - len(part)
    return Launched(report, store)


def device_of(word: str, gpus: int) -> str:
    """The device of a worker, of the GPUs that Ray shows it.

    Raises:
        UsageError: it contradicts --gpus.
    """
    if gpus:
        if word == "cpu":
            raise UsageError("device=cpu and --gpus: leave one of them out")
        return "cuda"
    if word.startswith("cuda"):
        raise UsageError(f"device={word}: --engine ray needs --gpus to give its workers GPUs")
    return "cpu"


def size_of(placement: Placement, nodes: Sequence[Mapping[str, float]]) -> tuple[int, int, int]:
    """Number of workers, and GPUs and cores of each.

    Args:
        placement: of the command; without its cores as many as let most of the workers run.
        nodes: resources of each node of the cluster; a worker is on one of them.

    Raises:
        UsageError: the cluster has no room for one worker, or GPUs are named by number.

    >>> size_of(Placement(gpus="all"), [{"GPU": 4.0, "CPU": 32.0}] * 2)
    (8, 1, 8)
    >>> size_of(Placement(gpus="4", nodes=3), [{"GPU": 4.0, "CPU": 16.0}] * 4)
    (12, 1, 4)
    >>> size_of(Placement(nodes=2), [{"CPU": 2.0}])
    (2, 0, 1)
    """
    cores = sum(int(node.get("CPU", 0)) for node in nodes)
    here = sum(int(node.get("GPU", 0)) for node in nodes)
    gpus = 0
    if placement.gpus is None:
        count = placement.nodes or len(nodes)
    elif placement.gpus == "all":
        count, gpus = here, 1
    elif placement.gpus.isdecimal() and int(placement.gpus):
        count, gpus = int(placement.gpus) * (placement.nodes or 1), 1
    else:
        raise UsageError(f"--gpus {placement.gpus}: --engine ray takes all, or the GPUs of a node")
    if gpus and not here:
        raise UsageError(f"--gpus {placement.gpus}: the Ray cluster has no GPU")

    def room(cpus: int) -> int:
        """How many workers, of that many cores each, run at once."""
        fits = [int(node.get("CPU", 0)) // cpus for node in nodes]
        devices = [int(node.get("GPU", 0)) for node in nodes]
        return sum(map(min, fits, devices)) if gpus else sum(fits)

    most = max(1, cores // (here if gpus else count))
    cpus = placement.cpus or max(
        range(1, most + 1), key=lambda cpus: (min(room(cpus), count), cpus)
    )
    if not room(cpus):
        largest = max(int(node.get("CPU", 0)) for node in nodes)
        raise UsageError(
            f"--cpus {cpus}: no node of the Ray cluster has room for such a worker; the largest "
            f"has {largest} cores"
        )
    if count > room(cpus):
        log.warning(
            "%d workers wanted, the Ray cluster has room for %d: the others wait for it to grow",
            count,
            room(cpus),
        )
    return count, gpus, cpus


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster, or started on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = import_package("ray", "ray")
    options: dict[str, Any] = {"logging_level": logging.WARNING, "configure_logging": True}
    if address is None:
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_BYTES}
        os.environ.setdefault(NICENESS, "0")
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:  # else Ray writes one to the home folder
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    elif address != "auto":
        address = _reachable(address)
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = "on this machine" if address in (None, "auto") else f"at {address}"
        first = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"--engine ray: no cluster {where} ({first}): start one with ray start, or leave out "
            "--address to use this machine alone"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _reachable(address: str) -> str:
    """HOST:PORT of a cluster whose port answers.

    Raises:
        UsageError: nothing listens there, or an address of another kind.
    """
    if "://" in address:
        raise UsageError(
            f"--address {address}: give HOST:{PORT} of the head of the cluster, from one of its "
            "nodes: Ray's client cannot be used"
        )
    host, _, port = address.partition(":")
    port = port or PORT
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(
            f"--address {address}: no Ray cluster answers at {host}:{port} ({error}): start one "
            f"there with ray start --head --port {PORT}"
        ) from error
    return f"{host}:{port}"


def nodes_of(ray: Any) -> list[Mapping[str, float]]:
    """Resources of each node of the cluster that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


class RayWorkers:
    """Actors as the driver's Workers.

    Args:
        ray: connected.
        job: of all of them.
        count: of actors.
        gpus, cpus: of each.
    """

    def __init__(self, ray: Any, job: Job, *, count: int, gpus: int, cpus: int) -> None:
        self._ray, self.count = ray, count
        self._job = ray.put(job)
        actor = ray.remote(Worker).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=CALLS,
        )
        self._actors = [actor.remote() for _ in range(count)]
        self._calls: dict[Any, tuple[int, str]] = {}
        self._places: dict[int, Place] = {}
        self._asked: dict[int, Any] = {}
        self._latest: dict[int, ExtractReport] = {}
        self._due: dict[int, float] = {}  # when to greet the actors that did not answer
        self._reasons: dict[int, str] = {}  # why they did not
        for worker in range(count):
            self._greet(worker)

    def _greet(self, worker: int) -> None:
        self._calls[self._actors[worker].hello.remote(self._job)] = worker, "hello"

    def give(self, worker: int, task: Task) -> None:
        """Start a task on an actor."""
        self._latest.pop(worker, None)
        self._calls[self._actors[worker].extract.remote(self._job, task)] = worker, "extract"

    def wait(self, seconds: float) -> list[Event]:
        """What the actors answered; those that died are started again by Ray, and greeted."""
        for worker, due in list(self._due.items()):
            if time.monotonic() > due:
                del self._due[worker]
                self._greet(worker)
        calls = list(self._calls)
        if not calls:
            time.sleep(min(seconds, GREET_SECONDS))
            return []
        done, _ = self._ray.wait(calls, num_returns=1, timeout=seconds)
        if done:
            done, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        return [event for call in done for event in self._events(call, *self._calls.pop(call))]

    def _events(self, call: Any, worker: int, what: str) -> list[Event]:
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(call)
        except errors.RayTaskError as error:
            report = self._latest.pop(worker, ExtractReport())
            cause = error.cause if isinstance(error.cause, Exception) else error
            return [Done(worker, report, cause)]
        except errors.RayError as error:  # the actor died, or its node
            self._due[worker] = time.monotonic() + GREET_SECONDS
            if what == "extract":
                self._reasons[worker] = reason_of(error)
                return [Away(worker, self._reasons[worker])]
            if isinstance(error, errors.ActorUnavailableError):
                return []  # it is being started again
            return [Lost(worker, reason_of(error))]
        if what == "extract":
            self._latest.pop(worker, None)
            return [Done(worker, answer)]
        before, self._places[worker] = self._places.get(worker), answer
        reason = self._reasons.pop(worker, "it did not answer")
        events: list[Event] = [Ready(worker)]
        if before is not None and before != answer:
            events.insert(0, Lost(worker, reason, *before))
        return events

    def reports(self) -> Mapping[int, ExtractReport]:
        """The latest reports of the actors that have a task; asks for the next ones."""
        busy = {worker for worker, what in self._calls.values() if what == "extract"}
        for worker in busy - self._asked.keys():
            self._asked[worker] = self._actors[worker].report.remote()
        if self._asked:
            done, _ = self._ray.wait(
                list(self._asked.values()), num_returns=len(self._asked), timeout=0
            )
            for worker, call in list(self._asked.items()):
                if call in done:
                    del self._asked[worker]
                    try:
                        self._latest[worker] = self._ray.get(call)
                    except self._ray.exceptions.RayError:
                        continue  # its task says so too
        return {worker: self._latest[worker] for worker in busy & self._latest.keys()}

    def stop(self, number: int) -> None:
        """Let every actor finish the segments that are begun."""
        for actor in self._actors:
            actor.stop.remote(number)


def reason_of(error: Exception) -> str:
    """The reason that Ray gives for the end of an actor, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = [line for line in lines if "exit type" in line.lower() or "detail" in line.lower()]
    if lines and "unavailable" in lines[0]:
        return "it was killed, or its node does not answer"
    return (useful or lines or [type(error).__name__])[0][:200]
