"""The three phases on a file system without locks, as NFS without its lock daemon is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extract.extraction import write_video

SOURCE = Path(__file__).with_name("no_flock_ENOLCK.c")
PROGRAM = """
import sys
from importlib import import_module
from pathlib import Path
for line in sys.argv[1:]:
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
            timeout=300,
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
