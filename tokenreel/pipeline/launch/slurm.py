"""The engine of SLURM clusters: an array of jobs, submitted by submitit.

Each job does one shard on one node.  USR2, which comes before the end of its time, and USR1 finish
the segments that are begun and put the job back into the queue.  So does TERM where SLURM says that
it preempts the job: one that ends by itself in its grace time SLURM does not requeue.  After
`scancel`, which sends TERM too, the job is over.
"""

import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.errors import TokenReelError, UsageError
from tokenreel.cache.manifest import Manifest, first_clips
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
from tokenreel.pipeline.launch.local import launch as launch_here
from tokenreel.pipeline.phases.extraction import check_limit, read_words
from tokenreel.pipeline.text import say

log = logging.getLogger(__name__)

JOBS = Path("jobs")  # scripts, logs and results of jobs, on a disk that all nodes see
OPTIONS = ("gpus", "nodes", "cpus", "time", "partition", "array_parallelism", "sbatch", "dry_run")
REQUEUES = 1000  # most times that a job is put back when its time is over
SIGNAL_SECONDS = 120  # from the signal to the end of a job
DEFAULT_TIME = "4:00:00"
OF_THE_ENGINE = {  # options of sbatch that the engine gives itself, and where they come from
    "array": "--nodes",
    "cpus-per-task": "--cpus",
    "error": "the folder of the jobs",
    "gpus-per-node": "--gpus",
    "job-name": "the engine",
    "nodes": "--nodes",
    "ntasks": "the engine",
    "ntasks-per-node": "the engine",
    "open-mode": "the engine",
    "output": "the folder of the jobs",
    "partition": "--partition",
    "signal": "the engine",
    "time": "--time",
}


@dataclass(frozen=True)
class ShardJob:
    """One job of the array; submitit calls it on a node.

    Attributes:
        extraction: of its shard, with absolute paths.
        gpus: "all" of the job's, or None for its processors.
        folder: the current folder of the command.
        versions: of the process that submitted it.
        video: that it saw; None for none.
    """

    extraction: Extraction
    gpus: str | None
    folder: str
    versions: Mapping[str, str] = field(default_factory=dict)
    video: Path | None = None

    def __call__(self) -> int:
        """Extract the shard; returns the exit status that the command would have."""
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
        logging.getLogger("tokenreel").setLevel(logging.INFO)
        assert self.extraction.out is not None
        require_seen(self.folder, store_path(self.extraction.out), self.video)
        os.chdir(self.folder)
        require_versions(self.versions)
        done = launch_here(self.extraction, Placement(gpus=self.gpus))
        assert done.report is not None
        say(done.report.table())
        for failure in done.report.failed:
            say(f"failed: {failure}")
        status = done.report.exit_status
        if status > 128 and is_to_resume(done.report.signal):
            requeue()
        return status

    def checkpoint(self) -> Any:
        """What submitit queues in its place when it is preempted: the same job, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def is_to_resume(number: int) -> bool:
    """Whether a job that a signal ended goes back into the queue.

    Args:
        number: of the signal.
    """
    if number in (signal.SIGUSR1, signal.SIGUSR2):
        return True
    job = os.environ.get("SLURM_JOB_ID")
    if number != signal.SIGTERM or job is None or shutil.which("scontrol") is None:
        return False
    command = ["scontrol", "show", "job", job]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return re.search(r"\bPreemptTime=\d", shown) is not None


def requeue() -> None:
    """Let submitit put this job back into the queue, now that what it made is whole."""
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    signal.raise_signal(signal.Signals[f"SIG{name}"])


def launch(extraction: Extraction, placement: Placement) -> Launched:
    """Submit the array and return; with `dry_run`, return its script instead.

    Raises:
        UsageError: submitit or SLURM is not on this machine, or an option is wrong.
        TokenReelError: SLURM refused the job.
    """
    placement.require_only("slurm", OPTIONS)
    require_package("submitit", "slurm")
    import_package("submitit", "slurm")
    parameters = sbatch_parameters(extraction, placement)
    if placement.dry_run:
        check_limit(extraction.limit)
        manifest, _ = read_words(extraction.dataset, extraction.words, root=extraction.root)
        try:
            _count_of(placement, manifest, extraction.limit)
        except UsageError as error:
            log.warning("without --dry-run this is refused: %s", error)
        return Launched(None, None, (script(extraction, placement, parameters),))
    require_login_node()
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    jobs = shard_jobs(extraction, placement)
    store = jobs[0].extraction.out
    assert store is not None
    executor = SlurmExecutor(_folder(store), max_num_timeout=REQUEUES)
    executor.update_parameters(**parameters)
    try:
        submitted = executor.submit_array(jobs)
    except (FailedJobError, FailedSubmissionError) as error:
        raise TokenReelError(f"SLURM refused the job: {str(error).strip()}") from error
    number = str(submitted[0].job_id).partition("_")[0]
    return Launched(
        None,
        store,
        (
            f"job {number}: {len(jobs)} shard(s) queued, logs in {_folder(store)}",
            f"see `tokenreel status {store}`; `scancel {number}` ends it",
        ),
    )


def require_login_node() -> None:
    """Refuse a machine from which no job can be queued.

    Raises:
        UsageError: it has no sbatch or srun.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UsageError(
            f"--engine slurm: {socket.gethostname()} has no sbatch and srun: run the command on a "
            "login node of the cluster; --dry-run prints the script"
        )


