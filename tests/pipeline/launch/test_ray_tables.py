"""Tables as tasks of Ray: what a task is, how it ends, and what a signal does."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import exceptions

from tests.pipeline.launch.fake_ray import FakeRay
from tokenreel.cache.errors import UsageError
from tokenreel.extract.signals import Stopping
from tokenreel.pipeline.launch.base import Placement
from tokenreel.pipeline.launch.tables import ray_engine
from tokenreel.pipeline.launch.tables.base import Group, TableRequest
from tokenreel.pipeline.launch.tables.ray_engine import train_on_ray


def group(*names):
    return Group(
        tuple(SimpleNamespace(out=Path(f"runs/{n}")) for n in names), "cpu", "auto", None, ""
    )


GROUPS = [group("a", "b"), group("c")]


class Answering(FakeRay):
    """Answers the tasks at their first look, in order, with what it is given."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = answers

    def wait(self, calls, **options):
        for call, answer in zip(self.calls, self.answers, strict=True):
            call.answer(answer)
        return super().wait(calls, **options)


def run(ray, stopping=None):
    return train_on_ray(ray, GROUPS, stopping or Stopping(), gpus=1, cpus=3)


def test_each_group_is_a_task_that_is_tried_twice_in_a_process_of_its_own():
    ray = Answering({"runs/a": None, "runs/b": "no room"}, {"runs/c": None})
    results = run(ray)
    assert ray.options == {"num_cpus": 3, "num_gpus": 1, "max_retries": 1, "max_calls": 1}
    assert [(call.name, call.words) for call in ray.calls] == [("train", (g,)) for g in GROUPS]
    assert [(r.path.name, r.error and str(r.error)) for r in results] == [
        *[("a", None), ("b", "no room")],
        ("c", None),
    ]
    assert ray.waits[0] == (2, 1, ray_engine.WAIT_SECONDS)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (exceptions.WorkerCrashedError(), "its worker died 2 times (The worker died unexpectedly"),
        (exceptions.RayTaskError("train", "Traceback\n", UsageError("no\nweights")), "weights"),
        (exceptions.RayTaskError("train", "T\nValueError: 3\n", ValueError()), "ValueError: 3"),
        (exceptions.RayTaskError("train", "x" * 999, ValueError()), "x" * 200),
    ],
)
def test_a_task_that_is_lost_or_raises_is_the_reason_of_all_its_runs(error, reason):
    results = run(Answering(error, {"runs/c": None}))
    found = [str(result.error) for result in results]
    assert [text.startswith(reason) for text in found] == [True, True, False]
    assert all(len(text) <= 300 for text in found)
    assert found[2] == "None"


@pytest.mark.parametrize(("number", "status"), [(2, 130), (15, 143), (10, 143)])
def test_a_signal_cancels_what_is_left_once_and_waits_a_minute(monkeypatch, number, status):
    ray, stopping, now = FakeRay(), Stopping(), [0.0]
    monkeypatch.setattr(ray_engine, "time", SimpleNamespace(monotonic=lambda: now[0]))
    look = ray.wait

    def wait(calls, **options):
        now[0] += 1.0
        if now[0] == 2:
            ray.calls[0].answer({"runs/a": None, "runs/b": None})
            stopping.stop(number)
        return look(calls, **options)

    ray.wait = wait
    with pytest.raises(SystemExit) as end:
        run(ray, stopping)
    assert end.value.code == status
    assert ray.cancelled == [(ray.calls[1], {"force": False})]
    assert now[0] == pytest.approx(2 + ray_engine.SAVE_SECONDS, abs=1)


def test_a_signal_that_comes_with_the_last_answer_ends_the_command_too():
    stopping = Stopping()
    stopping.stop(15)
    with pytest.raises(SystemExit):
        run(Answering({"runs/a": None, "runs/b": None}, {"runs/c": None}), stopping)


@pytest.mark.parametrize(("nodes", "count"), [(None, None), (3, 3)])
def test_the_groups_are_those_of_the_processes_that_the_command_asks_for(monkeypatch, nodes, count):
    seen = {}

    class Connected:
        nodes = staticmethod(lambda: [{"Alive": True, "Resources": {"CPU": 8.0}}])

        def __init__(self, address):
            seen["address"] = address

        def __enter__(self):
            return self

        def __exit__(self, *_):
            seen["is_over"] = True

    def groups(request, jobs, number, device):
        seen.update(jobs=jobs, count=number, device=device)
        return ["groups"]

    def train(ray, made, stopping, *, gpus, cpus):
        assert "is_over" not in seen
        seen.update(made=made, gpus=gpus, cpus=cpus)
        return ["result"]

    monkeypatch.setattr(ray_engine, "connected", Connected)
    monkeypatch.setattr(ray_engine, "groups_of", groups)
    monkeypatch.setattr(ray_engine, "train_on_ray", train)
    monkeypatch.setattr(ray_engine, "train_rest", lambda jobs, train: train(jobs))
    monkeypatch.setattr(TableRequest, "make", lambda request, train: train(["job"]))
    request = TableRequest(("table",), 2, device="auto")
    found = ray_engine.launch(request, Placement(nodes=nodes, cpus=2, address="head:1"))
    assert found.report == ["result"]
    wanted = {"address": "head:1", "jobs": ["job"], "count": count, "device": "cpu"}
    wanted |= {"made": ["groups"], "gpus": 0, "cpus": 2, "is_over": True}
    assert seen == wanted
