"""Pool of spawned processes, one BLAS thread each, that run jobs and end with their parent."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process

from threadpoolctl import threadpool_limits

from tokenreel.cache.errors import MachineError
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.jobs.plan import Job
from tokenreel.evaluate.jobs.run import run_job
from tokenreel.evaluate.tasks.task import Limits


class WorkerLost(MachineError):
    """A process of the pool was killed, often because memory ran out."""


def num_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    jobs: Sequence[Job], *, processes: int, threads: int, memory_bytes: int
) -> Iterator[list[Score]]:
    """The rows of each job, as jobs end.

    The numbers do not depend on how many processes or threads there are: BLAS has one thread, and
    a search measures exactly.

    Args:
        jobs: what to run.
        processes: how many at once; 1 runs them here, in order.
        threads: of each search.
        memory_bytes: for the blocks of all processes together.

    Raises:
        WorkerLost: a process died; what was yielded before stays good.
    """
    limits = Limits(max(1, memory_bytes // processes), threads)
    _load_blas()
    if processes == 1:
        for job in jobs:
            with threadpool_limits(1, user_api="blas"):
                rows = run_job(job, limits)
            yield rows
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_begin_worker) as pool:
        try:
            for future in as_completed([pool.submit(run_job, job, limits) for job in jobs]):
                yield future.result()
        except BrokenProcessPool as error:
            raise WorkerLost(
                "a process of the evaluation was killed, perhaps because memory ran out: rerun the "
                "command with fewer --jobs; finished rows are kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _load_blas() -> None:
    """Load scipy's BLAS, because a limit of threads applies only to libraries already loaded."""
    import scipy.linalg  # noqa: F401


def _begin_worker() -> None:
    _load_blas()
    threadpool_limits(1, user_api="blas")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent dies, which cannot end it if it was killed."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
