"""`sample`: the embedded default, rendered on first use, so that nothing is downloaded.

A figure does one of two actions in three phases.  No colour or place tells the phase of a frame:
the first phase and the last pass the same poses, there and back.

    action  phase     what tells it
    lift    raise     motion: the bar in the hands goes up
            squat     appearance: the bar is up and the knees bend under it
            lower     motion: through the poses of raise, down
    visit   approach  relation over time: the gap of figure and ball closes, whichever moves
            float     an object's motion: the ball goes up beside the figure
            retreat   relation over time: through the gaps of approach, wider
    all     a pause, in any phase, needs the order: what came before it, what comes after

In each clip one phase lasts longer than the others together, each of the three in its turn.  Where
it is the first, the clip ends soon after the action turned; where it is the last, the clip begins
just before, and in some the action was there already.  So the time in a clip says little: a probe
of it alone stays below .60 of classification and .50 of progression.  Motion is at one speed, which
changes a little within a phase: so the pose and its direction together say how far the boundaries
are, the pose alone does not; a walk begins with any step, so the gait at a gap says nothing
(tests/pipeline/datasets/test_sample.py).  Viewpoint, handedness, scale, body, clothes, background
and its motion, camera, and a second figure that does something else vary with the seed of a clip
and say nothing (`render.py`).

The root that is written is a `folder` root as well.  Each version of the sample has a folder and a
name of its own: the stores and rows of this one are of `sample-5`.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from tokenreel.cache.canonical import read_json
from tokenreel.cache.errors import UsageError
from tokenreel.cache.files import whole_file
from tokenreel.pipeline.datasets.folder import folder
from tokenreel.pipeline.datasets.render import render_clip
from tokenreel.pipeline.datasets.rendering import counts_of, note_text, render_missing
from tokenreel.pipeline.datasets.script import FPS, PHASES, Script, write_script
from tokenreel.pipeline.datasets.survey import Survey
from tokenreel.pipeline.defaults import SAMPLE

NUM_TRAIN, NUM_VAL = 60, 30
OLDER = {2: "sample", 3: "sample-3", 4: "sample-4"}  # version -> name of its data set
LICENCE = "rendered by TokenReel, Apache-2.0"
VERSION = int(SAMPLE.partition("-")[2])  # of scripts and pictures

log = logging.getLogger(__name__)


def sample(root: Path, options: Mapping[str, str]) -> Survey:
    """The rendered data set; clips that are there already are used again.

    Args:
        root: where the clips and their tables are kept.
        options: `train` and `val`, numbers of clips; by default those that are there, else 60
            and 30.

    Returns:
        The clips.  A root that an older version rendered is used as it is; its data set has
        another name (`sample` of version 2, `sample-3`, `sample-4`), so that no table averages its
        rows with others.

    Raises:
        UsageError: an unknown option, or a root that holds something else.
    """
    note = root / "sample.json"
    counts = {"train": NUM_TRAIN, "val": NUM_VAL}
    if unknown := [name for name in options if name not in counts]:
        raise UsageError(f"data.{unknown[0]}: the data set `sample` takes data.train and data.val")
    counts = counts_of(note, options, counts)
    if (version := _version_of(note)) in OLDER:
        return _rendered_before(root, note, version, counts)
    made_with = note_text(note, VERSION, counts)
    scripts = [
        write_script(split, index) for split in ("train", "val") for index in range(counts[split])
    ]
    root.mkdir(parents=True, exist_ok=True)
    render_missing(root, scripts, render_clip)
    _write_tables(root, scripts)
    with whole_file(note) as partial:
        partial.write_text(made_with)
    return _named(root, SAMPLE)


def _named(root: Path, dataset: str) -> Survey:
    manifest = folder(root, {}).manifest  # its note is of sample.json, which is no video
    return Survey(replace(manifest, dataset=dataset, licence=LICENCE, notes=()))


def _rendered_before(root: Path, note: Path, version: int, counts: Mapping[str, int]) -> Survey:
    """The clips of an older version, which can only be read.

    Raises:
        UsageError: other numbers of clips than it has.
    """
    held = read_json(note.read_bytes())
    if any(held.get(name) != count for name, count in counts.items()):
        raise UsageError(
            f"{root} holds {note.read_text()}, rendered by an older version, wanted {counts}: "
            "leave data.train and data.val out, or use another --root"
        )
    log.warning("%s is version %d of the sample, %d is the newest", root, version, VERSION)
    return _named(root, OLDER[version])


def _version_of(note: Path) -> int:
    """The version that rendered a root; 0 where there is none, or the note says none."""
    try:
        return int(read_json(note.read_bytes())["version"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return 0


def _write_tables(root: Path, scripts: list[Script]) -> None:
    clips = ["video,split,action"]
    labels = ["video,start_seconds,stop_seconds,phase"]
    for script in scripts:
        clips.append(f"{script.video},{script.split},{script.action}")
        phases = script.phases
        edges = [0, *(np.flatnonzero(np.diff(phases)) + 1).tolist(), len(phases)]
        for start, stop in pairwise(edges):
            name = PHASES[script.action][phases[start]]
            labels.append(f"{script.video},{start / FPS:.2f},{stop / FPS:.2f},{name}")
    names = [f"{action},{name}" for action, names in PHASES.items() for name in names]
    for name, lines in [
        ("clips.csv", clips),
        ("labels.csv", labels),
        ("phases.csv", ["action,phase", *names]),
    ]:
        with whole_file(root / name) as partial:
            partial.write_text("\n".join(lines) + "\n")
