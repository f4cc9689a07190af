"""A package adds one of each thing; it is installed beside TokenReel and used from the commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extract.extraction import differing

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "format1"
TINY = ["data.num_frames=6", "data.batch_clips=2", "optim.epochs=1"]
SMALL = ["weights=random:0", "image_size=32", "blocks=0", "device=cpu", "workers=1"]


@pytest.fixture(scope="module")
def overlay(tmp_path_factory):
    """A folder with the example package, installed without what it depends on."""
    target = tmp_path_factory.mktemp("overlay")
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(HERE / "plugin", source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*pip, *offline, str(source)], check=True, capture_output=True)
    return target


COMMANDS = """
import json, os, sys
from pathlib import Path
from tests.programs import call
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what another process prints is no answer
for line in sys.stdin:
    print(json.dumps(call(*json.loads(line), cwd=Path.cwd())), file=answers, flush=True)
"""


@pytest.fixture(scope="module")
def run(overlay, tmp_path_factory):
    """Run commands of TokenReel in one process that has the package on its path, in one folder."""
    folder = tmp_path_factory.mktemp("work")
    paths = [str(overlay), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMANDS],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def command(program: str, *words: str, status: int = 0) -> str:
        process.stdin.write(json.dumps([program, *words]) + "\n")
        process.stdin.flush()
        found, printed = json.loads(process.stdout.readline())
        assert (found or 0) == status, printed
        return printed

    command.folder = folder
    yield command
    process.stdin.close()
    assert process.wait(timeout=300) == 0
    process.stdout.close()


@pytest.fixture(scope="module")
def stored(run):
    """A store of the package's data set and codec."""
    words = ["--root", str(GOLDEN / "videos"), "--out", "store", "backbone=example:difference"]
    run("extract", "run", "example-videos", *words, "codec=example-average+int8", *SMALL)
    return run


def test_a_data_set_a_backbone_and_a_codec_of_a_package_make_a_store(stored):
    told = stored("tokenreel", "store", "info", "store")
    assert "example-average+int8" in told
    assert "5" in told


def test_an_engine_of_the_package_makes_the_same_store(stored):
    words = ["--root", str(GOLDEN / "videos"), "backbone=example:difference"]
    words += ["codec=example-average+int8", *SMALL]
    engine = ["--engine", "example-shards", "--nodes", "2", "--out", "in-shards"]
    printed = stored("extract", "run", "example-videos", *engine, *words)
    assert "2 shard(s) were extracted" in printed
    assert "5 committed" in printed
    assert differing(stored.folder / "in-shards", stored.folder / "store") == []
    more = ["--engine", "example-shards", "--time", "1:00:00"]
    printed = stored("extract", "run", "example-videos", *more, *words, status=2)
    assert "--time is not an option of --engine example-shards, which takes --nodes" in printed
    more = ["--engine", "broken-engine"]
    printed = stored("extract", "run", "example-videos", *more, *words, status=2)
    assert "engine 'broken-engine' of tokenreel-example 1.0 (tokenreel_broken:launch)" in printed
    assert "cannot be imported: RuntimeError: this package needs a licence file" in printed


def test_a_system_of_the_package_trains_on_it_and_its_metric_judges_the_run(stored):
    stored("fuse", "train", "example-linear", "--store", "store", "--out", "run", "channels=3")
    stored("evaluate", "all", "run", "tasks=tau,example-speed", "--jobs", "1")
    printed = stored("evaluate", "all", "run", "tasks=tau,example-speed", "--jobs", "1")
    assert "example-speed" in printed


def test_mvformer_trains_with_a_loss_of_the_package(stored):
    loss = ["loss.name=example-slowness", "loss.weight=2"]
    stored("fuse", "train", "sample", *loss, *TINY, "--store", "store", "--out", "slow")
    assert '"name":"example-slowness"' in (stored.folder / "slow" / "run.json").read_text()


@pytest.mark.parametrize(
    ("program", "words", "names"),
    [
        ("extract", ["run", "example-video", "--root", "."], ["did you mean example-videos?"]),
        ("extract", ["run", "folder", "codec=example-averag"], ["did you mean example-average?"]),
        ("extract", ["run", "folder", "backbone=exampl:difference"], ["did you mean example?"]),
        ("evaluate", ["all", "tasks=example-sped"], ["did you mean example-speed?"]),
        (
            "fuse",
            ["train", "example-linea", "--store", str(GOLDEN / "stores" / "int8")],
            ["did you mean example-linear?"],
        ),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_and_where_plugins_come_from(
    program, words, names, run
):
    told = run(program, *words, status=2)
    for name in [*names, "entry point tokenreel."]:
        assert name in told


def test_a_package_that_cannot_be_imported_is_named_and_harms_no_other(run):
    told = run("extract", "run", "broken-videos", "--root", ".", status=2)
    assert "'broken-videos' of tokenreel-example 1.0 (tokenreel_broken:videos)" in told
    assert "this package needs a licence file" in told


def test_help_and_import_import_no_package(overlay):
    code = """
import sys
from importlib import import_module
for program in ("main", "extract", "fuse", "evaluate"):
    sys.argv = ["x", "--help"]
    try:
        import_module(f"tokenreel.pipeline.cli.{program}").main()
    except SystemExit as end:
        assert not end.code
assert not [name for name in sys.modules if name.startswith("tokenreel_")]
"""
    paths = os.pathsep.join([str(overlay), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
        capture_output=True,
    )
