"""The engine of Ray for tables: a task for each lock-step group, and the table here at the end.

A task whose worker dies is started again, and resumes at the checkpoints of its runs; one that
loses its worker twice is a failed one.
"""

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokenreel.cache.errors import TokenReelError
from tokenreel.extract.signals import Stopping, status_of_signal, stop_on_signals
from tokenreel.pipeline.launch.attempts import MOST_DEATHS
from tokenreel.pipeline.launch.base import Placement, require_package
from tokenreel.pipeline.launch.ray_engine import connected, device_of, nodes_of, reason_of, size_of
from tokenreel.pipeline.launch.tables.base import (
    Group,
    LaunchedTable,
    TableRequest,
    groups_of,
    result_of,
    train_rest,
)

if TYPE_CHECKING:  # torch
    from tokenreel.fuse.train.train import Job, RunResult

log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
SAVE_SECONDS = 60.0  # in which stopped tasks save their runs


def launch(request: TableRequest, placement: Placement) -> LaunchedTable:
    """Train the groups of a table as tasks, wait for them, and make the table here.

    Raises:
        UsageError: Ray is not installed, there is no cluster at the address, or it has no GPU.
        SystemExit: 130 after Ctrl-C, 143 after another signal.
    """
    placement.require_only("ray", ["gpus", "nodes", "cpus", "address"])
    require_package("ray", "ray")
    with stop_on_signals() as stopping, connected(placement.address) as ray:
        count, gpus, cpus = size_of(placement, nodes_of(ray))
        device = device_of(request.device, gpus)

        def train(jobs: Sequence["Job"]) -> list["RunResult"]:
            groups = groups_of(request, jobs, placement.nodes and count, device)
            return train_on_ray(ray, groups, stopping, gpus=gpus, cpus=cpus)

        report = request.make(lambda jobs: train_rest(jobs, train))
    return LaunchedTable(report)


def train_on_ray(
    ray: Any, groups: Sequence[Group], stopping: Stopping, *, gpus: int, cpus: int
) -> list["RunResult"]:
    """Train groups as tasks, and wait for all.

    Args:
        ray: connected.
        groups: of runs.
        stopping: ends the tasks, which save their runs.
        gpus: of each task.
        cpus: of each task.

    Raises:
        SystemExit: a signal came.
    """
    options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": MOST_DEATHS - 1, "max_calls": 1}
    task = ray.remote(**options)(Group.train)
    left = {task.remote(group): group for group in groups}
    log.info("%d runs in %d task(s)", sum(len(group.jobs) for group in groups), len(left))
    results = []
    deadline = float("inf")
    while left and time.monotonic() < deadline:
        done, _ = ray.wait(list(left), num_returns=1, timeout=WAIT_SECONDS)
        for call in done:
            group = left.pop(call)
            reasons = _reasons(ray, call, group)
            results += [result_of(job, reasons[str(job.out)]) for job in group.jobs]
            log.info("ended: %s, %d task(s) left", group.name, len(left))
        if stopping.event.is_set() and deadline == float("inf"):
            deadline = time.monotonic() + SAVE_SECONDS
            for call in left:
                ray.cancel(call, force=False)  # as Ctrl-C does
    if stopping.event.is_set():
        raise SystemExit(status_of_signal(stopping.signal))
    return results


def _reasons(ray: Any, call: Any, group: Group) -> dict[str, str | None]:
    """What a task says of its runs; of a task that was lost the reason, for each of them."""
    try:
        found: dict[str, str | None] = ray.get(call)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, TokenReelError) else error
        reason = str(cause).strip().splitlines()[-1][:200]
    except ray.exceptions.RayError as error:
        reason = f"its worker died {MOST_DEATHS} times ({reason_of(error)})"
    else:
        return found
    return {str(job.out): reason for job in group.jobs}
