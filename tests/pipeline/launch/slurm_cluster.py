"""A SLURM cluster of this machine alone: munged, slurmctld and slurmd of Debian's packages.

Its configuration, keys, ports and logs are its own; cgroups are left alone.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
CONFIGURATION = """
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{more}
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=off
"""


def lacks() -> str:
    """The first program that is not installed, "" where all are."""
    path = os.environ["PATH"] + ":/usr/sbin"
    return next((name for name in PROGRAMS if shutil.which(name, path=path) is None), "")


@contextlib.contextmanager
def slurm_cluster(folder: Path, more: str = "") -> Iterator[dict[str, str]]:
    """Run a cluster of one node with two processors and partitions low and high.

    Args:
        folder: of its files.
        more: lines of slurm.conf.

    Yields:
        Variables of the programs that use it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    conf.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            user=pwd.getpwuid(os.getuid()).pw_name,
            ports=_free_ports(),
            folder=folder,
            more=more,
        )
    )
    environment = os.environ | {"SLURM_CONF": str(conf)}
    environment["PATH"] += ":/usr/sbin"
    munge = ["munged", "--foreground", "--force", f"--key-file={key}"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    commands = (
        [*munge, f"--socket={folder}/munge.socket"],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D", "-c"],
    )
    processes = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("w") as log:
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(0.5)
        _wait_until_idle(environment)
        yield {name: environment[name] for name in ("SLURM_CONF", "PATH")}
    finally:
        subprocess.run(["scancel", "--quiet", "--me"], env=environment, check=False)
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], two.getsockname()[1]]


def _wait_until_idle(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if {*done.stdout.split()} == {"idle"}:
            return
        assert time.monotonic() < deadline, (done.stdout, done.stderr)
        time.sleep(0.2)
