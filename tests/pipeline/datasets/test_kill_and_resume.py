"""`extract run` of each data set, killed and started again: the store of a run left in peace.

Every data set is there in its real format, with rendered frames.  The kills are by SIGKILL of the
command and all its decode processes, at any moment from its start to the last commit: when the
store holds a number of files that is drawn by chance.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.pipeline.datasets.miniatures import MINIATURES, make_carl
from tests.programs import call
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store

WORDS = ["backbone=vit_tiny_patch16_224", "weights=random:0", "image_size=32", "blocks=5,11"]
WORDS += ["device=cpu", "codec=fp16", "fps=25", "batch_frames=8"]
CARL = {
    "penn_action-carl": lambda root: make_carl(root, [("0001_bowl", 40), ("0002_bowl", 33)], 3),
    "pouring-carl": lambda root: make_carl(root, [("milk", 40), ("oil", 33)], 5),
}
FRAMES = {  # of the miniatures: labelled frames, all frames
    "finegym": (176, 491),
    "kinetics400": (0, 282),
    "penn_action": (123, 123),
    "penn_action-carl": (73, 73),
    "pouring": (149, 149),
    "pouring-carl": (73, 73),
}


CALL = "from tokenreel.pipeline.cli.extract import main; main()"


def words(name, root, out):
    return ["run", name.removesuffix("-carl"), "--root", str(root), "--out", str(out), *WORDS]


def run(name, root, out):
    status, printed = call("extract", *words(name, root, out), cwd=root)
    assert status == 0, printed


def count_files(store):
    """Of the clips, as far as they are seen while another process writes."""
    with contextlib.suppress(OSError):
        return sum(path.is_file() for path in store.joinpath("clips").rglob("*"))
    return 0


def content(store):
    """Every file of the clips; what an unfinished writer left beside them is no part of them."""
    names = [path.relative_to(store) for path in store.rglob("*") if path.is_file()]
    kept = [n for n in names if n.parts[0] == "clips" and ".tmp" not in str(n)]
    return {str(name): (store / name).read_bytes() for name in kept}


def kill_and_resume(tmp_path, name, kills):
    root, whole, killed = (tmp_path / part for part in ("root", "whole", "killed"))
    (MINIATURES | CARL)[name](root)
    run(name, root, whole)
    num_files = count_files(whole)
    draw = random.Random(name)
    num_killed = 0
    while num_killed < kills:
        if count_files(killed) >= num_files:  # all is written: begin anew
            shutil.rmtree(killed)
        moment = draw.randrange(count_files(killed), num_files)
        job = subprocess.Popen(
            [sys.executable, "-c", CALL, *words(name, root, killed)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while job.poll() is None and count_files(killed) < moment:
            time.sleep(0.02)
        if job.poll() is None:
            num_killed += 1
        else:  # all was done: begin anew
            shutil.rmtree(killed)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    run(name, root, killed)
    assert content(killed) == content(whole)
    assert verify_store(killed, deep=True).problems == ()
    store = open_store(killed)
    labelled, frames = FRAMES[name]
    assert sum(record.num_frames for record in store.records.values()) == frames
    labels = np.concatenate([store.labels(clip_id) for clip_id in store.records])
    assert (labels >= 0).sum() == labelled
    if name == "finegym":  # an event starts a frame after the second that names it
        for clip_id, record in store.records.items():
            first = int(clip_id.split("_E_")[1][:6]) * 25 + 1
            assert store.frame_index(clip_id).tolist() == list(
                range(first, first + record.num_frames)
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIATURES | CARL)
def test_killed_twenty_times_a_data_set_ends_in_the_store_of_an_unkilled_run(tmp_path, name):
    kill_and_resume(tmp_path, name, 20)


def test_killed_once_finegym_ends_in_the_store_of_an_unkilled_run(tmp_path):
    kill_and_resume(tmp_path, "finegym", 1)
