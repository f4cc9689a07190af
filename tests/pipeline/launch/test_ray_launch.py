"""A whole run of the engine of Ray, with actors in this process: shards, lists and limits."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.extract.extraction import write_video
from tests.programs import call
from tokenreel.cache.errors import UsageError
from tokenreel.cache.write.worker_notes import expected_clips
from tokenreel.pipeline.launch import ray_engine
from tokenreel.pipeline.launch.base import Extraction, Placement, versions_here
from tokenreel.pipeline.launch.drive import Done, Ready

WORDS = ("backbone=test_vit", "weights=random:0", "image_size=32", "blocks=5", "device=auto")
WORDS += ("codec=fp16", "workers=1")


class Inline:
    """Workers that do a task at once, in this process.

    Attributes:
        made: job, count, gpus and cpus.
    """

    def __init__(self, ray, job, *, count, gpus, cpus):
        type(self).made = SimpleNamespace(job=job, count=count, gpus=gpus, cpus=cpus)
        self.count, self._events = count, [Ready(number) for number in range(count)]
        self._actor = ray_engine.Worker()

    def give(self, worker, task):
        report = self._actor.extract(self.made.job, task)
        self._events += [Done(worker, report)]

    def wait(self, seconds):
        events, self._events = self._events, []
        return events

    def reports(self):
        return {}

    def stop(self, number):
        raise AssertionError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/a.mp4", 6)
    for name in "bcd":
        (tmp_path / f"videos/{name}.mp4").write_bytes((tmp_path / "videos/a.mp4").read_bytes())

    @contextlib.contextmanager
    def connected(address):
        nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0 * (address == "gpus")}}]
        yield SimpleNamespace(nodes=lambda: nodes)

    monkeypatch.setattr(ray_engine, "connected", connected)
    monkeypatch.setattr(ray_engine, "RayWorkers", Inline)
    return tmp_path


def launch(folder, *words, address=None, gpus=None, nodes=None, **options):
    extraction = Extraction(
        "folder", (*WORDS, *words), folder / "videos", folder / "store", **options
    )
    return ray_engine.launch(extraction, Placement(address=address, gpus=gpus, nodes=nodes))


def test_two_shards_of_the_listed_videos_are_the_whole_store(folder, monkeypatch):
    monkeypatch.setenv("TOKENREEL_CACHE_BYTES", "1G")
    monkeypatch.delenv("TOKENREEL_CACHE_DIR", raising=False)
    (folder / "times.csv").write_text("video,time_seconds\na.mp4,0.08\nb.mp4,0\nc.mp4,0\n")
    done = launch(folder, "frames=listed:times.csv", shard="0/2", nodes=2)
    assert (done.report.num_unlisted, done.report.num_missing) == (0, 0)
    assert len(done.report.committed) == 2
    assert expected_clips(done.store) == 3
    assert call("tokenreel", "status", done.store, cwd=folder)[0] == 3
    job = Inline.made.job
    assert (Inline.made.count, Inline.made.gpus, Inline.made.cpus) == (2, 0, 2)
    assert (job.config.device, job.processes, job.versions) == ("cpu", 1, versions_here())
    assert (job.store, job.folder, job.changed) == (folder / "store", str(folder), "refuse")
    assert (job.environment, job.video) == (
        {"TOKENREEL_CACHE_BYTES": "1G"},
        folder / "videos/a.mp4",
    )
    done = launch(folder, "frames=listed:times.csv", shard="1/2")
    assert (len(done.report.committed), done.report.num_unlisted) == (1, 1)
    assert done.report.exit_status == 0
    assert call("tokenreel", "status", done.store, cwd=folder)[0] == 0


def test_what_a_limit_leaves_out_and_what_cannot_be_read_is_said(folder, monkeypatch):
    ready = ray_engine.ready

    def lacking(extraction):
        extraction, manifest, config = ready(extraction)
        return extraction, replace(manifest, unreadable=("x: gone",)), config

    monkeypatch.setattr(ray_engine, "ready", lacking)
    done = launch(folder, limit=1)
    assert (len(done.report.committed), done.report.num_over_limit) == (1, 3)
    assert expected_clips(done.store) is None
    assert done.report.unreadable == ["x: gone"]


def test_workers_on_gpus_share_the_cores_of_their_machine(folder, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {*range(8)})
    given, policies = {}, []

    class Driver:
        def __init__(self, workers, manifest, part, store, **options):
            given.update(options, part=part, store=store)

        def run(self, stopping):
            return SimpleNamespace()

    def changes(manifest, store, part, *, policy):
        policies.append((store, len(part), policy))
        return SimpleNamespace(replaced={"a.mp4": "record"})

    monkeypatch.setattr(ray_engine, "Driver", Driver)
    monkeypatch.setattr(ray_engine, "find_changes", changes)
    launch(folder, "max_failures=5", address="gpus", gpus="all", changed="replace")
    assert policies == [(folder / "store", 4, "replace")]
    assert (given["replaced"], given["max_failures"]) == ({"a.mp4": "record"}, 5)
    assert (len(given["run"]), len(given["part"])) == (4, 4)
    assert Inline.made.job.changed == "replace"
    made = Inline.made
    assert (made.count, made.gpus, made.cpus) == (2, 1, 2)
    assert (made.job.config.device, made.job.processes) == ("cuda", 4)
    with pytest.raises(UsageError, match="--gpus all: the Ray cluster has no GPU"):
        launch(folder, gpus="all")


def test_a_wrong_shard_is_refused_before_ray_is_asked(folder, monkeypatch):
    monkeypatch.setattr(ray_engine, "connected", None)
    with pytest.raises(UsageError, match="--shard is i/n"):
        launch(folder, shard="2/2")
