"""Join the processes that torchrun started, on one machine or several.

Rank 0 collects what every process says of itself and answers all of them, so that all begin, or
all end with one message: a process that did not come, two of one rank, other counts or devices.
"""

import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist

from tokenreel.cache.canonical import is_whole_number, read_json
from tokenreel.cache.errors import MachineError, UsageError
from tokenreel.fuse.distributed.world import ALONE, World

JOIN_SECONDS = 600.0  # in which every process has to come: they import from a shared disk
ANSWER_SECONDS = 10.0  # in which rank 0, before it ends with an error, waits for all to read it
ADVICE = "start the same command on every node, with the same --nnodes"
_joined = count()  # runs of this process that were joined, for the names of their keys


@dataclass(frozen=True)
class Ranks:
    """A process as torchrun describes it.

    Attributes:
        rank: of this process, from 0.
        size: processes of all nodes.
        local_rank: of this process on its node, from 0.
        address: host of rank 0.
        port: on which it listens.
    """

    rank: int
    size: int
    local_rank: int
    address: str
    port: int


def read_ranks(environment: Mapping[str, str]) -> Ranks | None:
    """What the variables of torchrun say; None for a process that is alone.

    Raises:
        UsageError: a variable that is missing or wrong.

    >>> read_ranks({"WORLD_SIZE": "1"}) is None
    True
    """
    if "WORLD_SIZE" not in environment and "RANK" not in environment:
        return None
    size = _number(environment, "WORLD_SIZE")
    if size == 0:
        raise UsageError("WORLD_SIZE is 0: it is the number of processes of all nodes")
    if size == 1 and environment.get("RANK", "0") == "0":
        return None
    rank, local_rank, port = (
        _number(environment, name) for name in ("RANK", "LOCAL_RANK", "MASTER_PORT")
    )
    if rank >= size:
        raise UsageError(
            f"RANK is {rank} and WORLD_SIZE is {size}: ranks count from 0 to {size - 1} over all "
            f"nodes; {ADVICE}"
        )
    local = environment.get("LOCAL_WORLD_SIZE")
    if local is not None and not local_rank < _number(environment, "LOCAL_WORLD_SIZE") <= size:
        raise UsageError(
            f"LOCAL_RANK is {local_rank}, LOCAL_WORLD_SIZE {local} and WORLD_SIZE {size}: the "
            f"processes of a node are some of all; {ADVICE}"
        )
    if not environment.get("MASTER_ADDR"):
        raise UsageError(
            f"WORLD_SIZE is {size}, but MASTER_ADDR is not set: it is the host of rank 0. "
            "torchrun sets it, for several nodes by --master-addr HOST"
        )
    if not 0 < port < 2**16:
        raise UsageError(f"MASTER_PORT is {port}: ports count from 1 to 65535")
    return Ranks(rank, size, local_rank, environment["MASTER_ADDR"], port)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not is_whole_number(text):
        found = f"is {text!r}, not a whole number" if name in environment else "is not set"
        raise UsageError(
            f"{name} {found}: torchrun sets RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and "
            "MASTER_PORT; without it give each process all five"
        )
    return int(text)


def find_device(word: str) -> torch.device:
    """The device of a word; under torchrun each process has its own GPU.

    Raises:
        UsageError: a word that is no device, or a GPU where there is none.
    """
    if word == "auto":
        word = "cuda" if torch.cuda.is_available() else "cpu"
    if word != "cpu" and not re.fullmatch(r"cuda(:\d+)?", word):
        raise UsageError(f"device {word!r} is none of auto, cpu, cuda or cuda:N")
    if word.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {word}: there is no CUDA device here; use cpu or auto")
    if word == "cuda" and "LOCAL_RANK" in os.environ:
        number, here = _number(os.environ, "LOCAL_RANK"), torch.cuda.device_count()
        if number >= here:
            raise UsageError(
                f"LOCAL_RANK is {number}, and {socket.gethostname()} has {here} GPU(s): start at "
                f"most one process a GPU, --nproc-per-node {here}"
            )
        word = f"cuda:{number}"
    return torch.device(word)


