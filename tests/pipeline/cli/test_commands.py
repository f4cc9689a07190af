"""The commands: what a wrong word is told, and the status it ends with."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuse.tiny import write_store


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("extract", ["run", "sampel"], "did you mean sample?"),
        ("extract", ["run", "sample", "block=3"], "extract.block: no such field, did you mean"),
        ("extract", ["run", "folder", "--root", "nowhere"], "no such folder; expected"),
        ("extract", ["run", "sample", "--shard", "2/2"], "--shard is i/n"),
        ("extract", ["run", "sample", "fps=inf"], "extract.fps: Input should be a finite number"),
        ("extract", ["run", "folder", "--root", ".", "device=cuda:99"], "cuda:99': torch sees"),
        (
            "extract",
            ["run", "folder", "--root", ".", "weights=random:0", "codec=pca:9999+int8"],
            "codec=pca:9999+int8: pca:9999 of tokens with 768 channels",
        ),
        ("extract", ["plan", "folder", "--root", ".", "--recipe", "sampel"], "no recipe 'sampel'"),
        ("fuse", ["train", "smaple"], "did you mean sample?"),
        ("fuse", ["train", "pooling.num_entitis=2"], "did you mean num_entities?"),
        ("fuse", ["train", "mvformer-penn"], "no store of penn_action"),
        ("fuse", ["ablate", "sample", "--placement", "attic"], "'attic' is not one of 'auto'"),
        ("fuse", ["train", "--memory", "much"], "--memory 'much' is not a size such as 2GB"),
        ("evaluate", ["all", "nowhere"], "nowhere does not exist"),
        ("evaluate", ["all", "tau_strid=2"], "did you mean tau_stride?"),
    ],
)
def test_a_wrong_word_ends_with_status_2_and_a_suggestion(tmp_path, name, words, message):
    (tmp_path / "a.mp4").write_text("a name is enough")
    path = Path(sys.executable).with_name(name)
    run = subprocess.run(
        [path, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 2, run.stderr
    assert message in run.stderr


@pytest.mark.parametrize("command", [["train", "sample"], ["ablate", "sample", "--seeds", "1"]])
def test_memory_bounds_what_is_read_at_once(tmp_path, command):
    store = write_store(tmp_path / "s")
    fuse = [Path(sys.executable).with_name("fuse"), *command, "--store", store, "--out", "o"]
    run = subprocess.run(
        [*fuse, "--device", "cpu", "--memory", "1K"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode != 0
    assert "GB of codes are read at once, 0.00 GB may be used: set a smaller" in run.stderr


def test_a_full_disk_ends_training_in_a_line_and_the_same_command_goes_on(tmp_path):
    store = write_store(tmp_path / "s")
    words = ["data.num_frames=6", "data.batch_clips=2", "optim.epochs=2", "optim.warmup_epochs=0"]
    fuse = [Path(sys.executable).with_name("fuse"), "train", "sample", *words]
    command = [*map(str, fuse), "--store", str(store), "--out", "run", "--device", "cpu"]
    full, roomy = (
        subprocess.run(
            ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "bash", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        for kilobytes in (100, "unlimited")
    )
    assert full.returncode == 3
    last = full.stderr.splitlines()[-1]
    assert last.startswith("error: [Errno 27] File too large: 'run/checkpoint.pt': make room")
    assert "Traceback" not in full.stderr
    assert roomy.returncode == 0, roomy.stderr
    assert not list((tmp_path / "run").glob(".tmp-*"))
