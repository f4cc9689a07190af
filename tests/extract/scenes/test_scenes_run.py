"""`extract scenes`: the list, restarts, videos that fail or change, a list that was edited."""

import csv
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.extract.scenes.films import write_film
from tokenreel.cache.canonical import canonical_json, open_seal, seal
from tokenreel.cache.errors import Damaged, MachineError, UsageError, WrongIdentity
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract import scene_list
from tokenreel.extract.scene_list import read_scenes
from tokenreel.extract.scenes import processes
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.run import extract_scenes
from tokenreel.extract.scenes.segment import SegmentJob
from tokenreel.extract.video.types import VideoError
from tokenreel.pipeline.cli.extract import app

CONFIG = ScenesConfig(workers=2)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    root = tmp_path_factory.mktemp("films")
    write_film(root / "a.mp4", [30, 20])
    write_film(root / "b/long, film.mp4", [15, 25, 40])
    write_film(root / "one.mp4", [1])
    (root / "bad.mp4").write_bytes(b"no video")
    return root


def manifest_of(root, *videos):
    names = videos or ("a.mp4", "b/long, film.mp4")
    return Manifest("toy", root, tuple(Clip(name, name) for name in names))


def run(root, out, *videos, config=CONFIG, **given):
    return extract_scenes(manifest_of(root, *videos), config, out, progress=False, **given)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def made(films, tmp_path):
    """Copies of two films, and the folder of their scenes."""
    root, out = tmp_path / "films", tmp_path / "scenes"
    for name in ("a.mp4", "b/long, film.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((films / name).read_bytes())
        os.utime(root / name, ns=(10**18, 10**18))
    run(root, out)
    return root, out


def test_the_list_has_a_line_for_each_scene(made):
    _, out = made
    with (out / "scenes.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["video", "scene", "start_seconds", "stop_seconds", "centre_seconds", "num_frames"],
        ["a.mp4", "0", "0.0", "1.2", "0.6", "30"],
        ["a.mp4", "1", "1.2", "2.0", "1.6", "20"],
        ["b/long, film.mp4", "0", "0.0", "0.6", "0.28", "15"],
        ["b/long, film.mp4", "1", "0.6", "1.6", "1.08", "25"],
        ["b/long, film.mp4", "2", "1.6", "3.2", "2.4", "40"],
    ]


def test_the_description_says_how_the_list_was_made(made):
    root, out = made
    said = open_seal(json.loads((out / "scenes.json").read_bytes()), where="scenes.json")
    assert (said["method"], said["rules"]) == ("running-mean", 2)
    wanted = {"threshold": 18.5, "window": 3, "min_frames": 12, "distance": "l2"}
    assert said["parameters"] == wanted
    assert said["versions"]["tokenreel"]
    assert said["versions"]["av"] != "absent"
    size, mtime_ns, _ = said["sources"]["a.mp4"]
    assert (size, mtime_ns) == ((root / "a.mp4").stat().st_size, 10**18)
    found = read_scenes(out)
    assert {video: len(scenes) for video, scenes in found.scenes.items()} == {
        "a.mp4": 2,
        "b/long, film.mp4": 3,
    }
    assert read_scenes(out / "scenes.csv") == found


def test_a_second_run_reads_no_video_and_changes_no_byte(made, monkeypatch):
    root, out = made
    before = files(out)
    monkeypatch.setattr(processes, "_Process", None)
    report = run(root, out)
    assert (report.found, len(report.kept), report.exit_status) == ([], 2, 0)
    assert files(out) == before


def test_a_video_that_is_added_is_read_alone(made, films):
    root, out = made
    write_film(root / "new.mp4", [14, 14])
    report = run(root, out, "a.mp4", "b/long, film.mp4", "new.mp4")
    assert report.found == ["new.mp4"]
    assert len(read_scenes(out).scenes["new.mp4"]) == 2


def test_the_number_of_processes_changes_no_byte(made, tmp_path):
    root, out = made
    run(root, tmp_path / "one", config=ScenesConfig(workers=1))
    assert files(tmp_path / "one") == files(out)


def test_videos_that_cannot_be_read_are_listed_and_the_others_done(films, tmp_path):
    report = run(films, tmp_path, "a.mp4", "bad.mp4", "one.mp4", "gone.mp4")
    assert (sorted(report.found), report.exit_status) == (["a.mp4", "one.mp4"], 3)
    reasons = {failure.clip_id: str(failure) for failure in report.failed}
    assert reasons["bad.mp4"].startswith("bad.mp4: open: ")
    assert reasons["gone.mp4"].endswith("open: no such file or directory")
    assert set(read_scenes(tmp_path).scenes) == {"a.mp4", "one.mp4"}
    assert set(scene_list.read_description(tmp_path / "scenes.json")["failed"]) == set(reasons)


@pytest.mark.parametrize("policy", ["refuse", "replace", "keep"])
def test_a_video_that_changed_is_refused_replaced_or_kept(made, policy):
    root, out = made
    before = (out / "scenes.csv").read_bytes()
    write_film(root / "a.mp4", [13, 37])
    report = run(root, out, changed=policy)
    assert report.changed["a.mp4"].startswith("a.mp4: was ")
    assert report.exit_status == (3 if policy == "refuse" else 0)
    assert ("--changed replace" in report.table()) == (policy == "refuse")
    assert ((out / "scenes.csv").read_bytes() == before) == (policy != "replace")
    frames = [scene.num_frames for scene in read_scenes(out).scenes["a.mp4"]]
    assert frames == ([13, 37] if policy == "replace" else [30, 20])


def test_another_time_of_the_same_bytes_is_no_change(made):
    root, out = made
    os.utime(root / "a.mp4", ns=(11 * 10**17, 11 * 10**17))
    report = run(root, out)
    assert (report.changed, len(report.kept)) == ({}, 2)


def test_a_folder_of_another_method_is_refused(made):
    root, out = made
    with pytest.raises(WrongIdentity, match=r"parameters.threshold: found 18.5, wanted 12.0"):
        run(root, out, config=ScenesConfig(threshold=12))


def test_a_list_edited_by_hand_is_read_with_a_warning_and_never_overwritten(made, caplog):
    root, out = made
    before = read_scenes(out)
    table = out / "scenes.csv"
    table.write_text(table.read_text().replace("a.mp4,1,1.2,2.0,1.6", "a.mp4,1,1.2,1.9,1.6"))
    found = read_scenes(out)
    assert "edited since" in caplog.text
    assert found.sha256 != before.sha256
    assert found.scenes["a.mp4"][1].stop_seconds == 1.9
    with pytest.raises(UsageError, match="was edited since it was written, and would be lost"):
        run(root, out)


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("a.mp4,1,1.2,", "a.mp4,2,1.2,", "scenes.csv:3: scene is 2, but 1 of a.mp4 are listed"),
        ("a.mp4,1,1.2,2.0,1.6", "a.mp4,1,1.2,1.1,1.2", "scenes.csv:3: the scene ends at 1.1 s"),
        ("a.mp4,1,1.2,2.0,1.6", "a.mp4,1,1.2,2.0,2.0", "centre_seconds is 2, not in the scene"),
        ("a.mp4,1,1.2", "a.mp4,1,1.1", "starts at 1.1 s, before the one above it ends at 1.2"),
        ("a.mp4,1,1.2,2.0,1.6,20", "a.mp4,1,1.2,2.0,1.6,0", "scenes.csv:3: num_frames is 0"),
        ("a.mp4,1,1.2,2.0,1.6,20", "a.mp4,1,1.2,2.0,1.6,x", "num_frames is 'x', not a whole num"),
        ("a.mp4,1,1.2", "a.mp4,1,nan", "start_seconds is 'nan'"),
        ("a.mp4,1,", ",0,", "scenes.csv:3: video is empty"),
    ],
)
def test_every_line_of_an_edited_list_is_checked(made, old, new, wanted):
    _, out = made
    table = out / "scenes.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=wanted.replace(".", r"\.")):
        read_scenes(out)


