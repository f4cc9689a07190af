"""Does the sample stand for the papers' problem on real features?  Bounds, and the papers' tables.

    python benchmarks/sample_calibration.py --weights PATH --backbone NAME --bounds
    python benchmarks/sample_calibration.py --weights PATH --backbone NAME --tables

PATH has weights of a self-supervised ViT, such as DINOv2 ViT-S/14 (`--backbone
vit_small_patch14_dinov2`); it sees 112 pixels, and a store keeps blocks 3, 7 and 11 in int8.

`--bounds` renders and extracts the sample, trains MV-Former (recipe `sample`, three seeds), and
compares it with a linear probe of frozen tokens and with the clock: the position in a clip as eight
pairs of cosine and sine.  `--tables` trains the rows of MV-Former's Table 4 that the backbone can
feed (those of a ResNet are, on a ViT, its rows of DINO again) and CARL's main rows, in lock-step
groups, with the budget and widths of recipe `sample` and without augmentation, which a CLS vector
cannot have as tokens have, and says which of the papers' findings show.
Everything is kept in --folder: the same command resumes.  With --tables, numbers are printed, and
written with --write, after each group.

Ends with 0 where every bound is met and every number is within the spreads of its row in
results/sample_calibration.csv; with 3 and the table of what is not.  `--write` replaces the rows.
"""

import argparse
import csv
import datetime
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import RESULTS, commit_name, cpu_name

from tokenreel.cache.read.store_reader import open_store
from tokenreel.evaluate.data.results import MEAN, read_rows
from tokenreel.evaluate.methods.probe import classify_phases
from tokenreel.evaluate.methods.progression import fit_progression, progression_targets
from tokenreel.evaluate.methods.retrieval import retrieve_frames
from tokenreel.evaluate.methods.tau import align_clips
from tokenreel.evaluate.tables.printed import align_columns, as_measured, two_std
from tokenreel.evaluate.tasks.task import is_percent
from tokenreel.pipeline.phases.ablation import ablate
from tokenreel.pipeline.phases.extraction import extract_dataset
from tokenreel.pipeline.recipes import get_recipe

FILE = RESULTS / "sample_calibration.csv"
WHERE = ("sample", "backbone", "device", "commit", "date")
COLUMNS = ("part", "row", "task", "mean", "2std", "seeds", *WHERE)
TASKS = ("classification", "progression", "tau", "ap@5")
SEEDS = 3
PAIRS = 8  # of the clock
FROZEN = ("frozen-mean", "frozen-max", "frozen-cls")
GROUPS = (  # trained in lock-step, those that decide most findings first
    ("mvformer-table4-9", "mvformer-table4-5", "mvformer-table4-8", "mvformer-table4-14"),
    ("mvformer-table4-13", "mvformer-table4-15", "mvformer-table4-10", "mvformer-table4-6"),
    ("mvformer-table4-7", "mvformer-table4-11", "mvformer-table4-12", "carl-penn"),
    ("carl-table5-resnet", "carl-table8-tcn", "carl-table8-tcc", "carl-table13-contrastive"),
)
WIDTHS = ("fc_width", "hidden", "heads", "feed_forward", "embedding")
# A number that moves by rounding alone, another processor's, where all seeds agree.
LEAST_SPREAD = {True: 1.0, False: 0.02}  # is it in percent?


