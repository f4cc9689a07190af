"""The commands: what a wrong word is told, and the status it ends with."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from tests.fuse.tiny import write_store
from tests.programs import call
from tokenreel.pipeline.cli import evaluate, extract, fuse, main

HELP = {
    "extract": ["", "run", "scenes", "describe", "text", "retry", "plan", "show"],
    "fuse": ["", "train", "ablate", "embed", "attend", "apply", "export", "explain", "recipes"],
    "evaluate": ["", "all", "compare", "frozen", "check", "report", "align", "retrieve"],
    "tokenreel": ["", "demo", "doctor", "explore", "fidelity", "keys", "similar", "status"]
    + ["data check"]
    + [f"store {name}" for name in ("info", "ls", "verify", "diff", "export", "import")]
    + [f"store {name}" for name in ("merge", "migrate", "pool", "gc", "relabel")],
}
WRONG = [
    ("extract", "run sampel", "did you mean sample?"),
    ("extract", "run sample block=3", "extract.block: no such field, did you mean blocks?"),
    ("extract", "run sample fps=inf", "extract.fps: Input should be a finite number"),
    ("extract", "run sample codec=int9", "no codec 'int9', did you mean int8?"),
    ("extract", "run sample backbone=tim:vit", "no backbone family 'tim', did you mean timm?"),
    (
        "extract",
        "run sample frames=unifrom:8",
        "frames is all, uniform:T, listed:FILE or scenes:FOLDER",
    ),
    ("extract", "run sample fps=5 frames=uniform:8", "fps=5 and frames=uniform:8 both choose"),
    ("extract", "run sample frames=listed:nowhere.csv", "nowhere.csv: no such file"),
    ("extract", "run sample device=gpu", "device='gpu' is none of auto, cpu, cuda or cuda:N"),
    ("extract", "run sample data.trian=4", "data.trian: the data set `sample` takes data.train"),
    ("extract", "run folder --root nowhere", "no such folder; expected"),
    ("extract", "run sample --shard 2/2", "--shard is i/n"),
    ("extract", "run sample --gpus some", "--gpus is all, how many, or numbers such as 0,1"),
    ("extract", "plan folder --root . --recipe sampel", "no recipe 'sampel', did you mean sample?"),
    ("extract", "show a --store nowhere", "nowhere"),
    ("extract", "retry nowhere", "nowhere"),
    ("fuse", "train smaple", "did you mean sample?"),
    ("fuse", "train pooling.num_entitis=2", "did you mean num_entities?"),
    ("fuse", "train optim.epochs=x", "fuse.optim.epochs: Input should be a valid integer"),
    ("fuse", "train mvformer-penn", "no store of penn_action"),
    ("fuse", "train --store nowhere", "nowhere"),
    ("fuse", "train --memory much", "--memory 'much' is not a size such as 2GB"),
    ("fuse", "train --device gpu", "--device 'gpu' is none of auto, cpu, cuda or cuda:N"),
    ("fuse", "ablate smaple", "no table or recipe 'smaple', did you mean sample?"),
    ("fuse", "ablate sample optim.lr=1,x", "fuse.optim.lr: Input should be a valid number"),
    ("fuse", "ablate sample --placement attic", "'attic' is not one of 'auto'"),
    ("fuse", "ablate sample --store nowhere", "nowhere"),
    ("fuse", "embed nowhere --store nowhere", "nowhere is no run"),
    ("fuse", "attend nowhere --clips a", "nowhere is no run"),
    ("fuse", "explain nowhere --clips a", "nowhere is no run"),
    ("fuse", "recipes sampel", "did you mean sample?"),
    ("evaluate", "all nowhere", "nowhere does not exist"),
    ("evaluate", "all tau_strid=2", "did you mean tau_stride?"),
    ("evaluate", "all --memory much", "--memory 'much' is not a size such as 2GB"),
    ("evaluate", "compare nowhere nowhere", "nowhere does not exist"),
    ("evaluate", "frozen nowhere", "nowhere"),
    ("evaluate", "frozen nowhere tau_strid=2", "did you mean tau_stride?"),
    ("evaluate", "check nowhere", "'nowhere' does not exist"),
    ("evaluate", "report nowhere", "nowhere does not exist"),
    ("evaluate", "align a b --run nowhere", "nowhere does not exist"),
    ("evaluate", "retrieve a 0 --run nowhere", "nowhere does not exist"),
    ("tokenreel", "demmo", "No such command 'demmo'"),
    ("tokenreel", "fidelity nowhere", "nowhere"),
    ("tokenreel", "fidelity sample --codec int9", "no codec 'int9', did you mean int8?"),
    ("tokenreel", "data check sampel", "did you mean sample?"),
    ("tokenreel", "store info nowhere", "nowhere"),
    ("tokenreel", "store export nowhere out --kind csv", "--kind 'csv': hdf5 or npy"),
    # these need torch to know what this machine and the backbone are, so they come last
    ("extract", "run folder --root . device=cuda:99", "cuda:99': torch sees"),
    (
        "extract",
        "run folder --root . weights=random:0 codec=pca:9999+int8",
        "codec=pca:9999+int8: pca:9999 of tokens with 768 channels",
    ),
]
NEED_TORCH = WRONG[-2:]
RUN_ALL = """
import contextlib, io, json, sys
from importlib import import_module