def test_a_list_without_its_description_is_read_with_a_warning(made, caplog):
    _, out = made
    (out / "scenes.json").unlink()
    assert read_scenes(out).sources == {}
    assert "versions of videos are not compared" in caplog.text


def test_a_description_that_was_altered_is_damaged(made):
    _, out = made
    text = (out / "scenes.json").read_text()
    (out / "scenes.json").write_text(text.replace("18.5", "18.6"))
    with pytest.raises(Damaged, match="do not match their checksum"):
        read_scenes(out)


def test_the_list_of_a_run_killed_before_its_last_write_is_finished_by_the_next(made):
    root, out = made
    whole = files(out)
    said = open_seal(json.loads((out / "scenes.json").read_bytes()), where="")
    former = scene_list.sha256_of(out / "scenes.csv")
    said |= {"former_csv_sha256": former, "csv_sha256": "0" * 64}
    (out / "scenes.json").write_bytes(canonical_json(seal(said)))
    with pytest.raises(UsageError, match="has not finished: rerun it"):
        read_scenes(out)
    run(root, out)
    assert files(out) == whole


def test_torn_scenes_of_a_video_are_found_again(made, caplog):
    root, out = made
    whole = files(out)
    [file] = (out / "videos").glob("a.mp4*")
    file.write_bytes(file.read_bytes()[:-9])
    assert run(root, out).found == ["a.mp4"]
    assert "found again" in caplog.text
    assert files(out) == whole


