"""Rows stream into results.csv: kills, torn rows, other data; any number of processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.clips import labelled_clips, write_run
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.commands import suite
from tokenreel.evaluate.data.clips import load_screened
from tokenreel.evaluate.data.results import read_rows
from tokenreel.evaluate.jobs.pool import WorkerLost, run_jobs
from tokenreel.evaluate.protocol import EvaluateConfig

ROOT = Path(__file__).parents[3]
CONFIG = EvaluateConfig(protocol=("carl", "tcc"), shots=(1,), episodes=2)


def evaluate(paths, out, **limits):
    return suite.evaluate_files(paths, config=CONFIG, out=out, progress=False, **limits)


def test_the_tables_are_the_same_bytes_for_any_number_of_processes(tmp_path):
    clips = labelled_clips("one", noise=2.0) + labelled_clips("two", frames=20, noise=2.0)
    paths = [write_run(tmp_path / f"r{seed}", clips, seed=seed) for seed in (0, 1)]
    tables = []
    for jobs in (1, 2):
        out = tmp_path / f"out{jobs}"
        evaluate(paths, out, jobs=jobs)
        tables.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert tables[0] == tables[1]
    names = {"results.csv", "summary.csv", "summary.md", "summary.tex", "clock.h5"}
    assert set(tables[0]) == names


def slow_command(path, out):
    """`evaluate all` on one path, which ends no further job once three rows are written."""
    code = f"""
import time
from pathlib import Path
from tests.evaluate.commands.test_resume import CONFIG
from tokenreel.evaluate.data.results import read_rows
from tokenreel.evaluate.jobs import pool
from tokenreel.evaluate.commands import suite
quick = pool.run_job
def slow(job, limits):
    while len(read_rows(Path({str(out)!r}) / "results.csv")) >= 3:
        time.sleep(0.05)
    return quick(job, limits)
pool.run_job = slow
suite.evaluate_files([Path({str(path)!r})], config=CONFIG, out=Path({str(out)!r}), progress=False)
"""
    return [sys.executable, "-c", code]


def test_a_killed_evaluation_goes_on_where_it_stopped(tmp_path):
    path = write_run(tmp_path / "run", labelled_clips())
    process = subprocess.Popen(slow_command(path, tmp_path / "out"), cwd=ROOT)
    results = tmp_path / "out/results.csv"
    deadline = time.monotonic() + 300
    while len(read_rows(results)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(read_rows(results))
    assert done >= 3
    with results.open("ab") as file:
        file.write(b"run,r,,0,,carl,ta")  # what a kill in the middle of a write leaves

    report = evaluate([path], tmp_path / "out")
    assert report.num_jobs > report.num_kept >= 3
    evaluate([path], tmp_path / "fresh")
    assert results.read_bytes() == (tmp_path / "fresh/results.csv").read_bytes()


def test_what_is_done_is_not_computed_again(tmp_path, monkeypatch):
    path = write_run(tmp_path / "run", labelled_clips())
    first = evaluate([path], tmp_path / "out")
    monkeypatch.setattr("tokenreel.evaluate.jobs.pool.run_job", None)
    again = evaluate([path], tmp_path / "out")
    assert again.num_kept == again.num_jobs == first.num_jobs
    assert [repr(score) for score in again.scores] == [repr(score) for score in first.scores]


def test_other_embeddings_or_settings_are_computed_anew(tmp_path):
    path = write_run(tmp_path / "run", labelled_clips())
    first = evaluate([path], tmp_path / "out")
    write_run(tmp_path / "run", labelled_clips(noise=0.5))
    again = evaluate([path], tmp_path / "out")
    assert again.num_kept == first.num_jobs // 2  # those of the clock, whose clips are the same
    other = suite.evaluate_files(
        [path], config=EvaluateConfig(tau_stride=3), out=tmp_path / "out", progress=False
    )
    assert other.num_kept == 0


def test_a_job_with_a_part_of_its_rows_is_done_again(tmp_path):
    path = write_run(tmp_path / "run", labelled_clips())
    whole = evaluate([path], tmp_path / "out")
    results = tmp_path / "out/results.csv"
    text = results.read_text()
    results.write_text("".join(row for row in text.splitlines(True) if ",ap@10," not in row))
    report = evaluate([path], tmp_path / "out")
    assert report.num_kept == whole.num_jobs - 2  # of the run and of the clock
    assert results.read_text() == text


def test_two_evaluations_do_not_write_to_one_folder(tmp_path):
    path = write_run(tmp_path / "run", labelled_clips())
    out = tmp_path / "out"
    out.mkdir()
    with suite._alone_in(out), pytest.raises(UsageError, match="another evaluation is writing to"):
        evaluate([path], out)


def die(job, limits):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_clear_error(monkeypatch):
    monkeypatch.setattr("tokenreel.evaluate.jobs.pool.run_job", die)
    with pytest.raises(WorkerLost, match="with fewer --jobs; finished rows are kept") as raised:
        list(run_jobs([None, None], processes=2, threads=1, memory_bytes=1))
    assert raised.value.exit_status == 6  # the machine, not the files


def test_workers_end_with_a_killed_parent(tmp_path):
    code = """
import sys
from tests.evaluate.commands.test_resume import wait_for_ever
from tokenreel.evaluate.jobs import pool
pool.run_job = wait_for_ever
list(pool.run_jobs([sys.argv[1]] * 2, processes=2, threads=1, memory_bytes=1))
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 300
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))


def wait_for_ever(folder, limits):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(3600)


def is_alive(pid):
    """A process that is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("how", ["replaced", "gone"])
def test_a_file_that_changes_while_it_is_evaluated_gives_no_numbers(tmp_path, monkeypatch, how):
    paths = [write_run(tmp_path / name, labelled_clips(noise=2.0)) for name in ("a", "b")]
    first, run = paths[0], suite.run_jobs

    def change_and_run(jobs, **limits):
        write_run(first.parent, labelled_clips(noise=0.1)) if how == "replaced" else first.unlink()
        load_screened.cache_clear()
        return run(jobs, **limits)

    monkeypatch.setattr(suite, "run_jobs", change_and_run)
    report = evaluate(paths, tmp_path / "out")
    monkeypatch.undo()
    values = {score.run: score.value for score in report.scores if score.task == "classification"}
    assert np.isnan(values["a"])
    assert values["b"] > 0
    assert report.exit_status == 3
    assert any("changed while it was evaluated: run this again" in p for p in report.problems)
    write_run(first.parent, labelled_clips(noise=2.0))  # as it was planned
    again = evaluate(paths, tmp_path / "out")
    assert (again.problems, again.num_jobs > again.num_kept > 0) == ((), True)
    assert not any(np.isnan(score.value) for score in again.scores if score.task == "tau")
