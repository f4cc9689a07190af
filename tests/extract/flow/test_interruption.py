"""A real process, told to stop or killed: what it leaves, and what the next one makes of it."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.extract.extraction import differing, shards, write_video
from tests.programs import call
from tests.warm import WarmProcess

CALL = (  # the tests' own process may ignore Ctrl-C: one started with & by a script does
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {hold}"
    "from tokenreel.pipeline.cli.extract import main; main()"
)
WORDS = ["backbone=test_vit", "weights=random:0", "image_size=96", "blocks=1,5"]
WORDS += ["device=cpu", "batch_frames=4"]


def words_for(root, store, codec="codec=fp16"):
    return ["run", "folder", "--root", str(root), "--out", str(store), *WORDS, codec]


@pytest.fixture(scope="module")
def origins(tmp_path_factory):
    """Processes that fork: one that has imported all of an extraction, and one without that."""
    with contextlib.ExitStack() as stack:
        made = {}

        def origin(*modules):
            if modules not in made:
                made[modules] = WarmProcess(*modules, folder=tmp_path_factory.mktemp("output"))
                stack.callback(made[modules].close)
            return made[modules]

        yield origin


@pytest.fixture
def start(origins):
    """Starts an extraction; what still runs when the test ends is killed."""
    processes = []

    def begin(root, store, *codec, hold="", is_warm=True):
        """A process that extracts the videos of `root`, held by a function of `held`."""
        held = f"from tests.extract.flow.held import {hold}; {hold}(); " if hold else ""
        origin = origins("timm", "tokenreel.extract.flow.runner") if is_warm else origins()
        process = origin.start(CALL.format(hold=held), *words_for(root, store, *codec))
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.end()  # also decoders that outlived it


def run(root, store):
    status, printed = call("extract", *words_for(root, store), cwd=root)
    assert status == 0, printed
    return printed


def wait_for_shards(process, store, count):
    deadline = time.monotonic() + 600
    while len(shards(store)) < count:
        assert process.poll() is None, process.output()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for name, frames in (("long", 480), ("b", 40), ("c", 70)):
        write_video(root / f"{name}.mp4", frames)
    return root


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    store = tmp_path_factory.mktemp("out") / "whole"
    assert "3 committed, 0 skipped, 0 failed" in run(root, store)
    return store


def test_sigterm_finishes_the_segment_releases_claims_and_ends_within_30_seconds(
    start, root, whole, tmp_path
):
    store = tmp_path / "store"
    process = start(root, store, hold="hold_third_segment")
    wait_for_shards(process, store, 3)  # the first segment is whole: 2 blocks, and one has begun
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)  # a scheduler tells the decoders, too
    output = process.output()
    assert process.returncode == 143, output
    assert time.monotonic() - begun < 30
    assert "0 failed" in output
    assert "stopped early, 3 clips missing; rerun to resume" in output
    assert list((store / "claims").iterdir()) == []
    kept = shards(store)
    assert kept
    sizes = {path.stat().st_size for path in kept}
    assert len(sizes) == 1, "every segment that was begun is whole"
    assert "3 committed" in run(root, store)
    assert differing(store, whole) == []


@pytest.mark.parametrize("kills", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_run_killed_at_any_moment_and_resumed_writes_the_same_store(
    start, root, whole, tmp_path, kills
):
    store = tmp_path / "store"
    draw = random.Random(4)
    for number in range(kills):
        process = start(root, store)
        wait_for_shards(process, store, 2 * number + 1)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.wait()
    run(root, store)
    assert differing(store, whole) == []


def members(group):
    """Command lines of the processes of a group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.joinpath("stat").read_text().rpartition(")")[2].split()[2] == str(group):
                found.append(folder.joinpath("cmdline").read_text())
    return [line for line in found if line]


MOMENTS = [
    (signal.SIGINT, "imports", 0.0, 130),
    (signal.SIGINT, "forkserver", 0.0, 130),  # it imports torch, for seconds
    pytest.param(signal.SIGINT, "forkserver", 1.0, 130, marks=pytest.mark.slow),
    (signal.SIGTERM, "forkserver", 0.5, 143),
]


@pytest.mark.parametrize(("number", "moment", "seconds", "status"), MOMENTS)
def test_run_stopped_before_its_first_clip_ends_with_one_line(
    start, root, tmp_path, number, moment, seconds, status
):
    if not Path("/proc/self/stat").is_file():
        pytest.skip("no /proc to see processes in")
    # int8 is calibrated: it decodes at once
    process = start(
        root,
        tmp_path / "store",
        "codec=int8",
        hold="hold_new_store",
        is_warm=moment != "imports",
    )
    if moment == "imports":
        maps = Path(f"/proc/{process.pid}/maps")
        while process.poll() is None and "libtorch" not in maps.read_text():
            time.sleep(0.01)
    else:
        while process.poll() is None and not any("forkserver" in m for m in members(process.pid)):
            time.sleep(0.01)
    time.sleep(seconds)
    os.killpg(process.pid, number)
    output = process.output()
    assert process.returncode == status, output
    assert "Traceback" not in output
    assert "leaked" not in output
    assert "run the same command" in output.splitlines()[-1]
    assert not (tmp_path / "store" / "recipe.json").exists()
