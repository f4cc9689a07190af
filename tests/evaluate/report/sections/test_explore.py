"""The page names the command that opens a clip in the explorer."""

import html
import shlex
from dataclasses import replace
from pathlib import Path

from tests.evaluate.report import made
from tokenreel.evaluate.report.build import make_report
from tokenreel.evaluate.report.data.gather import gather_runs
from tokenreel.evaluate.report.sections.explore import explore_line


def test_a_clip_has_the_command_without_a_path_of_this_machine(evaluated):
    file = replace(evaluated.files[0], provenance={"store_name": "my store"})
    [run] = gather_runs([file])
    line = html.unescape(str(explore_line(run, "a 'b'<c>")))
    command = line.partition("<code>")[2].partition("</code>")[0]
    folder = file.path.parent.name
    wanted = ["stores/my store", "--run", f"runs/{folder}", "--clip", "a 'b'<c>"]
    assert shlex.split(command) == ["tokenreel", "explore", *wanted]
    assert "<c>" not in str(explore_line(run, "a<c>"))
    typed = replace(run, file=replace(file, path=Path("results/runs/x/embeddings.h5")))
    assert "--run results/runs/x " in str(explore_line(typed, "a"))


def test_embeddings_of_no_store_have_none(evaluated):
    [run] = gather_runs([replace(evaluated.files[0], provenance={})])
    assert explore_line(run, "a") is None


def test_the_report_has_it_beside_alignments_and_retrieved_frames(evaluated):
    files = [
        replace(file, provenance={**file.provenance, "store_name": "made"})
        for file in evaluated.files
    ]
    page = make_report(files, evaluated.scores.scores, frames=made.make_frames).decode()
    for section in ("alignment", "retrieval"):
        part = page.partition(f'<section id="{section}"')[2].partition("</section>")[0]
        assert "tokenreel explore stores/made --run runs/" in part, section
