"""The sample through all phases, on tiny sizes, by the commands that a user types."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import call

EXTRACT = ["data.train=6", "data.val=6", "image_size=32", "blocks=3,11", "codec=fp16"]
TRAIN = [
    "optim.epochs=2",
    "data.num_frames=8",
    "data.batch_clips=2",
    "pooling.channels=16",
    "temporal.hidden=16",
    "temporal.fc_width=16",
    "temporal.feed_forward=16",
]


def command(name, *words, cwd):
    """Run a console script in a process of its own."""
    path = Path(sys.executable).with_name(name)
    run = subprocess.run(
        [path, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, f"{name} {words}: {run.stdout}\n{run.stderr}"
    return run.stdout + run.stderr


def printed(name, *words, cwd, status=0):
    """Run a command in this process, after the same script ran in its own; returns its output."""
    found, output = call(name, *words, cwd=cwd)
    assert found == status, f"{name} {words}: {output}"
    return output


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder where the sample was extracted, trained on and evaluated."""
    path = tmp_path_factory.mktemp("work")
    command("extract", "run", "sample", *EXTRACT, cwd=path)
    command("fuse", "train", *TRAIN, cwd=path)
    [store] = (path / "stores").iterdir()
    printed("evaluate", "frozen", store, cwd=path)
    command("evaluate", "all", cwd=path)
    return path


def test_the_table_has_every_task_action_and_run(work):
    with (work / "results/results.csv").open() as file:
        rows = list(csv.DictReader(file))

    tasks = {"classification", "progression", "tau", "ap@5", "ap@10", "ap@15"}
    assert {row["task"] for row in rows} == tasks
    assert {row["action"] for row in rows} == {"lift", "visit", "mean"}
    recipes = {row["recipe"] for row in rows}  # with the user's changes, in order
    assert recipes == {" ".join(["sample", *sorted(TRAIN)]), "clock"}
    runs = [row for row in rows if row["recipe"] != "clock"]
    assert {row["weights"] for row in runs} == {"random:0"}
    assert all(row["commit"] and row["store_fingerprint"] for row in runs)
    clocks = {task: [float(r["clock_value"]) for r in runs if r["task"] == task] for task in tasks}
    assert all(-100 < value <= 1 for value in clocks.pop("progression"))  # R2, of two clips
    assert all(0 <= value <= 1 for values in clocks.values() for value in values)


def test_the_frozen_control_has_a_table_of_its_pools(work):
    with (work / "results/frozen/results.csv").open() as file:
        recipes = {row["recipe"] for row in csv.DictReader(file)}
    assert recipes == {"frozen-max", "frozen-mean", "frozen-cls", "clock"}


def test_the_store_says_that_its_weights_are_random(work):
    [store] = (work / "stores").iterdir()
    assert "random0" in store.name
    assert "random:0" in command("tokenreel", "store", "info", store, cwd=work)


def test_the_store_of_the_demo_is_clean(work):
    [store] = (work / "stores").iterdir()
    out = printed("tokenreel", "store", "verify", store, "--deep", cwd=work)
    assert re.search(r"(?<!\d)0 problem", out), out


def test_extracting_again_skips_every_clip(work):
    out = printed("extract", "run", "sample", *EXTRACT, cwd=work)
    assert "0 committed, 12 skipped" in out


def test_a_store_of_another_recipe_is_refused_with_its_fields(work):
    [store] = (work / "stores").iterdir()
    words = [word for word in EXTRACT if not word.startswith("image_size")]
    out = printed("extract", "run", "sample", *words, "--out", store, cwd=work, status=4)
    assert "image_size" in out


def test_evaluate_imports_no_torch():
    code = "import sys, tokenreel.evaluate.commands.suite; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
