"""The three phases on file systems without locks: NFS without its lock daemon, a shared disk."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extract.extraction import write_video

SOURCE = Path(__file__).with_name("no_flock_ENOLCK.c")
SHARED = Path(__file__).with_name("shared_disk.c")
PROGRAM = """
import os, sys
from importlib import import_module
from pathlib import Path
for line in sys.argv[1:]:
    if line.startswith("quota="):
        os.environ["SHARED_QUOTA"] = line.removeprefix("quota=")
        continue
    name, *words = (next(map(str, Path().glob(w)), w) if "*" in w else w for w in line.split("|"))
    sys.argv = [name, *words]
    try:
        module = "main" if name == "tokenreel" else name
        import_module(f"tokenreel.pipeline.cli.{module}").main()
    except SystemExit as end:
        print(f"{name} ended with {end.code}", flush=True)
"""
EXTRACT = "extract|run|folder|--root|videos|backbone=test_vit|weights=random:0|image_size=96"
EXTRACT += "|blocks=5|codec=fp16|device=cpu|batch_frames=4"
TRAIN = (
    "fuse|train|sample|optim.epochs=1|optim.warmup_epochs=0|data.num_frames=4|data.batch_clips=2"
)
TRAIN += "|pooling.channels=16|pooling.blocks=5|temporal.hidden=16|temporal.fc_width=16"
TRAIN += "|temporal.feed_forward=16|--device|cpu|--out|runs/a|--store|"


@pytest.fixture
def no_flock(tmp_path):
    """A library that takes the locks away when it is preloaded."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler (cc), or no Linux: nothing to take the locks away with")
    library = tmp_path / "no_flock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    return library


def test_all_phases_work_where_there_are_no_locks_and_say_so_once_each(tmp_path, no_flock):
    (tmp_path / "videos").mkdir()
    for name in "abc":
        write_video(tmp_path / "videos" / f"{name}.mp4", 12)
    environment = os.environ | {
        "LD_PRELOAD": str(no_flock),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }

    def run(*lines):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *lines],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        return done.stdout + done.stderr

    train = TRAIN + "stores/*"
    output = run(
        EXTRACT,
        train,
        train,
        "fuse|embed|runs/a|--store|stores/*|--out|runs/a/again.h5",
        "fuse|embed|runs/a|--store|stores/*|--out|runs/a/again.h5",
        "evaluate|all|runs|--out|results",
        "evaluate|all|runs|--out|results",
        "tokenreel|store|export|stores/*|hdf5",
    )
    assert "Traceback" not in output
    ends = [line for line in output.splitlines() if " ended with " in line]
    names = ["extract"] + ["fuse"] * 4 + ["evaluate"] * 2 + ["tokenreel"]
    assert ends == [f"{name} ended with 0" for name in names], output
    assert [line for line in output.splitlines() if "no locks on this" in line] == [
        "stores: no locks on this file system (No locks available): going on without; let only "
        "one command write to a folder at a time"
    ]
    assert "runs/a is done already" in output


STEPS = (1, 3, 10, 30, 60, 120, 240, 480)  # calls after which the quota is full
ROUND = (
    "fuse|embed|runs/a|--store|stores/*|--out|runs/a/again.h5",
    "evaluate|all|runs|--out|results",
    "evaluate|report|runs/a|--out|report",
)


@pytest.fixture
def disk(tmp_path):
    """Runs programs in a folder of the simulated shared disk; returns what they print."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler (cc), or no Linux: no disk can be simulated")
    library, folder = tmp_path / "shared_disk.so", tmp_path / "disk"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SHARED, "-ldl"], check=True)
    (folder / "videos").mkdir(parents=True)
    for name in "abc":
        write_video(folder / "videos" / f"{name}.mp4", 12)

    def run(*lines, is_shared=True, at="disk"):
        shared = {"LD_PRELOAD": str(library), "SHARED_ROOT": str(tmp_path / at)}
        shared |= {"SHARED_CLOCK": "600", "SHARED_UNSEEN": "3"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *lines],
            cwd=tmp_path / at,
            env=os.environ
            | (shared if is_shared else {})
            | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        return done.stdout + done.stderr

    return run


def ends_of(output):
    """Status of each command, in order."""
    return [int(line.rpartition(" ")[2]) for line in output.splitlines() if " ended with " in line]


@pytest.mark.slow
def test_all_phases_write_the_same_on_a_shared_disk_and_say_where_its_quota_is_full(tmp_path, disk):
    shutil.copytree(tmp_path / "disk", tmp_path / "own")
    every = (EXTRACT, TRAIN + "stores/*", *ROUND)
    alone = disk(*every, is_shared=False, at="own")
    assert ends_of(alone) == [0] * 5, alone
    output = disk(*(word for line in every for word in (*limited_by(line), "quota=", line)))
    assert "Traceback" not in output, output
    statuses, count = ends_of(output), len(STEPS) + 1
    parts = [statuses[at : at + count] for at in range(0, len(statuses), count)]
    assert len(parts) == len(every), output
    for statuses in parts:
        assert statuses[0] != 0, "nothing can be written"
        assert set(statuses) <= {0, 3, 6}, statuses
        assert statuses[-1] == 0, output
    assert "Disk quota exceeded" in output
    for name in ("results/summary.csv", "results/results.csv"):
        ours, theirs = tmp_path / "disk" / name, tmp_path / "own" / name
        if theirs.exists():
            assert ours.read_bytes() == theirs.read_bytes(), name


def limited_by(line):
    """A command with a quota that is full after ever more calls."""
    return [word for k in STEPS for word in (f"quota={k}", line)]
