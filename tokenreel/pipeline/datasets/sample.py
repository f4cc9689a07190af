"""`sample`: the embedded default, rendered on first use, so that nothing is downloaded.

A figure does one of two actions, `lift` in 3 phases or `dance` in 5.  Phases last differently long
in every clip, some clips start late in the first phase and some repeat a phase, so the number of a
frame says little about its phase; the pose does, and a lamp in one hand, which is a small part of
the picture.  Colours, scale, handedness, background, camera shake and a
distractor vary with the seed of the clip.  The root that is written is a `folder` root as well.
"""

import json
import logging
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from tokenreel.cache.canonical import read_json
from tokenreel.cache.errors import UsageError
from tokenreel.cache.files import whole_file
from tokenreel.pipeline.datasets.folder import folder
from tokenreel.pipeline.datasets.render import FPS, PHASES, Script, render_clip, write_script
from tokenreel.pipeline.datasets.survey import Survey

NUM_TRAIN, NUM_VAL = 36, 18
VERSION = 2  # of the pictures; a root of another version is not used again

log = logging.getLogger(__name__)


def sample(root: Path, options: Mapping[str, str]) -> Survey:
    """The rendered data set; clips that are there already are used again.

    Args:
        root: where the clips and their tables are kept.
        options: `train` and `val`, numbers of clips; by default those that are there, else 36
            and 18.

    Raises:
        UsageError: an unknown option, or a root that holds something else.
    """
    note = root / "sample.json"
    counts = _counts_of(note) | _counts(options)
    made_with = json.dumps({"version": VERSION, **counts}, sort_keys=True)
    if note.exists() and note.read_text() != made_with:
        raise UsageError(f"{root} holds {note.read_text()}, wanted {made_with}: use another --root")
    if not note.exists() and root.is_dir() and any(root.glob("*.csv")):
        raise UsageError(f"{root} holds another data set: use another --root")
    scripts = [
        write_script(split, index) for split in ("train", "val") for index in range(counts[split])
    ]
    root.mkdir(parents=True, exist_ok=True)
    _render_missing(root, scripts)
    _write_tables(root, scripts)
    with whole_file(note) as partial:
        partial.write_text(made_with)
    manifest = folder(root, {}).manifest
    return Survey(replace(manifest, dataset="sample", licence="rendered by TokenReel, Apache-2.0"))


def _counts_of(note: Path) -> dict[str, int]:
    """What was rendered; a note of another kind is reported when it is compared."""
    counts = {"train": NUM_TRAIN, "val": NUM_VAL}
    try:
        held = read_json(note.read_bytes())
        return {name: int(held[name]) for name in counts}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return counts


def _counts(options: Mapping[str, str]) -> dict[str, int]:
    counts = {}
    for name, text in options.items():
        if name not in ("train", "val"):
            raise UsageError(f"data.{name}: the data set `sample` takes data.train and data.val")
        if not text.isdigit() or int(text) < 1:
            raise UsageError(f"data.{name} is a number of clips from 1, got {text!r}")
        counts[name] = int(text)
    return counts


def _render_missing(root: Path, scripts: list[Script]) -> None:
    missing = [script for script in scripts if not (root / script.video).exists()]
    if not missing:
        return
    log.info("rendering %d sample clips in %s", len(missing), root)
    for split in {script.split for script in missing}:
        (root / split).mkdir(exist_ok=True)
    workers = min(os.cpu_count() or 1, 8, len(missing))
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
            for future in [pool.submit(render_clip, root, script) for script in missing]:
                future.result()
    except BrokenProcessPool:  # no process can be started from a notebook or from standard input
        log.warning("rendering in one process: no other could be started")
        for script in missing:
            if not (root / script.video).exists():
                render_clip(root, script)


def _write_tables(root: Path, scripts: list[Script]) -> None:
    clips = ["video,split,action"]
    labels = ["video,start_seconds,stop_seconds,phase"]
    for script in scripts:
        clips.append(f"{script.video},{script.split},{script.action}")
        phases = np.asarray(script.phases)
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
