"""Joining the processes of a run: variables that are wrong, and processes that do not come."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from tests.ports import free_port
from tokenreel.cache.errors import Damaged, MachineError, UsageError, WrongIdentity
from tokenreel.fuse.distributed import world as world_module
from tokenreel.fuse.distributed.join import (
    Ranks,
    _connect,
    _greet,
    find_device,
    read_ranks,
    world_from_torchrun,
)
from tokenreel.fuse.distributed.world import ALONE, World, behind_first, in_step, require_alike

CPU = torch.device("cpu")
GIVEN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
GIVEN |= {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


def test_the_ranks_of_torchrun_are_read_and_a_process_alone_has_none():
    assert read_ranks(GIVEN) == Ranks(3, 4, 1, "node0", 29500)
    assert read_ranks({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert read_ranks({"LOCAL_RANK": "0"}) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"WORLD_SIZE": None}, "WORLD_SIZE is not set: torchrun sets RANK, LOCAL_RANK"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE is 'four', not a whole number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0: it is the number"),
        ({"WORLD_SIZE": "1"}, "RANK is 3 and WORLD_SIZE is 1: ranks count from 0 to 0"),
        ({"WORLD_SIZE": "3"}, "RANK is 3 and WORLD_SIZE is 3: ranks count from 0 to 2"),
        ({"RANK": None}, "RANK is not set"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK is '', not a whole number"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2, LOCAL_WORLD_SIZE 2 and WORLD_SIZE 4"),
        ({"LOCAL_WORLD_SIZE": "8"}, "LOCAL_RANK is 1, LOCAL_WORLD_SIZE 8 and WORLD_SIZE 4"),
        ({"MASTER_ADDR": None}, "WORLD_SIZE is 4, but MASTER_ADDR is not set: it is the host of"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is 65536: ports count from 1 to 65535"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT is 0"),
    ],
)
def test_variables_that_are_missing_or_wrong_are_named(changes, why):
    given = {name: value for name, value in (GIVEN | changes).items() if value is not None}
    with pytest.raises(UsageError, match=why):
        read_ranks(given)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert find_device("auto") == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match=r"LOCAL_RANK is 2, and .* has 2 GPU\(s\).*per-node 2"):
        find_device("cuda")


def greet(*some, seconds=20.0, is_first_last=False):
    """What each of some processes is answered, by its (rank, size, device).

    Args:
        some: the processes that come.
        seconds: that rank 0 waits for the others.
        is_first_last: rank 0 comes after all others that do.
    """
    store = dist.HashStore()

    def come(rank, size, device):
        try:
            ranks = Ranks(rank, size, 0, "node0", 1)
            if rank == 0 and is_first_last:
                store.wait([f"hello/{other}" for other, *_ in some if other])
            return _greet(store, ranks, torch.device(device), seconds)
        except (UsageError, MachineError) as error:
            return error

    with ThreadPoolExecutor(len(some)) as pool:
        return list(pool.map(lambda one: come(*one), some))


def test_processes_that_all_come_know_the_hosts_of_each_other():
    assert greet((0, 3, "cpu"), (1, 3, "cpu"), (2, 3, "cpu")) == [(socket.gethostname(),) * 3] * 3


@pytest.mark.parametrize(
    ("others", "kind", "why"),
    [
        ([(1, 3, "cpu")], UsageError, "WORLD_SIZE is 3 of rank 1 on HOST, and 2 of rank 0 on HOST"),
        ([(1, 2, "cuda")], UsageError, "the device is cuda of rank 1 on HOST, and cpu of rank 0"),
    ],
)
def test_every_process_is_told_in_what_another_differs(others, kind, why):
    answers = greet((0, 2, "cpu"), *others)
    assert {type(answer) for answer in answers} == {kind}
    assert len({str(answer) for answer in answers}) == 1
    assert why.replace("HOST", socket.gethostname()) in str(answers[0])


def test_a_process_that_rank_0_does_not_know_of_is_refused():
    *known, late = greet((0, 2, "cpu"), (1, 2, "cpu"), (2, 3, "cpu"))
    assert known == [(socket.gethostname(),) * 2] * 2
    assert isinstance(late, UsageError)
    assert "WORLD_SIZE is 3 of rank 2" in str(late)
    assert f"and 2 of rank 0 on {socket.gethostname()}" in str(late)


def test_processes_that_do_not_come_are_named_to_all_that_did():
    answers = greet((0, 4, "cpu"), (2, 4, "cpu"), seconds=0.3, is_first_last=True)
    assert [type(answer) for answer in answers] == [MachineError] * 2
    assert f"rank 1, 3 of 4 did not come in time to rank 0 on {socket.gethostname()}" in str(
        answers[0]
    )
    assert str(answers[0]) == str(answers[1])


def test_a_rank_0_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr("tokenreel.fuse.distributed.join.ANSWER_SECONDS", 0.1)
    [answer] = greet((1, 2, "cpu"), seconds=0.1)
    assert isinstance(answer, MachineError)
    assert "no answer from rank 0 at node0:1 within 0 s" in str(answer)


def test_the_second_process_of_a_rank_is_refused():
    store = dist.HashStore()
    ranks = Ranks(1, 2, 0, "node0", 1)
    store.add("taken/1", 1)
    with pytest.raises(UsageError, match="another process has this rank: give each node its own"):
        _greet(store, ranks, CPU, 0.1)


def test_rank_0_that_serves_an_error_ends_after_all_who_came_have_read_it():
    store = dist.HashStore()
    store.set("hello/1", json.dumps({"size": 3, "host": "node1", "device": "cpu"}))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_greet, store, Ranks(0, 2, 0, "node0", 1), CPU, 5.0)
        store.wait(["answer"])
        time.sleep(0.3)
        assert not first.done()
        store.add("read", 1)
        with pytest.raises(UsageError, match="WORLD_SIZE is 3 of rank 1 on node1"):
            first.result(60)


def test_a_second_run_of_a_process_has_names_of_its_own():
    ranks = Ranks(0, 2, 0, "127.0.0.1", free_port())
    first, second = (_connect(ranks, 60.0) for _ in range(2))
    first.set("answer", "of the first")
    assert first.check(["answer"])
    assert not second.check(["answer"])


def test_a_host_that_does_not_answer_and_a_port_that_is_taken_are_named(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(MachineError, match=f"no answer from rank 0 at .*, MASTER_PORT {port}"):
            _connect(Ranks(1, 2, 1, "127.0.0.1", port), 0.5)
        taken.listen()
        with pytest.raises(MachineError, match=r"cannot listen at MASTER_ADDR 127\.0\.0\.1"):
            _connect(Ranks(0, 2, 0, "127.0.0.1", port), 0.5)


@pytest.fixture
def pair(monkeypatch):
    """Two processes as threads: what each gathers, and a key-value store."""
    store, barrier, values = dist.HashStore(), threading.Barrier(2, timeout=300), [None, None]
    here = threading.local()

    def gather(found, value):
        values[here.rank] = value
        barrier.wait()
        found[:] = values
        barrier.wait()

    def reduce(flag, op):
        found = [None, None]
        gather(found, flag.clone())
        flag.copy_(max(found))

    monkeypatch.setattr(world_module.dist, "all_gather_object", gather)
    monkeypatch.setattr(world_module.dist, "all_reduce", reduce)

    def run(do):
        def one(rank):
            here.rank = rank
            try:
                return do(World(rank, 2, ("a", "b"), store))
            except Exception as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, range(2)))

    return run


def test_an_error_of_one_process_in_a_block_is_raised_in_both(pair, caplog):
    def do(world):
        with world_module.together(world):
            if world.rank == 1:
                raise Damaged("a clip is torn")

    assert [repr(answer) for answer in pair(do)] == ["Damaged('a clip is torn')"] * 2
    assert "rank 1 on b: a clip is torn" in caplog.text


def test_an_error_while_one_process_reads_ends_both_after_the_same_item(pair):
    def do(world):
        def items():
            yield 1
            yield 2
            if world.rank == 0:
                raise Damaged("a clip is torn")
            yield 3

        taken = []
        try:
            taken.extend(in_step(items(), world, CPU))
        except Damaged as error:
            taken.append(str(error))
        return taken

    # list.extend takes what came before the error
    assert pair(do) == [[1, 2, "a clip is torn"]] * 2
    assert pair(lambda world: list(in_step(iter("ab"), world, CPU))) == [["a", "b"]] * 2


def test_items_of_one_process_are_handed_on_as_they_are():
    items = iter([1])
    assert in_step(items, ALONE, CPU) is items


def test_what_differs_between_processes_is_named_with_the_first_one(pair):
    def do(world):
        require_alike({"code": "1", "run": {"store": "xy"[world.rank]}}, world)

    answers = pair(do)
    assert {type(answer) for answer in answers} == {WrongIdentity}
    assert "  rank 1 on b: run.store is 'y', of rank 0 on a 'x'\n" in str(answers[0])
    assert "code" not in str(answers[0]).partition("every node")[0]
    assert pair(lambda world: require_alike({"code": 1}, world)) == [None, None]


@pytest.mark.parametrize(("count", "more"), [(9, ["  and 3 more"]), (6, [])])
def test_at_most_six_differences_are_listed(pair, count, more):
    def do(world):
        require_alike({f"field{number}": world.rank for number in range(count)}, world)

    lines = str(pair(do)[0]).splitlines()
    assert sum("rank 1 on b" in line for line in lines) == 6
    assert [line for line in lines if "more" in line] == more


def test_the_others_wait_until_the_first_one_has_left_the_block_even_by_an_error(pair):
    left = []

    def do(world):
        with behind_first("embedding", world):
            if world.is_first:
                time.sleep(0.3)  # in which one that does not wait would be through
                left.append(world.rank)
                raise Damaged("a clip is torn")
        left.append(world.rank)

    first, other = pair(do)
    assert isinstance(first, Damaged)
    assert other is None
    assert left == [0, 1]


def test_a_process_alone_is_no_world(monkeypatch):
    for name in GIVEN:
        monkeypatch.delenv(name, raising=False)
    with world_from_torchrun(CPU) as world:
        assert world == ALONE
    with pytest.raises(Damaged), world_module.together(ALONE):
        raise Damaged("torn")


def test_errors_of_the_network_are_told_and_others_stay_as_they_are(monkeypatch):
    for name, value in (GIVEN | {"RANK": "0", "MASTER_PORT": str(free_port())}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr("tokenreel.fuse.distributed.join._greet", lambda *_: ("a",) * 4)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    text = "[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1"
    with (
        pytest.raises(MachineError, match=r"rank 0 on .*: another process of the run has ended"),
        world_from_torchrun(CPU),
    ):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="no kernel"), world_from_torchrun(CPU):
        raise RuntimeError("no kernel")
