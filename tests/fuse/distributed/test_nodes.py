"""Processes of two nodes train one model: what is read, a node that is lost, one that is unlike.

The processes are forked from one that has imported everything, with the variables that two
torchruns with a common rendezvous set; the slow test starts two torchruns.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.fuse.distributed.test_distributed import WORDS
from tests.fuse.tiny import write_store
from tests.ports import free_port
from tokenreel.cache.embeddings import read_embeddings

NODES = """
import json, os, signal, sys
from tests.fuse.kills import in_one_thread
from tokenreel.cache.read.store_reader import Store
from tokenreel.fuse.data import batches
from tokenreel.fuse.train import lockstep, run, train
from tokenreel.pipeline.cli.fuse import main

def count_reads(rank):
    make_batch, read_many, seen = batches.make_batch, Store.read_many, ["embed"]
    def note(what=None):
        def make(source, clips, numbers, sampling, epoch, **options):
            seen[0] = epoch if what is None else what
            try:
                return make_batch(source, clips, numbers, sampling, epoch, **options)
            finally:
                seen[0] = "embed"
        return make
    def note_reads(store, requests, **options):
        for request in requests:
            print(json.dumps([seen[0], rank, request.clip_id]), file=file, flush=True)
        return read_many(store, requests, **options)
    file = open(f"reads-{rank}.jsonl", "w")
    batches.make_batch, lockstep.make_batch = note(), note("held out")
    Store.read_many = note_reads

def die_at(place):
    descend = run.Run.descend
    def die(training, batch):
        if list(training.position) == place:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        return descend(training, batch)
    run.Run.descend = die

def work(round, rank):
    node = rank // 2
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank % 2}", "WORLD_SIZE": "4"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": f"{node}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": round["port"]}
    os.makedirs(round["folder"], exist_ok=True)
    os.chdir(round["folder"])
    log = os.open(f"log-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    count_reads(rank)
    other = round.get("node 1", {}) if node else {}
    if "version" in other:
        train.version = lambda name: other["version"]
    if "dies at" in other:
        die_at(other["dies at"])
    store = other.get("store", round["store"])
    os._exit(command(round, store))

def command(round, store, out="run"):
    sys.argv = ["fuse", "train", "sample", *round["words"], "--store", store, "--out", out]
    sys.argv += ["--device", "cpu", "--placement", round["placement"]]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0

rounds = json.loads(sys.argv[1])
alone = rounds[0]["folder"] + "-alone"
in_one_thread(lambda: command(rounds[0], rounds[0]["store"], out=alone))
for round in rounds:
    children = []
    for rank in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            work(round, rank)
        if rank >= 2:  # the processes of node 1 are a group, which ends at once
            os.setpgid(children[-1], children[2])
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(ends), flush=True)
"""


def on_two_nodes(*rounds):
    """Train in rounds, one after another; returns the exit statuses of the processes of each."""
    given = [{"port": str(free_port()), "placement": "disk", "words": WORDS, **r} for r in rounds]
    done = subprocess.run(
        [sys.executable, "-c", NODES, json.dumps(given)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()[-len(given) :]]


def logs(folder):
    return [(folder / f"log-{rank}.txt").read_text() for rank in range(4)]


def reads_of(folder):
    """(epoch or "embed", rank, clip) of each read."""
    return [
        tuple(json.loads(line))
        for rank in range(4)
        for line in (folder / f"reads-{rank}.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Seven clips to train with: two steps an epoch; two are held out."""
    return write_store(tmp_path_factory.mktemp("store") / "s", train=9, more_frames=1)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """Runs of two nodes: whole, and one whose second node is lost in the second epoch."""
    folder = tmp_path_factory.mktemp("nodes")
    other = write_store(folder / "other" / "s", noise=0.2, codec="fp16")
    words = [*WORDS, "optim.checkpoint_minutes=0"]
    cut = {"store": str(store), "folder": str(folder / "cut"), "words": words}
    cut["placement"] = "ram"
    ends = on_two_nodes(
        {"store": str(store), "folder": str(folder / "whole"), "words": words},
        {**cut, "node 1": {"dies at": [1, 1]}},
        cut,
        {
            "store": str(store),
            "folder": str(folder / "unlike"),
            "node 1": {"store": str(other), "version": "9.9"},
        },
    )
    return folder, ends


