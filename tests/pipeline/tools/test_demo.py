"""What the demo ends with; extraction and training have tests of their own."""

from pathlib import Path

import pytest

from tests.evaluate.report import made
from tokenreel.extract.report import ExtractReport
from tokenreel.pipeline.tools import demo


@pytest.fixture
def attended(tmp_path, monkeypatch):
    """The demo in a folder where its runs are there already; the runs that it drew attention of."""
    monkeypatch.chdir(tmp_path)
    paths = [file.path for file in made.write_runs(tmp_path / "runs").files]
    extracted = ExtractReport(committed=["a"], num_clips=1)
    drawn = []

    def attend_clips(run, clips, *, store):
        drawn.append((run.name, clips))
        (run / "attention").mkdir()
        (run / "attention/clip.mp4").touch()
        return []

    monkeypatch.setattr(demo, "extract_dataset", lambda *words: (extracted, tmp_path / "store"))
    monkeypatch.setattr(demo, "_train", lambda store: paths)
    monkeypatch.setattr(demo, "attend_clips", attend_clips)
    return drawn


def test_the_demo_ends_with_the_path_of_its_report(attended, capsys):
    assert demo.run_demo() == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "report: results/demo/index.html"
    page = Path("results/demo/index.html").read_text()
    assert "<h1>TokenReel demo</h1>" in page
    assert "Without the frames of" in page  # these runs have no videos


def test_attention_is_drawn_once(attended):
    demo.run_demo()
    demo.run_demo()
    assert attended == [("noisy-seed0", [demo.CLIP])]