name, *commands = sys.argv[1:]
main = import_module(f"tokenreel.pipeline.cli.{'main' if name == 'tokenreel' else name}").main
found = []
for command in commands:
    sys.argv = [name, *command.split()]
    out = io.StringIO()
    status = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main()
        except SystemExit as end:
            status = end.code
    heavy = [m for m in ("torch", "timm", "sklearn", "matplotlib", "decord") if m in sys.modules]
    found.append((status, out.getvalue(), heavy))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """(program, words) -> exit status, what was printed, and the slow packages imported by then."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "a.mp4").write_text("a name is enough")
    found = {}
    for name, helps in HELP.items():
        commands = [f"{command} --help".strip() for command in helps]
        commands += [words for program, words, _ in WRONG if program == name]
        run = subprocess.run(
            [sys.executable, "-c", RUN_ALL, name, *commands],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        ends = json.loads(run.stdout)
        found |= {(name, words): end for words, end in zip(commands, ends, strict=True)}
    return found


@pytest.mark.parametrize(("name", "words", "message"), WRONG)
def test_a_wrong_word_ends_with_status_2_and_a_suggestion(ends, name, words, message):
    status, printed, _ = ends[name, words]
    assert status == 2, printed
    assert message in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(("name", "words"), [case[:2] for case in WRONG if case not in NEED_TORCH])
def test_a_wrong_word_is_found_before_a_slow_package_is_imported(ends, name, words):
    assert ends[name, words][2] == []


@pytest.mark.parametrize(
    ("name", "command"), [(name, command) for name in HELP for command in HELP[name]]
)
def test_help_imports_no_slow_package(ends, name, command):
    status, printed, heavy = ends[name, f"{command} --help".strip()]
    assert (status, heavy) == (0, [])
    assert printed.startswith(f"Usage: {name}")


def test_every_command_is_among_those_whose_help_is_tested():
    apps = {"extract": extract, "fuse": fuse, "evaluate": evaluate, "tokenreel": main}
    for name, module in apps.items():
        words = set(command_words(get_command(module.app)))
        assert words == set(HELP[name]) - {""}, name


def command_words(group):
    """The words of every command below a group, such as "store info"."""
    for word, command in group.commands.items():
        inner = getattr(command, "commands", None)
        yield from [f"{word} {rest}" for rest in command_words(command)] if inner else [word]


def test_the_console_script_ends_with_the_status_and_the_message(tmp_path):
    path = Path(sys.executable).with_name("fuse")
    run = subprocess.run(
        [path, "train", "smaple"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stderr.startswith("error: no recipe 'smaple', did you mean sample?")


@pytest.mark.parametrize("command", [["train", "sample"], ["ablate", "sample", "--seeds", "1"]])
def test_memory_bounds_what_is_read_at_once(tmp_path, command):
    store = write_store(tmp_path / "s")
    words = [*command, "--store", store, "--out", "o", "--device", "cpu", "--memory", "1K"]
    status, printed = call("fuse", *words, cwd=tmp_path)
    assert status != 0
    assert "GB of codes are read at once, 0.00 GB may be used: set a smaller" in printed


def test_a_full_disk_ends_training_in_a_line_and_the_same_command_goes_on(tmp_path):
    store = write_store(tmp_path / "s")
    words = ["data.num_frames=6", "data.batch_clips=2", "optim.epochs=2", "optim.warmup_epochs=0"]
    command = ["train", "sample", *words, "--store", store, "--out", "run", "--device", "cpu"]
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 * 1024, former[1]))
    try:
        status, printed = call("fuse", *command, cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert status == 6
    last = printed.splitlines()[-1]
    assert last.startswith("error: run/checkpoint.pt: File too large; make room")
    assert "Traceback" not in printed
    status, printed = call("fuse", *command, cwd=tmp_path)
    assert status == 0, printed
    assert not list((tmp_path / "run").glob(".tmp-*"))
