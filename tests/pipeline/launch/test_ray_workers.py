"""Actors of Ray as the driver's Workers: those that die, move, answer late, and their reports."""

import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import exceptions

from tests.pipeline.launch.fake_ray import Call, FakeRay
from tokenreel.cache.errors import TokenReelError, UsageError
from tokenreel.cache.write.claims import start_of
from tokenreel.extract.report import ExtractReport
from tokenreel.pipeline.launch import base, ray_engine
from tokenreel.pipeline.launch.drive import Away, Done, Lost, Ready, Task
from tokenreel.pipeline.launch.ray_engine import (
    GREET_SECONDS,
    RayWorkers,
    connected,
    device_of,
    nodes_of,
    reason_of,
)

KILLED = exceptions.ActorUnavailableError("The actor x is unavailable: connection lost", None)
DIED = exceptions.ActorDiedError()
TASK = Task(share=(0, 2))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that go by only where a test says so, and the sleeps."""
    found = SimpleNamespace(now=100.0, slept=[])
    names = SimpleNamespace(monotonic=lambda: found.now, sleep=found.slept.append)
    monkeypatch.setattr(ray_engine, "time", names)
    return found


@pytest.fixture
def ray(clock):
    return FakeRay()


@pytest.fixture
def workers(ray):
    return RayWorkers(ray, "job", count=2, gpus=1, cpus=3)


def greeted(ray, workers, *places):
    """Answer the greetings; gives the events."""
    for call in ray.open("hello"):
        call.answer(places[call.actor] if call.actor < len(places) else ("h", 10 + call.actor, "s"))
    return workers.wait(1.0)


def test_actors_are_made_with_their_room_and_are_ready_once_they_answer(ray, workers):
    assert ray.options == {
        "num_cpus": 3,
        "num_gpus": 1,
        "max_restarts": -1,
        "max_task_retries": 0,
        "max_concurrency": 4,
    }
    assert [call.words for call in ray.open("hello")] == [("the job",), ("the job",)]
    assert ray.put_objects == ["job"]
    assert workers.wait(0.7) == []
    assert ray.waits[-1] == (2, 1, 0.7)
    ray.open("hello")[1].answer(("h", 11, "s"))
    assert workers.wait(1.0) == [Ready(1)]
    assert workers.wait(1.0) == [], "said once"


def test_every_answer_that_is_there_comes_in_one_look(ray, workers):
    assert greeted(ray, workers) == [Ready(0), Ready(1)]


def test_a_task_ends_with_its_report(ray, workers):
    greeted(ray, workers)
    workers.give(1, TASK)
    (call,) = ray.open("extract")
    assert (call.actor, call.words) == (1, ("the job", TASK))
    report = ExtractReport(committed=["a"])
    call.answer(report)
    assert workers.wait(1.0) == [Done(1, report)]
    workers.give(1, TASK)
    assert len(ray.open("extract")) == 1


@pytest.mark.parametrize("place", [("other", 10, "s"), ("h", 99, "s"), ("h", 10, "later")])
@pytest.mark.parametrize("error", [KILLED, DIED, exceptions.WorkerCrashedError()])
def test_an_actor_that_died_is_greeted_anew_and_lost_where_it_is_another_process(
    ray, workers, clock, error, place
):
    greeted(ray, workers)
    workers.give(0, TASK)
    ray.open("extract")[0].fail(error)
    workers.reports()
    for call in ray.open("report"):
        call.answer(ExtractReport(num_frames=3))
    assert workers.reports() == {0: ExtractReport(num_frames=3)}
    assert workers.wait(1.0) == [Away(0, reason_of(error))]
    assert workers.reports() == {}, "the driver has it already"
    assert workers.wait(1.0) == []
    assert ray.open("hello") == [], "not at once"
    clock.now += GREET_SECONDS + 0.01
    assert workers.wait(1.0) == workers.wait(1.0) == []
    assert len(ray.open("hello")) == 1
    ray.open("hello")[0].answer(place)
    assert workers.wait(1.0) == [Lost(0, reason_of(error), "h", 10, "s"), Ready(0)]
    workers.give(0, TASK)
    assert workers.reports() == {}, "nothing of the task of before"
    ray.open("extract")[0].fail(KILLED)
    workers.wait(1.0)
    clock.now += 1
    workers.wait(1.0)
    ray.open("hello")[0].answer(("third", 1, "s"))
    assert workers.wait(1.0) == [Lost(0, reason_of(KILLED), *place), Ready(0)]


def test_an_actor_that_was_only_out_of_reach_is_not_lost(ray, workers, clock):
    greeted(ray, workers)
    workers.give(0, TASK)
    ray.open("extract")[0].fail(KILLED)
    workers.wait(1.0)
    clock.now += 1
    workers.wait(1.0)
    ray.open("hello")[0].answer(("h", 10, "s"))
    assert workers.wait(1.0) == [Ready(0)]


def test_an_actor_that_dies_in_its_greeting_is_lost_without_a_place_and_greeted_again(
    ray, workers, clock
):
    first, second = ray.open("hello")
    first.fail(KILLED)  # is being started
    second.fail(DIED)
    assert workers.wait(1.0) == [Lost(1, reason_of(DIED))]
    assert workers.wait(2.0) == []
    assert clock.slept == [GREET_SECONDS]
    assert workers.wait(0.2) == []
    assert clock.slept[1:] == [0.2]
    clock.now += GREET_SECONDS
    assert workers.wait(1.0) == []
    assert ray.open("hello") == [], "after half a second, not before"
    clock.now += 0.01
    assert greeted(ray, workers) == []
    assert greeted(ray, workers) == [Ready(0), Ready(1)]


def test_a_process_that_took_an_actors_place_while_it_had_no_task_is_told_too(ray, workers, clock):
    greeted(ray, workers)
    workers.give(1, TASK)
    ray.open("extract")[0].fail(DIED)
    workers.wait(1.0)
    clock.now += 1
    workers.wait(1.0)
    ray.open("hello")[0].fail(KILLED)
    assert workers.wait(1.0) == []
    clock.now += 1
    workers.wait(1.0)
    ray.open("hello")[0].answer(("h", 77, "s"))
    assert workers.wait(1.0) == [Lost(1, reason_of(DIED), "h", 11, "s"), Ready(1)]


def test_an_error_of_ours_ends_the_task_with_what_it_had_done(ray, workers):
    greeted(ray, workers)
    cause = TokenReelError("2 clips failed")
    report = ExtractReport(num_frames=5)
    workers.give(0, TASK)
    workers.reports()
    ray.open("report")[0].answer(report)
    assert workers.reports() == {0: report}
    ray.open("extract")[0].fail(exceptions.RayTaskError("extract", "Traceback ...", cause))
    assert workers.wait(1.0) == [Done(0, report, cause)]
    assert workers.reports() == {}
    workers.give(1, TASK)
    other = exceptions.RayTaskError("extract", "Traceback ...", SystemExit(1))
    ray.open("extract")[0].fail(other)
    assert workers.wait(1.0) == [Done(1, ExtractReport(), other)]


def test_an_actor_that_refuses_the_job_ends_with_its_reason(ray, workers):
    cause = UsageError("does not see the store")
    ray.open("hello")[0].fail(exceptions.RayTaskError("hello", "Traceback ...", cause))
    assert workers.wait(1.0) == [Done(0, ExtractReport(), cause)]


def test_reports_are_asked_of_the_actors_that_have_a_task_one_at_a_time(ray, workers):
    assert workers.reports() == {}
    greeted(ray, workers)
    workers.give(1, TASK)
    assert workers.reports() == workers.reports() == {}
    (call,) = ray.open("report")
    assert call.actor == 1
    first = ExtractReport(num_frames=1)
    call.answer(first)
    assert workers.reports() == {1: first}
    assert workers.reports() == {1: first}, "the latest"
    ray.open("report")[0].fail(KILLED)
    assert workers.reports() == {1: first}
    assert len(ray.open("report")) == 0, "its task says so too"
    ray.open("extract")[0].answer(ExtractReport(num_frames=2))
    workers.wait(1.0)
    assert workers.reports() == {}
    workers.give(1, TASK)
    assert workers.reports() == {}, "not those of the former task"
    ray.open("report")[0].answer(ExtractReport())
    workers.give(0, TASK)
    assert workers.reports() == {1: ExtractReport()}


def test_every_actor_is_told_to_stop(ray, workers):
    workers.stop(10)
    assert [(call.actor, call.words) for call in ray.open("stop")] == [(0, (10,)), (1, (10,))]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "The actor died.\n  Worker exit type: SYSTEM_ERROR\nmore",
            "Worker exit type: SYSTEM_ERROR",
        ),
        ("The actor died.\n\n\texit detail: killed by the OOM", "exit detail: killed by the OOM"),
        ("\nThe actor x is unavailable: exit type", "it was killed, or its node does not answer"),
        ("\n first \n second", "first"),
        ("", "RuntimeError"),
        ("x" * 500, "x" * 200),
    ],
)
def test_the_reason_of_a_death_is_one_line(text, reason):
    assert reason_of(RuntimeError(text)) == reason


def test_the_device_of_a_worker_is_that_of_the_gpus_that_ray_shows_it():
    assert [device_of(word, 1) for word in ("auto", "cuda", "cuda:1")] == ["cuda"] * 3
    assert [device_of(word, 0) for word in ("auto", "cpu")] == ["cpu"] * 2
    with pytest.raises(UsageError, match="device=cpu and --gpus: leave one of them out"):
        device_of("cpu", 1)
    for word in ("cuda", "cuda:0"):
        with pytest.raises(UsageError, match=f"device={word}: --engine ray needs --gpus"):
            device_of(word, 0)


def test_nodes_that_are_gone_have_no_room():
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {}}]
    assert nodes_of(SimpleNamespace(nodes=lambda: nodes)) == [{"CPU": 2.0}]


@pytest.fixture
def fake_module(monkeypatch):
    """In the place of the module ray; its calls, and the error of its init."""
    found = SimpleNamespace(calls=[], error=None)

    def init(**options):
        found.calls.append(options)
        if found.error is not None:
            raise found.error

    module = SimpleNamespace(init=init, shutdown=lambda: found.calls.append("shutdown"))
    monkeypatch.setitem(__import__("sys").modules, "ray", module)
    names = ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
    for name in (*names, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", ray_engine.NICENESS):
        monkeypatch.setenv(name, "x")  # so that it is put back
        monkeypatch.delenv(name)
    return found


def test_without_an_address_ray_is_started_here_and_ended(fake_module):
    def work():
        with connected(None):
            assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
            assert os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] == "0"
            raise RuntimeError("of the run")

    with pytest.raises(RuntimeError, match="of the run"):
        work()
    options, end = fake_module.calls
    assert (options["address"], options["include_dashboard"], end) == ("local", False, "shutdown")
    assert options["object_store_memory"] == ray_engine.OBJECT_BYTES
    assert os.environ[ray_engine.NICENESS] == "0", "as the processes of the local engine"
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(token) == 64, "else Ray writes one to the home folder, which two commands share"
    with connected(None):
        assert os.environ["RAY_AUTH_TOKEN"] == token, "Ray keeps the first of a process"


def test_a_token_of_the_user_is_the_one_of_ray(fake_module, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "token.txt")
    with connected(None):
        assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_cluster_that_runs_is_joined_as_it_is(fake_module):
    with connected("auto"):
        assert {"RAY_AUTH_TOKEN", ray_engine.NICENESS}.isdisjoint(os.environ), "it has its own"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with connected(f"127.0.0.1:{port}"):
            pass
    options = [call for call in fake_module.calls if call != "shutdown"]
    assert [o["address"] for o in options] == ["auto", f"127.0.0.1:{port}"]
    assert all("object_store_memory" not in o for o in options)


def test_the_port_of_ray_is_the_default(fake_module, monkeypatch):
    asked = []
    monkeypatch.setattr(
        ray_engine.socket,
        "create_connection",
        lambda place, timeout: (
            asked.append((place, timeout)) or SimpleNamespace(close=lambda: None)
        ),
    )
    with connected("head"):
        pass
    assert asked == [(("head", 6379), 10.0)]
    assert fake_module.calls[0]["address"] == "head:6379"


@pytest.mark.parametrize(
    ("address", "where"), [(None, "on this machine"), ("auto", "on this machine")]
)
def test_a_cluster_that_does_not_answer_is_told_in_one_line(fake_module, address, where):
    fake_module.error = ConnectionError("Could not find any running Ray instance.\nmore")
    why = rf"no cluster {where} \(Could not find any running Ray instance\.\): start one"
    with pytest.raises(UsageError, match=why), connected(address):
        pass
    assert len(fake_module.calls) == 1, "nothing is to be ended"


def test_an_actor_reports_while_it_extracts_and_is_stopped_by_a_call(monkeypatch, tmp_path):
    seen, worker = {}, ray_engine.Worker()
    job = ray_engine.Job(
        *("manifest", ("a", "b", "c"), "config", tmp_path, "changes", "keep", str(tmp_path), {}),
        processes=3,
    )

    def extract(manifest, config, store, **options):
        seen.update(options, manifest=manifest, config=config, store=store)
        options["tick"](ExtractReport(num_frames=4))
        worker.stop(signal.SIGUSR1)
        assert worker.report().num_frames == 4
        return ExtractReport(num_frames=5)

    monkeypatch.setattr(ray_engine, "extract_clips", extract)
    task = SimpleNamespace(share=(1, 3), clips=lambda part: [*part[:2]])
    assert worker.extract(job, task).num_frames == 5
    wanted = {"manifest": "manifest", "config": "config", "store": tmp_path, "share": (1, 3)}
    wanted |= {"part": ["a", "b"], "changes": "changes", "changed": "keep", "processes": 3}
    assert seen.items() >= wanted.items()
    assert seen["progress"] is False
    assert seen["stopping"].signal == signal.SIGUSR1
    monkeypatch.setattr(ray_engine, "extract_clips", lambda *_, **__: worker.report())
    assert worker.extract(job, task) == ExtractReport(), "of the former task nothing is left"


def test_an_actor_goes_to_the_folder_of_the_command(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "SEEN_SECONDS", 0.0)
    monkeypatch.setenv("TOKENREEL_CACHE_BYTES", "1M")
    (tmp_path / "work").mkdir()
    (tmp_path / "recipe.json").touch()
    job = ray_engine.Job(
        *(None, (), None, tmp_path, None, "refuse", str(tmp_path / "work")),
        {},
        processes=1,
        environment={"TOKENREEL_CACHE_BYTES": "2G"},
    )
    place = socket.gethostname(), os.getpid(), start_of(os.getpid())
    assert ray_engine.Worker().hello(job) == place
    assert Path.cwd() == tmp_path / "work"
    assert os.environ["TOKENREEL_CACHE_BYTES"] == "2G"
    (tmp_path / "recipe.json").unlink()
    with pytest.raises(UsageError, match=r"does not see .*recipe\.json"):
        ray_engine.Worker().hello(job)


def test_a_call_that_is_not_over_has_no_answer():
    with pytest.raises(AssertionError):
        FakeRay().get(Call(0, "hello", ()))
