"""The commands: what a wrong word is told, and the status it ends with."""

import subprocess
import sys
from pathlib import Path

import pytest


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
