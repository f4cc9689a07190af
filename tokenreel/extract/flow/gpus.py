"""One process for each GPU, all on one store: each takes its share, and then helps the others."""

import logging
import multiprocessing
import multiprocessing.connection
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.errors import TokenReelError, process_lost
from tokenreel.cache.format.clip import clip_key
from tokenreel.cache.format.index import committed_keys
from tokenreel.cache.manifest import Manifest
from tokenreel.cache.progress import Progress
from tokenreel.cache.write.claims import is_live
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.flow.changes import WhenChanged, find_changes
from tokenreel.extract.flow.clip_queue import clips_of_shard
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.signals import STOP_SIGNALS, blocked_in_children, stop_on_signals

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
OF_THE_PARENT = tuple({*STOP_SIGNALS} - {signal.SIGTERM})  # which it sends to its processes


@dataclass
class _Child:
    """A process and its last messages."""

    device: str
    process: Any
    pipe: Connection
    report: ExtractReport = field(default_factory=ExtractReport)
    error: Exception | None = None
    is_done: bool = False


def extract_on_gpus(
    devices: Sequence[str],
    manifest: Manifest,
    config: ExtractConfig,
    store: Path,
    *,
    progress: bool = True,
    shard: tuple[int, int] = (0, 1),
    retries: bool = False,
    limit: int | None = None,
    changed: WhenChanged = "refuse",
) -> ExtractReport:
    """Extract with a process on each device; see runner.extract_clips.

    Args:
        devices: of devices.pick_gpus; a single device runs in this process.
        manifest: the clips.
        config: the extraction; its device is ignored.
        store: directory of the store; made when absent.
        progress: whether to draw a bar of frames.
        shard: (i, n): only every n-th clip, from the i-th on.
        retries: whether clips in quarantine are retried.
        limit: only the first clips of each split.
        changed: what is done with clips of videos that changed.

    Returns:
        The merged reports; a clip that one process committed is not "skipped" by the others.

    Raises:
        TokenReelError: raised by a process, once all have ended; or a process died.
    """
    manifest, store = replace(manifest, root=store_path(manifest.root)), store_path(store)
    options: dict[str, Any] = {"shard": shard, "retries": retries, "limit": limit}
    options["changed"] = changed
    if len(devices) == 1:
        alone = config.model_copy(update={"device": devices[0]})
        return extract_clips(manifest, alone, store, progress=progress, **options)
    options["processes"] = len(devices)
    part = clips_of_shard(manifest, shard, limit=limit)
    policy: WhenChanged = "replace" if retries else changed
    changes = find_changes(
        manifest, store, part, policy=policy, is_whole=not retries, progress=progress
    )
    options["changes"] = changes  # found once for all processes
    with (
        stop_on_signals() as stopping,
        Progress(desc="extract", unit="frame", enabled=progress) as bar,
    ):
        with blocked_in_children(*OF_THE_PARENT):
            children = [
                _start(device, manifest, config, store, options | {"share": (number, len(devices))})
                for number, device in enumerate(devices)
            ]
        is_ending = False
        while not all(child.is_done for child in children):
            _receive(children)
            total = merge_reports([child.report for child in children])
            bar.set_postfix_str(total.status(), refresh=False)
            bar.update(total.num_appended - bar.n)
            has_failed = total.has_too_many_failures(config.max_failures)
            if (stopping.event.is_set() or has_failed) and not is_ending:
                is_ending = True
                for child in children:
                    child.process.terminate()
        is_stopped = stopping.event.is_set()
    report = merge_reports([child.report for child in children])
    there, claims = committed_keys(store), store / "claims"

    def is_done(name: str) -> bool:
        """Whether a clip that a process left to others is committed, or in work elsewhere."""
        key = clip_key(name)
        return key in there or (not is_stopped and is_live(claims / f"{key}.json"))

    report.skipped = [name for name in report.skipped if is_done(name)]
    report.check_failures(config.max_failures)
    for child in children:
        if child.error is not None and not is_stopped:
            raise child.error
    report.signal = stopping.signal
    return report


def merge_reports(reports: Sequence[ExtractReport]) -> ExtractReport:
    """One report of processes that shared the clips."""
    total = ExtractReport()
    for report in reports:
        total.committed += report.committed
        total.failed += report.failed
        total.replaced += report.replaced
        total.num_frames += report.num_frames
        total.num_repeated += report.num_repeated
        total.num_moved += report.num_moved
        total.num_other_rules += report.num_other_rules
        total.num_appended += report.num_appended
        total.num_bytes += report.num_bytes
        total.peak_bytes += report.peak_bytes
        total.peak_device_bytes += report.peak_device_bytes
        for stage, seconds in report.seconds.items():
            total.seconds[stage] += seconds / len(reports)
    total.num_clips = max(report.num_clips for report in reports)
    total.seconds["total"] = max(report.seconds["total"] for report in reports)
    held = {failure.clip_id: failure for report in reports for failure in report.quarantined}
    done = {*total.committed, *(failure.clip_id for failure in total.failed)}
    total.quarantined = [failure for clip_id, failure in held.items() if clip_id not in done]
    for report in reports:  # each says what was found once for all of them
        total.changed |= report.changed
        total.missing |= report.missing
        total.accepts_changed |= report.accepts_changed
        total.left = report.left or total.left
        total.labels = report.labels or total.labels
        total.num_in_work = max(total.num_in_work, report.num_in_work)
        total.num_unlisted = max(total.num_unlisted, report.num_unlisted)
        total.num_tried_again = max(total.num_tried_again, report.num_tried_again)
        total.num_compared = max(total.num_compared, report.num_compared)
        total.num_hashed = max(total.num_hashed, report.num_hashed)
    skipped = {clip_id for report in reports for clip_id in report.skipped}
    total.skipped = sorted(skipped - done)
    return total


def _start(
    device: str, manifest: Manifest, config: ExtractConfig, store: Path, options: dict[str, Any]
) -> _Child:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    own = config.model_copy(update={"device": device})
    process = context.Process(target=_extract, args=(theirs, manifest, own, store, options))
    process.start()
    theirs.close()
    return _Child(device, process, ours)


def _receive(children: Sequence[_Child]) -> None:
    """Receive the messages of the processes; waits for REPORT_SECONDS at most."""
    pipes = {child.pipe: child for child in children if not child.is_done}
    for pipe in multiprocessing.connection.wait(list(pipes), timeout=REPORT_SECONDS):
        child = pipes[pipe]  # type: ignore[index]
        try:
            message = child.pipe.recv()
        except (EOFError, OSError):
            child.process.join()
            child.is_done = True
            if child.process.exitcode:
                child.error = child.error or process_lost(
                    f"the process of {child.device}", child.process.exitcode, "rerun to resume"
                )
                log.error("%s", child.error)
            continue
        if isinstance(message, ExtractReport):
            child.report = message
        else:
            child.error = message
            log.error("%s: %s", child.device, message)


def _extract(
    pipe: Connection,
    manifest: Manifest,
    config: ExtractConfig,
    store: Path,
    options: dict[str, Any],
) -> None:
    """Body of a process."""
    last, latest = 0.0, ExtractReport()

    def tick(report: ExtractReport) -> None:
        nonlocal last, latest
        latest = report
        if time.monotonic() - last > REPORT_SECONDS:
            last = time.monotonic()
            pipe.send(report)

    try:
        pipe.send(extract_clips(manifest, config, store, progress=False, tick=tick, **options))
    except TokenReelError as error:
        pipe.send(latest)  # it holds the failures that ended the process
        pipe.send(error)
