"""Shared by the engines: paths that every node can use, versions, and what a node sees."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.errors import MachineError, UsageError, WrongIdentity
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.pipeline import defaults
from tokenreel.pipeline.defaults import code_version
from tokenreel.pipeline.launch import base
from tokenreel.pipeline.launch.base import (
    Extraction,
    first_video,
    ready,
    require_package,
    require_seen,
    require_versions,
    versions_here,
)


@pytest.fixture
def read(monkeypatch, tmp_path):
    """Where ready makes the store of which words."""
    monkeypatch.chdir(tmp_path)
    found = []

    def make(manifest, config, out):
        found.append((manifest, config, out))
        return Path("stores/named") if out is None else out

    monkeypatch.setattr(base, "read_words", lambda *words, root: ((*words, root), "config"))
    monkeypatch.setattr(base, "make_store", make)
    return found


def test_nodes_get_absolute_paths_and_the_store_is_made_before(read, tmp_path):
    wanted = Extraction("gym", ("blocks=1",), Path("videos"), Path("out"), limit=2)
    made, manifest, config = ready(wanted)
    assert (made.root, made.out) == (tmp_path / "videos", tmp_path / "out")
    assert (made.dataset, made.words, made.limit) == ("gym", ("blocks=1",), 2)
    assert (manifest, config) == (("gym", ("blocks=1",), Path("videos")), "config")
    assert read == [(manifest, config, Path("out"))]
    made, *_ = ready(Extraction("gym"))
    assert (made.root, made.out) == (tmp_path / "data/gym", tmp_path / "stores/named")
    assert read[1][2] is None


def test_a_limit_that_leaves_nothing_is_refused_before_the_store_is_made(read):
    with pytest.raises(UsageError, match="--limit 0"):
        ready(Extraction("gym", limit=0))
    assert read == []


def test_the_first_video_is_one_that_is_there(tmp_path, monkeypatch):
    clips = tuple(Clip(name, f"{name}.mp4") for name in "abc")
    assert first_video(Manifest("d", tmp_path, clips)) is None
    for name in "cb":
        (tmp_path / f"{name}.mp4").touch()
    assert first_video(Manifest("d", tmp_path, clips)) == tmp_path / "b.mp4"
    monkeypatch.chdir(tmp_path)
    assert first_video(Manifest("d", Path(), clips)) == tmp_path / "b.mp4"
    assert first_video(Manifest("d", store_path("s3://lab/videos"), clips)) is None


@pytest.mark.parametrize("lost", ["work", "store/recipe.json", "v.mp4"])
def test_a_node_that_lacks_a_folder_or_file_is_refused_with_its_name(tmp_path, monkeypatch, lost):
    monkeypatch.setattr(base, "SEEN_SECONDS", 0.0)
    (tmp_path / "store").mkdir()
    for name in {"work", "store/recipe.json", "v.mp4"} - {lost}:
        (tmp_path / name).touch()
    where = tmp_path / "work", tmp_path / "store", tmp_path / "v.mp4"
    with pytest.raises(UsageError, match=f"does not see {tmp_path / lost}: "):
        require_seen(str(where[0]), *where[1:])
    (tmp_path / lost).touch()
    require_seen(str(where[0]), *where[1:])
    require_seen(str(where[0]), where[1], None)


def test_what_a_node_sees_late_is_waited_for(tmp_path, monkeypatch):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            (tmp_path / "recipe.json").touch()

    monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=lambda: sum(waits), sleep=sleep))
    require_seen(str(tmp_path), tmp_path, None)
    assert waits == [0.5] * 3


def test_a_node_that_was_stopped_for_long_looks_once_more(tmp_path, monkeypatch):
    clock = iter([0.0, 100.0])

    def stopped():
        now = next(clock)
        if now:
            (tmp_path / "recipe.json").touch()
        return now

    monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=stopped))
    require_seen(str(tmp_path), tmp_path, None)


def test_versions_are_those_of_the_code_of_python_and_of_what_makes_tokens(monkeypatch):
    found = versions_here()
    assert (found["tokenreel"], found["python"]) == (code_version(), platform.python_version())
    assert {*base.PACKAGES} < found.keys()
    assert found["numpy"] == version("numpy")

    def lacking(name):
        if name == "decord":
            raise PackageNotFoundError(name)
        return "7"

    monkeypatch.setattr(base, "version", lacking)
    assert (versions_here()["decord"], versions_here()["av"]) == ("absent", "7")


def test_every_version_that_differs_is_listed(monkeypatch):
    monkeypatch.setattr(base, "versions_here", lambda: {"av": "2", "numpy": "1", "extra": "9"})
    require_versions({"av": "2", "numpy": "1", "decord": "absent"})
    with pytest.raises(WrongIdentity) as error:
        require_versions({"av": "1", "numpy": "1", "decord": "3"})
    lines = str(error.value).splitlines()
    assert lines[1:3] == ["  av: 2, wanted 1", "  decord: absent, wanted 3"]
    assert len(lines) == 4


def test_a_package_that_is_not_there_is_told_with_its_extra(monkeypatch):
    require_package("numpy", "ray")
    why = r"--engine ray needs no-such-package, .*: pip install 'tokenreel\[ray\]'"
    with pytest.raises(UsageError, match=why):
        require_package("no-such-package", "ray")


def test_a_git_that_does_not_answer_is_named(monkeypatch):
    def slow(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(defaults.subprocess, "run", slow)
    with pytest.raises(MachineError, match="git does not say within 120 s which commit this is"):
        code_version.__wrapped__()
