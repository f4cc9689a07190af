"""`tokenreel demo`: the main job, end to end, on the embedded sample.

Renders the sample, extracts it, trains MV-Former and its controls, evaluates them all and ends with
a page to look at.  The controls are those that a reader asks for: frozen tokens pooled by mean and
maximum and the CLS token, each with a linear probe; the fusion model untrained; late fusion; and
the clock, which knows only the position of a frame in its clip.  What trains has three seeds.

Without words the backbone is a small ViT of fixed random weights, which needs no network.
`weights=pretrained`, or `weights=FILE backbone=NAME`, takes another one.  Its tokens are wider and
there are more of them: what trains has 24 epochs there in place of 40, every row alike, and says so
in its name.  The runs and tables of each backbone are in a folder of their own, so that random and
trained weights never share a table.
Everything that is there is used again.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreel.cache.errors import ClipFailed, TokenReelError, UsageError
from tokenreel.evaluate.commands.suite import SuiteReport, evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.report.data.gather import ReportConfig
from tokenreel.evaluate.tables.order import order_sentence
from tokenreel.evaluate.tables.summary import summarise
from tokenreel.pipeline.defaults import EMBEDDINGS, RESULTS, SAMPLE
from tokenreel.pipeline.phases.attention import attend_clips
from tokenreel.pipeline.phases.evaluation import frozen_controls
from tokenreel.pipeline.phases.extraction import (
    configure_extraction,
    data_options,
    extract_dataset,
)
from tokenreel.pipeline.phases.reporting import report_scores
from tokenreel.pipeline.phases.training import make_job, train_jobs
from tokenreel.pipeline.recipes.extraction import extraction_for
from tokenreel.pipeline.text import say

if TYPE_CHECKING:  # torch
    from tokenreel.extract.config import ExtractConfig

SEEDS = (0, 1, 2)
# recipes of three seeds each, MV-Former last: with random weights, and with a file of weights
RECIPES = ("untrained", "late-fusion", "sample")
RECIPES_OF_WEIGHTS = ("untrained", "late-fusion-24-epochs", "sample-24-epochs")
CLIP = "val/visit_001.mp4"  # the attention over it is drawn
BACKBONE = "vit_small_patch14_dinov2.lvd142m"  # of weights= without a backbone=
SIZES = (112, 96, 128)  # of an image; the first that divides into the patches of the backbone

log = logging.getLogger(__name__)


def run_demo(words: Sequence[str] = ()) -> int:
    """Run the demo in the current folder.

    Args:
        words: `key=value` of the extraction; image_size and blocks fit the backbone when left out.

    Returns:
        The exit status of the worst step.

    Raises:
        UsageError: weights that cannot be loaded, before anything is rendered; a wrong word.
    """
    start = time.monotonic()
    words, config = demo_extraction(words)
    recipes = RECIPES_OF_WEIGHTS
    what = f"{config.backbone} with the weights {config.weights}"
    if config.weights.startswith("random:"):
        recipes = RECIPES
        what = f"{config.backbone} with fixed RANDOM weights (no DINO here)"
    say(f"1/3 extract: sample clips, {what}")
    report, store = extract_dataset("sample", words)
    say(report.table())
    report.require_reached()

    say(f"2/3 train: MV-Former and late fusion, {len(SEEDS)} seeds each, beside the controls")
    label = store.name.removeprefix(f"{SAMPLE}-")  # backbone, weights and fingerprint
    out = RESULTS / (f"demo-{label}" if words else "demo")
    files, problems = _train(store, out / "runs" / label.rpartition("-")[2], recipes)
    _draw_attention(files[-1].parent, store)

    say("3/3 evaluate")
    tables = evaluate_files(files, config=EvaluateConfig(), out=out)
    tables = replace(tables, problems=(*problems, *tables.problems))
    say(tables.summary)
    sentence = sentence_on(tables, recipes[-1])
    for problem in tables.problems:
        say(f"problem: {problem}")
    if sentence:
        say(sentence)
    weights = ", ".join(sorted({score.weights for score in tables.scores if score.weights}))
    say(f"backbone weights: {weights}, so compare the rows with one another, not with a paper")
    say(f"tables: {out / 'results.csv'}, {out / 'summary.csv'}")
    page = ReportConfig(title="TokenReel demo", note=sentence)
    path = report_scores(files, tables, out=out, config=page)
    say(f"done in {time.monotonic() - start:.0f} s")
    say(f"report: {path}")
    return max(tables.exit_status, 3 if report.failed else 0)


def demo_extraction(words: Sequence[str]) -> tuple[list[str], "ExtractConfig"]:
    """The words of the demo's extraction with those that fit its backbone, and what they describe.

    Raises:
        UsageError: a wrong word, or weights that cannot be loaded; it offers the demo without any.
    """
    _, rest = data_options(words)
    given = {word.partition("=")[0] for word in rest}
    config = configure_extraction(extraction_for("sample"), rest)
    if not given & {"weights", "backbone"}:
        return list(words), config
    fitting: list[str] = []
    if "backbone" not in given and not config.weights.startswith("random:"):
        fitting.append(f"backbone={BACKBONE}")
    from tokenreel.extract.backbone.families import load_weights  # torch: every word is right

    config = configure_extraction(config, fitting)
    try:
        load_weights(config.backbone, config.weights, config.weights_key)
        sizes = {"image_size", "blocks"} - given
        fitting += [f"{key}={value}" for key, value in _sizes(config, sizes).items()]
    except UsageError as error:
        raise UsageError(
            f"{error}; the demo itself needs neither weights nor a network: `tokenreel demo`"
        ) from error
    return [*words, *fitting], configure_extraction(config, fitting)


def _sizes(config: "ExtractConfig", wanted: set[str]) -> dict[str, str]:
    """Image size and blocks that a backbone has: a third, two thirds and all of its depth.

    Maps of a ResNet differ in shape: its last block alone.
    """
    from tokenreel.extract.backbone.families import backbone_shape

    found: dict[str, str] = {}
    size = config.image_size
    if "image_size" in wanted:
        size = next((s for s in SIZES if _has(config.backbone, (-1,), s)), None)
        found["image_size"] = "null" if size is None else str(size)
    if "blocks" in wanted:
        count = backbone_shape(config.backbone, (-1,), size).blocks[0] + 1
        thirds = tuple(part * count // 3 - 1 for part in (1, 2, 3))
        chosen = thirds if _has(config.backbone, thirds, size) else (count - 1,)
        found["blocks"] = ",".join(map(str, chosen))
    return found


def _has(backbone: str, blocks: tuple[int, ...], size: int | tuple[int, int] | None) -> bool:
    """Whether a backbone takes images of a size and has the blocks, in one shape."""
    from tokenreel.extract.backbone.families import backbone_shape

    try:
        backbone_shape(backbone, blocks, size)
    except UsageError:
        return False
    return True


def _train(store: Path, folder: Path, recipes: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The embedding files of the controls and the runs of recipes, MV-Former's last; what failed.

    On a CPU a run has a process and one thread, on a GPU all take their steps on the same batches;
    each ends with the numbers of a run alone.

    Raises:
        TokenReelError: a run of MV-Former failed.
    """
    files = frozen_controls(store, folder)
    jobs = [
        make_job(name, [f"seed={seed}"], store=store, folder=folder)
        for name in recipes
        for seed in SEEDS
    ]
    results = train_jobs(jobs)  # those that take longest are last
    failed = [result for result in results if result.error is not None]
    for result in failed:
        if result.path.name.startswith(recipes[-1]):
            raise TokenReelError(f"{result.path}: {result.error}")
    files += [result.path / EMBEDDINGS for result in results if result.error is None]
    return files, [f"{result.path.name}: {result.error}" for result in failed]


def _draw_attention(run: Path, store: Path) -> None:
    """Draw where the entities of a run look, once, for the page."""
    if any((run / "attention").glob("*.mp4")):  # its last file
        return
    for found in attend_clips(run, [CLIP], store=store):
        log.info("attention: %s", found if isinstance(found, ClipFailed) else found.grid)


def sentence_on(tables: SuiteReport, recipe: str) -> str:
    """Where MV-Former, a recipe's rows, is above, level with or below the best control."""
    numbers: dict[str, dict[str, tuple[float, float]]] = {}
    for row in summarise(tables.scores):
        for task in row.values:
            value = row.mean(task), row.two_std(task, 0)
            numbers.setdefault(task, {})[row.recipe] = value
    return order_sentence(recipe, numbers)