def test_a_process_that_dies_fails_its_video_alone(films, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "from importlib import util\n"
        "if 'forkserver' in ' '.join(sys.orig_argv):\n"
        "    import tokenreel.extract.scenes.processes as p\n"
        "    old = p.segment\n"
        "    def segment(job, beat):\n"
        "        os._exit(11) if job.video == 'a.mp4' else None\n"
        "        return old(job, beat)\n"
        "    p.segment = segment\n"
    )
    code = (
        "from tests.extract.scenes.test_scenes_run import run, Path\n"
        f"r = run(Path({str(films)!r}), Path({str(tmp_path / 'out')!r}))\n"
        "print([str(f) for f in r.failed], r.found)\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", f"if __name__ == '__main__':\n    exec({code!r})"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "a.mp4: decode: the process died (exit 11)" in done.stdout, done.stderr
    assert "['b/long, film.mp4']" in done.stdout


class Pipe:
    """One job for a process, whose parent ends after its answer."""

    def __init__(self, job):
        self.jobs, self.sent = [job], []

    def recv(self):
        if not self.jobs:
            raise EOFError
        return self.jobs.pop()

    def send(self, message):
        self.sent.append(message)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (VideoError("holds only one frame", stage="decode"), ("decode", "holds only one frame")),
        (MemoryError(), ("decode", "not enough memory to decode it")),
        (OSError(errno.EMFILE, "Too many open files"), MachineError),
        (OSError(errno.ENOENT, "No such file"), ("decode", "No such file")),
        (UsageError("method=content needs cv2"), UsageError),
    ],
)
def test_a_limit_of_the_machine_is_never_the_fault_of_a_video(error, wanted, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(processes, "segment", fail)
    monkeypatch.setattr(processes.signal, "signal", lambda *_: None)
    pipe = Pipe(SegmentJob(Path(), "a.mp4", None, ScenesConfig()))
    processes._serve(pipe)
    [outcome] = pipe.sent
    assert outcome == wanted if isinstance(wanted, tuple) else isinstance(outcome, wanted)


def test_a_process_takes_one_video_after_another(tmp_path):
    names = [f"{number}.mp4" for number in range(5)]
    for name in names:
        write_film(tmp_path / name, [13, 14])
    made = [SegmentJob(tmp_path, name, None, ScenesConfig()) for name in names]
    seen, old = [], processes._Process

    class Counted(old):
        def __init__(self, job):
            super().__init__(job)
            seen.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_Process", Counted)
        found = dict(processes.segment_all(made, workers=1, timeout_seconds=300))
    assert [len(found[job].scenes) for job in made] == [2] * 5
    assert len(seen) == 1
    assert not seen[0]._process.is_alive()


def test_an_idle_process_that_was_killed_is_replaced(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_film(tmp_path / name, [13, 14])
    jobs = [SegmentJob(tmp_path, name, None, ScenesConfig()) for name in ("a.mp4", "b.mp4")]
    found = {}
    for job, outcome in processes.segment_all(jobs, workers=1, timeout_seconds=300):
        found[job.video] = outcome
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
    assert [len(found[name].scenes) for name in ("a.mp4", "b.mp4")] == [2, 2]


MOMENTS = [0.8, *(pytest.param(m, marks=pytest.mark.slow) for m in np.linspace(0.2, 3, 9))]


@pytest.mark.parametrize("seconds", MOMENTS)
def test_kill_at_any_moment_ends_in_the_same_files(made, tmp_path, seconds):
    root, out = made
    again = tmp_path / "again"
    code = (
        "if __name__ == '__main__':\n"
        "    from tests.extract.scenes.test_scenes_run import run, Path\n"
        f"    run(Path({str(root)!r}), Path({str(again)!r}))\n"
    )
    path = os.pathsep.join(sys.path)
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    child.wait()
    run(root, again)
    found = files(again)
    found.pop(Path(".tokenreel.lock"), None)
    assert {n: b for n, b in found.items() if not n.name.startswith(".tmp-")} == files(out)


def test_the_command_prints_what_it_did(films, tmp_path):
    out = tmp_path / "out"
    words = ["scenes", "folder", "--root", str(films), "--out", str(out), "workers=2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 3, done.output
    assert "videos  3 read, 0 done before, " in done.output
    assert "scenes  6\n" in done.output
    assert "failed: bad.mp4: open: " in done.output
    assert f"scenes: {out}\n" in done.output
    wrong = CliRunner().invoke(app, [*words, "treshold=3"])
    assert "scenes.treshold: no such field, did you mean threshold?" in str(wrong.exception)


def test_the_default_folder_names_data_set_method_and_parameters(films, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in ([], ["threshold=30"]):
        done = CliRunner().invoke(app, ["scenes", "folder", "--root", str(films), *words])
        assert done.exit_code == 3, done.output
    names = sorted(path.name for path in (tmp_path / "scenes").iterdir())
    assert [name[:-8] for name in names] == ["folder-running-mean-"] * 2
