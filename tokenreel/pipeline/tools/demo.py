"""`make demo`: the main job, end to end, on the embedded sample.

Renders the sample, extracts it with a small ViT of fixed random weights, trains MV-Former with
three seeds, adds three controls (frozen tokens average-pooled, the fusion model untrained, and the
clock, which knows only the position of a frame in its clip), evaluates them all and ends with a
page to look at.  Everything that is there is used again.
"""

import logging
import time
from pathlib import Path

from tokenreel.cache.errors import ClipFailed
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.report.data.gather import ReportConfig
from tokenreel.pipeline.defaults import EMBEDDINGS, RESULTS, RUNS
from tokenreel.pipeline.phases.attention import attend_clips
from tokenreel.pipeline.phases.evaluation import frozen_controls
from tokenreel.pipeline.phases.extraction import extract_dataset
from tokenreel.pipeline.phases.reporting import report_scores
from tokenreel.pipeline.phases.training import train_recipe
from tokenreel.pipeline.text import say

SEEDS = (0, 1, 2)
CLIP = "val/visit_001.mp4"  # the attention over it is drawn

log = logging.getLogger(__name__)


def run_demo() -> int:
    """Run the demo in the current folder.

    Returns:
        The exit status of the worst step.
    """
    start = time.monotonic()
    say("1/3 extract: sample clips, a small ViT with fixed RANDOM weights (no DINO here)")
    report, store = extract_dataset("sample", [])
    say(report.table())
    report.require_reached()

    say("2/3 train: MV-Former, 3 seeds, and two controls")
    runs = _train(store)
    trained = runs[-1].parent
    if not any((trained / "attention").glob("*.mp4")):  # its last file
        for found in attend_clips(trained, [CLIP], store=store):  # for the report
            log.info("attention: %s", found if isinstance(found, ClipFailed) else found.grid)

    say("3/3 evaluate")
    out = RESULTS / "demo"
    tables = evaluate_files(runs, config=EvaluateConfig(), out=out)
    say(tables.summary)
    for problem in tables.problems:
        say(f"problem: {problem}")
    say("backbone weights: random:0, so compare the rows with one another, not with a paper")
    say(f"tables: {out / 'results.csv'}, {out / 'summary.csv'}")
    page = report_scores(runs, tables, out=out, config=ReportConfig(title="TokenReel demo"))
    say(f"done in {time.monotonic() - start:.0f} s")
    say(f"report: {page}")
    return max(tables.exit_status, 3 if report.failed else 0)


def _train(store: Path) -> list[Path]:
    """The embedding files of the controls and the trained runs, those of `sample` last."""
    runs = frozen_controls(store, RUNS, pools=("mean",))
    for name in ("untrained", "sample"):
        for seed in SEEDS:
            runs.append(train_recipe(name, [f"seed={seed}"], store=store).path / EMBEDDINGS)
    return runs