@dataclass(frozen=True)
class Number:
    """A number of a row, over seeds, as the papers print it."""

    part: str
    row: str
    task: str
    mean: float
    spread: float
    seeds: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is compared by."""
        return self.part, self.row, self.task


@dataclass(frozen=True)
class Bound:
    """A limit that a number, or the difference of two, keeps."""

    what: str
    value: float
    limit: float
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        """Whether it is kept."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def main() -> int:
    """Measure, compare, print; the exit status."""
    words = _arguments()
    store = _extract(words)
    numbers: list[Number] = []
    missed: list[list[str]] = []
    if words.bounds:
        numbers += [*clock_numbers(store), *_train(["controls"], [], store, words.folder, "bounds")]
        print(_table(numbers, "bounds"))
        if not any(number.row == "sample" for number in numbers):
            print(
                f"no run of the sample was trained: {words.folder}/bounds has those of other code"
            )
            return 2
        for bound in bounds_of(numbers):
            line = [
                bound.what,
                f"{bound.value:.3f}",
                f"{'<=' if bound.at_most else '>='} {bound.limit:g}",
            ]
            print("  ".join([*line, "met" if bound.is_met else "MISSED"]))
            missed += [] if bound.is_met else [line]
    if words.tables:
        for number, rows in enumerate(GROUPS, 1):
            folder = words.folder / f"group{number}"
            numbers += _train(rows, _small_words(), store, folder, "tables")
            print("\n".join(align_columns(findings(numbers))), flush=True)
            if words.write:
                _write(numbers, words.backbone)
    if words.write:
        _write(numbers, words.backbone)
    missed += _differences(numbers, words.backbone)
    if missed:
        print("\n".join(["", *align_columns([["what", "found", "wanted"], *missed])]))
    return 3 if missed else 0


def bounds_of(numbers: Sequence[Number]) -> list[Bound]:
    """The bounds of a sample that stands for the papers' problem."""
    at = {(number.row, number.task): number for number in numbers if number.part == "bounds"}

    def best(task: str) -> Number:
        return max((at[row, task] for row in FROZEN), key=lambda number: number.mean)

    ours = {task: at["sample", task] for task in TASKS}
    clock = {task: at["clock", task].mean for task in TASKS if ("clock", task) in at}
    found = [
        Bound("classification of the clock", clock["classification"], 60, at_most=True),
        Bound("progression of the clock", clock["progression"], 0.5, at_most=True),
        Bound("classification of the best frozen control", best("classification").mean, 78, True),
        Bound("AP@5 of the best frozen control", best("ap@5").mean, 70, True),
    ]
    gaps = [
        ("classification above the best frozen control", "classification", best, 5.0),
        ("AP@5 above the best frozen control", "ap@5", best, 12.0),
        ("classification above the clock", "classification", None, 20.0),
        ("progression above the clock", "progression", None, 0.1),
    ]
    for what, task, other, least in gaps:
        below = clock[task] if other is None else other(task).mean
        gap = ours[task].mean - below
        found.append(Bound(what, gap, least))
        found.append(Bound(f"spread of that, {what}", ours[task].spread, gap, at_most=True))
    return found


def clock_numbers(path: Path) -> list[Number]:
    """The metrics of the position in a clip alone, on the labels of a store."""
    store = open_store(path)
    scores = []
    for action in sorted({record.action for record in store.records.values()}):
        sides = []
        for split in ("train", "val"):
            labels = [
                store.labels(record.clip_id).astype(np.int64)
                for record in store.select(split=split)
                if record.action == action
            ]
            sides.append((labels, [clock(len(own)) for own in labels]))
        (train, seen_clips), (val, asked_clips) = sides
        seen, asked = np.concatenate(seen_clips), np.concatenate(asked_clips)
        count = int(max(own.max() for own in train)) + 1
        accuracy = classify_phases(seen, np.concatenate(train), asked, np.concatenate(val)).accuracy
        targets = [[progression_targets(own, count) for own in side] for side in (train, val)]
        progression = fit_progression(seen, targets[0], asked, targets[1]).score
        tau = align_clips(asked_clips).tau
        found = retrieve_frames(asked_clips, val, [5]).precision[5]
        scores.append((100 * accuracy, progression, tau, 100 * found))
    nan = float("nan")
    return [
        Number("bounds", "clock", task, float(value), nan, 1)
        for task, value in zip(TASKS, np.mean(scores, axis=0), strict=True)
    ]


def clock(num_frames: int) -> np.ndarray:
    """The position of each frame of a clip as cosines and sines, (T, 2 PAIRS)."""
    angles = np.pi * np.arange(1, PAIRS + 1) * np.arange(num_frames)[:, None] / num_frames
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