@contextmanager
def world_from_torchrun(
    device: torch.device, *, join_seconds: float = JOIN_SECONDS
) -> Iterator[World]:
    """The processes that torchrun started, joined while this lasts; one process without torchrun.

    Args:
        device: the gradients are summed by NCCL on a GPU, by gloo elsewhere.
        join_seconds: in which every process has to come.

    Raises:
        UsageError: variables that are missing, wrong, or others than those of another process.
        MachineError: a process did not come, or ended while this lasted.
    """
    ranks = read_ranks(os.environ)
    if ranks is None:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what is no tensor is sent by way of the current one
    store = _connect(ranks, join_seconds)
    hosts = _greet(store, ranks, device, join_seconds)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size)
        yield World(ranks.rank, ranks.size, hosts, store)
    except RuntimeError as error:
        if not _is_of_the_network(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise MachineError(
            f"rank {ranks.rank} on {socket.gethostname()}: another process of the run has ended, "
            f"or does not answer ({reason}); its own message, or that of its node, says why. What "
            "is saved stays: start the same command on every node to resume"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_of_the_network(error: RuntimeError) -> bool:
    """Whether an error is of the connection to another process."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _connect(ranks: Ranks, seconds: float) -> Any:
    """The key-value store that rank 0, or its torchrun, serves; under names of this run alone.

    Raises:
        MachineError: nothing answers there, or rank 0 cannot listen.
    """
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            ranks.address,
            ranks.port,
            ranks.size,
            is_master=ranks.rank == 0 and not is_served,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as error:
        reason = str(error).partition("\n")[0][:200]
        what = "cannot listen" if ranks.rank == 0 and not is_served else "no answer from rank 0"
        raise MachineError(
            f"rank {ranks.rank} of {ranks.size} on {socket.gethostname()}: {what} at "
            f"MASTER_ADDR {ranks.address}, MASTER_PORT {ranks.port} ({reason}): rank 0 has to run "
            "on that host, and the port has to be free there and open to the others"
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefix = f"tokenreel/{attempt}/{next(_joined)}"
    return dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]


def _greet(store: Any, ranks: Ranks, device: torch.device, seconds: float) -> tuple[str, ...]:
    """Say who this process is, and wait until every process has; returns their hosts by rank.

    Raises:
        UsageError: two processes of one rank, or another count or device than that of rank 0.
        MachineError: a process did not come.
    """
    own = {"size": ranks.size, "host": socket.gethostname(), "device": device.type}
    if store.add(f"taken/{ranks.rank}", 1) > 1:
        raise UsageError(
            f"rank {ranks.rank} on {own['host']}: another process has this rank: give each node "
            "its own --node-rank"
        )
    store.set(f"hello/{ranks.rank}", json.dumps(own))
    if ranks.rank == 0:
        answer = _collect(store, ranks.size, own, time.monotonic() + seconds)
        store.set("answer", json.dumps(answer))
    else:
        try:
            store.wait(["answer"], timedelta(seconds=seconds + ANSWER_SECONDS))
        except RuntimeError as error:
            raise MachineError(
                f"rank {ranks.rank} on {own['host']}: no answer from rank 0 at {ranks.address}:"
                f"{ranks.port} within {seconds:.0f} s: {ADVICE}"
            ) from error
        answer = read_json(store.get("answer"))
    store.add("read", 1)
    if "wrong" in answer:
        _wait_for_readers(store, ranks, answer["came"])
        raise (UsageError if answer["kind"] == "usage" else MachineError)(answer["wrong"])
    if ranks.size != len(answer["hosts"]):
        raise UsageError(
            f"WORLD_SIZE is {ranks.size} of rank {ranks.rank} on {own['host']}, and "
            f"{len(answer['hosts'])} of rank 0 on {answer['hosts'][0]}: {ADVICE}"
        )
    return tuple(answer["hosts"])


def _collect(store: Any, size: int, own: Mapping[str, Any], deadline: float) -> dict[str, Any]:
    """What rank 0 answers: the hosts by rank, or what is wrong."""
    hosts: list[str] = []
    missing: list[int] = []
    for rank in range(size):
        left = max(deadline - time.monotonic(), 0.01)
        try:
            store.wait([f"hello/{rank}"], timedelta(seconds=left))
        except RuntimeError:
            missing.append(rank)
            continue
        said = read_json(store.get(f"hello/{rank}"))
        hosts.append(str(said["host"]))
        for name, what in (("size", "WORLD_SIZE"), ("device", "the device")):
            if said[name] != own[name]:
                wrong = (
                    f"{what} is {said[name]} of rank {rank} on {said['host']}, and {own[name]} of "
                    f"rank 0 on {own['host']}: {ADVICE}"
                )
                return {"wrong": wrong, "kind": "usage", "came": len(hosts)}
    if missing:
        named = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        wrong = (
            f"rank {named} of {size} did not come in time to rank 0 on {own['host']}: their own "
            f"messages say why, or their nodes were not started; {ADVICE}"
        )
        return {"wrong": wrong, "kind": "machine", "came": len(hosts)}
    return {"hosts": hosts}


def _wait_for_readers(store: Any, ranks: Ranks, came: int) -> None:
    """Let rank 0, who serves the answer, end after those who came have read it."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while ranks.rank == 0 and time.monotonic() < deadline and store.add("read", 0) < came:
        time.sleep(0.05)