def test_a_run_whose_node_was_lost_ends_with_the_files_of_one_that_was_not(trained):
    folder, ends = trained
    assert ends[0] == ends[2] == [0, 0, 0, 0], logs(folder / "cut")
    for name in ("checkpoint.pt", "metrics.jsonl"):
        whole, cut = (folder / side / "run" / name for side in ("whole", "cut"))
        assert whole.read_bytes() == cut.read_bytes(), name
    whole, cut = (read_embeddings(folder / side / "run/embeddings.h5") for side in ("whole", "cut"))
    assert whole.provenance == cut.provenance
    assert [(clip.embeddings.tobytes()) for clip in whole.clips] == [
        clip.embeddings.tobytes() for clip in cut.clips
    ]


def test_the_processes_that_are_left_say_that_another_one_ended(trained):
    _, ends = trained
    killed = -signal.SIGKILL
    assert ends[1] == [6, 6, killed, killed]


def test_each_clip_is_read_once_an_epoch_by_one_process_of_one_node(trained):
    reads = reads_of(trained[0] / "whole")
    for epoch in (0, 1, 2):
        clips = Counter(clip for when, _, clip in reads if when == epoch)
        assert len(clips) == 7
        assert {*clips.values()} == {1}
        assert {rank // 2 for when, rank, _ in reads if when == epoch} == {0, 1}
    embedded = Counter((rank, clip) for when, rank, clip in reads if when == "embed")
    assert {rank for rank, _ in embedded} == {0}
    assert (len(embedded), {*embedded.values()}) == (11, {1})


def test_in_memory_each_process_reads_a_clip_at_most_once(trained):
    reads = reads_of(trained[0] / "cut")  # after it was resumed
    found = Counter((rank, clip) for when, rank, clip in reads if when != "embed")
    assert len({clip for _, clip in found}) == 9
    assert {*found.values()} == {1}


def test_a_node_with_another_store_or_version_is_refused_by_name_before_the_first_step(trained):
    folder, ends = trained
    assert ends[3] == [4, 4, 4, 4]
    host = socket.gethostname()
    for text in logs(folder / "unlike"):
        assert f"rank 2 on {host}: tokenreel is '9.9', of rank 0 on {host} " in text
        assert f"rank 2 on {host}: run.run.store_fingerprint is" in text
    assert not (folder / "unlike" / "run").exists()


PAGE = Path(__file__).parents[3] / "docs" / "scale.md"


def command_of_page():
    """The words of the page's command for several nodes."""
    [line] = [x for x in PAGE.read_text().splitlines() if x.startswith("torchrun --nnodes")]
    return line.split()


def start_nodes(store, out, words):
    """The command of the page on two nodes of two processes, with a file for what each prints."""
    changes = {"HOST:29500": f"127.0.0.1:{free_port()}", "4": "2", "8": "2"}
    changes |= {"/stores/finegym": str(store), "RECIPE": "sample", "/runs/RECIPE": str(out)}
    rest = [changes.get(word, word) for word in command_of_page()[1:]]
    rest[rest.index("fuse")] = shutil.which("fuse", path=str(Path(sys.executable).parent))
    nodes = []
    for node in range(2):
        with Path(f"{out}-{node}.txt").open("w") as log:
            command = [sys.executable, "-m", "torch.distributed.run", *rest, *words]
            nodes.append(
                subprocess.Popen(
                    [*command, "--device", "cpu"],
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    stdout=log,
                    stderr=log,
                )
            )
    return nodes


def children_of(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_the_command_of_the_page_resumes_after_a_torchrun_was_killed(store, tmp_path):
    words = [word for word in WORDS if not word.startswith("optim.epochs")]
    words += ["optim.checkpoint_minutes=0", "optim.epochs=12"]

    def printed(out):
        return "".join(Path(f"{out}-{node}.txt").read_text() for node in range(2))

    def lines(out):
        file = out / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    whole, out = tmp_path / "whole", tmp_path / "cut"
    assert [p.wait(300) for p in start_nodes(store, whole, words)] == [0, 0], printed(whole)
    nodes = start_nodes(store, out, words)
    while lines(out) < 3:
        assert nodes[0].poll() is nodes[1].poll() is None, printed(out)
        time.sleep(0.05)
    for pid in [nodes[1].pid, *children_of(nodes[1].pid)]:
        os.kill(pid, signal.SIGKILL)
    assert [process.wait(300) for process in nodes] == [1, -signal.SIGKILL], printed(out)
    assert "another process of the run has ended" in printed(out)
    assert lines(out) < 12
    assert [p.wait(300) for p in start_nodes(store, out, words)] == [0, 0], printed(out)
    assert "resumes at epoch" in printed(out)
    for name in ("checkpoint.pt", "metrics.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