FINDINGS = (  # what the papers say; the rows that say it: one is above the other
    ("LSTP and 3 entities over max pooling", "mvformer-table4-9", "mvformer-table4-5"),
    ("LSTP and 3 entities over mean pooling", "mvformer-table4-9", "mvformer-table4-6"),
    ("LSTP and 3 entities over CLS", "mvformer-table4-9", "mvformer-table4-7"),
    ("3 entities over 1, last block", "mvformer-table4-9", "mvformer-table4-8"),
    ("3 entities over 5, last block", "mvformer-table4-9", "mvformer-table4-10"),
    ("entities of tokens over those split from CLS", "mvformer-table4-9", "mvformer-table4-11"),
    ("three blocks over the last, 3 entities", "mvformer-table4-14", "mvformer-table4-9"),
    ("3 entities over 1, three blocks", "mvformer-table4-14", "mvformer-table4-13"),
    ("3 entities over 5, three blocks", "mvformer-table4-14", "mvformer-table4-15"),
    ("fusion over time over none (CARL, Table 5)", "carl-penn", "carl-table5-resnet"),
    ("SCL over TCN (CARL, Table 8)", "carl-penn", "carl-table8-tcn"),
    ("SCL over TCC (CARL, Table 8)", "carl-penn", "carl-table8-tcc"),
    ("Gaussian labels over one positive (CARL, Table 13)", "carl-penn", "carl-table13-contrastive"),
)


def findings(numbers: Sequence[Number]) -> list[list[str]]:
    """Which of the papers' findings show, in classification, progression and AP@5: a table.

    Each cell has our difference, what it says, and the papers'.  A difference that is smaller than
    the larger of both spreads is called open.
    """
    at = {(n.row, n.task): n for n in numbers if n.part == "tables"}
    lines = [["finding of the papers", "classification", "progression", "ap@5"]]
    for what, above, below in FINDINGS:
        cells = [what]
        for task in lines[0][1:]:
            first, second = at.get((above, task)), at.get((below, task))
            digits = 2 if is_percent(task) else 3
            papers = [get_recipe(row).published.get(task) for row in (above, below)]
            told = "-"
            if papers[0] is not None and papers[1] is not None:
                told = f"{papers[0][0] - papers[1][0]:+.{digits}f}"
            if first is None or second is None:
                cells.append(f"not measured (paper {told})")
                continue
            gap, spread = first.mean - second.mean, max(first.spread, second.spread)
            word = "open" if abs(gap) <= spread else ("shown" if gap > 0 else "reversed")
            cells.append(f"{gap:+.{digits}f} {word} (paper {told})")
        lines.append(cells)
    return lines


def _train(
    rows: Sequence[str], words: Sequence[str], store: Path, folder: Path, part: str
) -> list[Number]:
    """Train rows in lock-step, evaluate, and give their numbers over seeds."""
    report = ablate([*rows, *words], seeds=SEEDS, stores=[store], out=folder / part)
    print(report.text)
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)
    values: dict[tuple[str, str], list[float]] = {}
    for score in read_rows(report.out / "results.csv"):
        row = score.recipe.partition(" ")[0]
        if score.action == MEAN and not (score.is_clock or np.isnan(score.value)):
            factor = 100 if is_percent(score.task) else 1
            values.setdefault((row, score.task), []).append(factor * score.value)
    return [
        Number(part, row, task, float(np.mean(own)), two_std(own, ddof=1), len(own))
        for (row, task), own in values.items()
        if task in TASKS
    ]


def _small_words() -> list[str]:
    """Budget and widths of recipe `sample`, for rows that the papers train on a GPU."""
    fuse = get_recipe("sample").fuse
    temporal, data, optim = fuse.temporal, fuse.data, fuse.optim
    words = [f"temporal.{name}={getattr(temporal, name)}" for name in WIDTHS]
    words += [
        f"data.{name}={getattr(data, name)}" for name in ("num_frames", "batch_clips", "alpha")
    ]
    words += ["data.sampling=" + data.sampling]
    return words + [
        f"optim.{name}={getattr(optim, name)}"
        for name in ("name", "lr", "weight_decay", "epochs", "warmup_epochs")
    ]