def shard_jobs(extraction: Extraction, placement: Placement) -> list[ShardJob]:
    """Make the store, and a job for each shard of it.

    Raises:
        UsageError: a wrong word, or more nodes than clips.
    """
    extraction, manifest, _ = ready(extraction)
    count = _count_of(placement, manifest, extraction.limit)
    gpus = None if placement.gpus is None else "all"
    about: dict[str, Any] = {"versions": versions_here(), "video": first_video(manifest)}
    return [
        ShardJob(replace(extraction, shard=f"{part}/{count}"), gpus, str(Path.cwd()), **about)
        for part in range(count)
    ]


def _count_of(placement: Placement, manifest: Manifest, limit: int | None) -> int:
    """How many jobs there are.  UsageError: more than clips."""
    count, most = placement.nodes or 1, len(first_clips(manifest.clips, limit))
    if count > most:
        raise UsageError(f"--nodes {count}: there are {most} clips, at most one job each")
    return count


def sbatch_parameters(extraction: Extraction, placement: Placement) -> dict[str, Any]:
    """The options of the array, as submitit names them.

    Raises:
        UsageError: an option that SLURM would refuse.
    """
    if extraction.shard != "0/1":
        raise UsageError(
            f"--shard {extraction.shard}: --engine slurm makes the shards, one for each of --nodes"
        )
    return job_parameters(f"extract-{extraction.dataset}", placement)


def job_parameters(name: str, placement: Placement) -> dict[str, Any]:
    """The options of jobs of a name, as submitit names them.

    Raises:
        UsageError: an option that SLURM would refuse.
    """
    found: dict[str, Any] = {
        "job_name": require_one_line("the name of the jobs", name),
        "time": minutes_of(placement.time or DEFAULT_TIME),
        "nodes": 1,
        "ntasks_per_node": 1,
        "signal_delay_s": SIGNAL_SECONDS,
    }
    if placement.gpus is not None:
        if not placement.gpus.isdecimal() or not int(placement.gpus):
            raise UsageError(f"--gpus {placement.gpus}: --engine slurm takes the GPUs of each node")
        found["gpus_per_node"] = int(placement.gpus)
    if placement.cpus is not None:
        found["cpus_per_task"] = placement.cpus
        found["srun_args"] = [f"--cpus-per-task={placement.cpus}"]  # which srun does not inherit
    if placement.partition is not None:
        found["partition"] = require_one_line("--partition", placement.partition)
    if placement.array_parallelism is not None:
        found["array_parallelism"] = placement.array_parallelism
    more: dict[str, Any] = {"requeue": True}
    for word in placement.sbatch:
        key, equals, value = word.removeprefix("--").partition("=")
        if not re.fullmatch("[a-z][a-z0-9_-]*", key) or (equals and not value):
            raise UsageError(f"--sbatch {word!r} is not KEY=VALUE, such as --sbatch account=lab")
        name = key.replace("_", "-")
        if name in OF_THE_ENGINE:
            raise UsageError(
                f"--sbatch {word}: --engine slurm gives {name} to sbatch, from "
                f"{OF_THE_ENGINE[name]}: leave it out"
            )
        more[name] = require_one_line(f"--sbatch {name}", value) if equals else True
    if "no-requeue" in more:
        del more["requeue"]
    return found | {"additional_parameters": more}


def require_one_line(option: str, value: str) -> str:
    """A value for the script of a job.

    Raises:
        UsageError: it has characters that would begin another line, or end the script.
    """
    if not value or not value.isprintable():
        raise UsageError(f"{option} {value!r}: give a word without line breaks")
    return value


def script(extraction: Extraction, placement: Placement, parameters: Mapping[str, Any]) -> str:
    """The script that sbatch would be given."""
    folder = _folder((extraction.out or Path("STORE")).absolute())
    return script_of(folder, placement.nodes or 1, parameters)


def script_of(folder: Path, count: int, parameters: Mapping[str, Any]) -> str:
    """The script of an array of jobs that sbatch would be given.

    Args:
        folder: of their files, with %j for the number of a job.
        count: of jobs.
        parameters: as submitit names them.
    """
    from submitit.slurm.slurm import _make_sbatch_string

    words = [shlex.quote(sys.executable), "-u -m submitit.core._submit", shlex.quote(str(folder))]
    text: str = _make_sbatch_string(
        command=" ".join(words), folder=folder, map_count=count, **parameters
    )
    return text


def _folder(store: Path) -> Path:
    """Where the files of a store's jobs are."""
    return folder_of_jobs(JOBS / store.name.replace("%", "_")) / "%j"


def folder_of_jobs(folder: Path) -> Path:
    """A folder as the scripts of jobs name it.

    Raises:
        UsageError: its path has characters that sbatch takes for something else.
    """
    text = require_one_line("the folder of the jobs", str(folder.absolute()))
    if "%" in text:
        raise UsageError(
            f"the folder of the jobs, {text}, has a % in its path, which SLURM replaces: use "
            "another folder"
        )
    return folder.absolute()


def minutes_of(text: str) -> int:
    """A time as SLURM writes it, in minutes, rounded up.

    Raises:
        UsageError: no such time, or none at all.

    >>> [minutes_of(text) for text in ("90", "30:00", "4:00:00", "1-12", "1-12:30")]
    [90, 30, 240, 2160, 2190]
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is not None:
        days, *rest = (int(group) if group else 0 for group in match.groups())
        if match[1] is not None or match[4] is not None:
            hours, minutes, seconds = rest
        else:
            hours, minutes, seconds = 0, rest[0], rest[1]
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if total:
            return -(-total // 60)
    raise UsageError(f"--time {text!r} is no time such as 4:00:00 or 1-12:00:00")
