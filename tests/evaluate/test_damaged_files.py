"""Files beside the embeddings with damage anywhere: no traceback, and what is sound is kept."""

import json
import time

import numpy as np
import pytest

from tests.evaluate.clips import labelled_clips, write_run
from tests.memory import require_memory
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.data.results import read_rows
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.report.data.gather import ReportConfig, gather_runs
from tokenreel.evaluate.report.sections.attention import read_attention

MOST_BYTES = 64_000_000  # of files of some kilobytes


@pytest.fixture
def run(tmp_path):
    """A run with curves, attention and results.csv."""
    path = write_run(tmp_path / "run", labelled_clips())
    lines = [json.dumps({"epoch": epoch, "loss": 1 / (epoch + 1)}) for epoch in range(5)]
    (path.parent / "metrics.jsonl").write_text("\n".join(lines))
    (path.parent / "attention").mkdir()
    weights = np.full((3, 2, 2, 2), 0.25, np.float32)
    np.savez(path.parent / "attention/v0.npz", weights=weights, clip_id=np.array("act/v0"))
    evaluate_files([path], config=EvaluateConfig(), out=path.parent, progress=False)
    return path


def mutants(data, count, rng):
    for _ in range(count):
        changed = bytearray(data)
        for place in rng.integers(0, len(changed), int(rng.integers(1, 6))):
            changed[place] = int(rng.integers(256))
        yield bytes(
            changed[: int(rng.integers(1, len(changed)))] if rng.random() < 0.2 else changed
        )


def test_mutated_results_curves_and_attention_are_read_as_far_as_they_are_sound(run):
    rng = np.random.default_rng(5)
    started = time.process_time()
    whole = read_rows(run.parent / "results.csv")
    file = read_embeddings(run)
    read = {
        "results.csv": lambda: read_rows(run.parent / "results.csv"),
        "metrics.jsonl": lambda: gather_runs([file]),
        "attention/v0.npz": lambda: read_attention(gather_runs([file]), ReportConfig()),
    }
    for name, call in read.items():
        path = run.parent / name
        data = path.read_bytes()
        for changed in mutants(data, 170, rng):
            path.write_bytes(changed)
            with require_memory(MOST_BYTES):
                call()
        path.write_bytes(data)
    assert repr(read_rows(run.parent / "results.csv")) == repr(whole)  # NaN is not NaN
    assert time.process_time() - started < 30  # of this process, whatever others do


@pytest.mark.parametrize("damage", ["x" * 200_000, '"' + "a\n" * 70_000, "a\0b,"])
def test_rows_before_one_that_cannot_be_read_are_kept(run, damage):
    path = run.parent / "results.csv"
    whole = read_rows(path)
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *lines[:2], damage + "\n"]))
    assert read_rows(path) == whole[:2]


def test_curves_end_at_a_line_that_cannot_be_read(run, caplog):
    curves = run.parent / "metrics.jsonl"
    for damage in (b"\xff\xfe", b"[" * 100_000, b'{"loss": 1' + b"0" * 400 + b"}"):
        curves.write_bytes(b'{"loss": 0.5}\n' + damage + b'\n{"loss": 0.25}\n')
        (page,) = gather_runs([read_embeddings(run)])
        assert page.curves == [{"loss": 0.5}]
        assert "line 2 cannot be read" in caplog.text