def _extract(words: argparse.Namespace) -> Path:
    report, store = extract_dataset(
        "sample",
        [
            f"weights={words.weights}",
            f"backbone={words.backbone}",
            "image_size=112",
            "blocks=3,7,11",
            "codec=int8",
        ],
        root=words.folder / "videos",
        out=words.folder / "store",
    )
    if report.failed:
        raise SystemExit(f"{len(report.failed)} clips failed:\n{report.table()}")
    return store


def _table(numbers: Sequence[Number], part: str) -> str:
    at = {(n.row, n.task): n for n in numbers if n.part == part}
    lines = [["row", *TASKS]]
    for row in dict.fromkeys(n.row for n in numbers if n.part == part):
        found = [at.get((row, task)) for task in TASKS]
        cells = ["-" if n is None else as_measured(n.task, n.mean, n.spread) for n in found]
        lines.append([row, *cells])
    return "\n".join(align_columns(lines))


def numbers_of(rows: Iterable[Mapping[str, str]]) -> list[Number]:
    """The numbers of rows of results/sample_calibration.csv."""
    return [
        Number(
            row["part"],
            row["row"],
            row["task"],
            float(row["mean"]),
            float(row["2std"] or "nan"),
            int(row["seeds"]),
        )
        for row in rows
    ]


def _committed(backbone: str) -> dict[tuple[str, str, str], Number]:
    if not FILE.exists():
        return {}
    with FILE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["backbone"] == backbone]
    return {number.key: number for number in numbers_of(rows)}


def _differences(numbers: Sequence[Number], backbone: str) -> list[list[str]]:
    """What is further from its committed row than both spreads together, or has none."""
    committed = _committed(backbone)
    lines = []
    for number in numbers:
        title = f"{number.row}, {number.task}, as committed"
        held = committed.get(number.key)
        if held is None:
            lines.append([title, f"{number.mean:.3f}", "a row in results: --write"])
            continue
        least = LEAST_SPREAD[is_percent(number.task)]
        spread = max(least, np.nansum([held.spread, number.spread]))
        if abs(held.mean - number.mean) > spread:
            lines.append([title, f"{number.mean:.3f}", f"{held.mean:.3f} +- {spread:.3f}"])
    return lines


def _write(numbers: Sequence[Number], backbone: str) -> None:
    """Replace the rows of the same backbone and keys."""
    from tokenreel.pipeline.defaults import SAMPLE

    fresh = {number.key for number in numbers}
    kept: list[dict[str, str]] = []
    if FILE.exists():
        with FILE.open(newline="") as file:
            kept = list(csv.DictReader(file))
    kept = [
        row
        for row in kept
        if row["backbone"] != backbone or (row["part"], row["row"], row["task"]) not in fresh
    ]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    about = [SAMPLE, backbone, cpu_name(), commit_name(), today]
    with FILE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([row[name] for name in COLUMNS] for row in kept)
        for n in numbers:
            spread = "" if np.isnan(n.spread) else f"{n.spread:.6g}"
            writer.writerow([n.part, n.row, n.task, f"{n.mean:.6g}", spread, n.seeds, *about])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", required=True, help="file of the backbone's weights")
    parser.add_argument("--backbone", required=True, help="its name in timm")
    parser.add_argument("--bounds", action="store_true", help="the bounds of the sample")
    parser.add_argument("--tables", action="store_true", help="the papers' tables on it")
    parser.add_argument("--write", action="store_true", help="replace the committed rows")
    parser.add_argument("--folder", type=Path, default=Path("calibration"), help="of everything")
    words = parser.parse_args()
    if not (words.bounds or words.tables):
        parser.error("say --bounds, --tables or both")
    return words


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
