"""Three small runs of two recipes on two actions, evaluated, with made-up frames."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenreel.cache.embeddings import (
    EmbeddedClip,
    EmbeddingFile,
    read_embeddings,
    write_embeddings,
)
from tokenreel.evaluate.commands.suite import SuiteReport, evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.report.pictures.frames import FramesUnreachable

PHASES = {"jump": ("crouch", "fly", "land"), "wave": ("up", "down")}
CLIPS = [("t0", "train"), ("t1", "train"), ("v0", "val"), ("v1", "val"), ("v2", "val")]


def make_clip(
    clip_id, *, action="jump", split="val", frames=20, noise=0.1, seed=0, bend=1.0, **changes
):
    rng = np.random.default_rng([seed, *clip_id.encode()])
    phases = PHASES.get(action, ())
    share = np.arange(frames) / frames
    labels = (share**bend * max(1, len(phases))).astype(np.int16)
    embeddings = np.eye(4)[labels] + noise * rng.standard_normal((frames, 4))
    embeddings[:, 3] = share + (noise > 1) * rng.standard_normal(frames)
    values = {
        "clip_id": clip_id,
        "split": split,
        "action": action,
        "group": "",
        "embeddings": embeddings.astype(np.float32),
        "labels": labels,
        "times_seconds": np.arange(frames) / 10,
        "phases": phases,
        "frame_index": np.arange(frames),
        "video": f"{clip_id}.mp4",
    }
    return EmbeddedClip(**{**values, **changes})


def make_frames(clip, positions):
    """A source of frames of 32 x 24: brightness is the position, the colour is the clip's."""
    for position in positions:
        image = np.full((24, 32, 3), 40 + 4 * position, np.uint8)
        image[:, :4] = np.frombuffer(clip.clip_id.encode().ljust(3, b" ")[-3:], np.uint8)
        yield image


def unreachable_frames(clip, positions):
    raise FramesUnreachable(f"videos/{clip.video}: no such file")


@dataclass(frozen=True)
class Evaluated:
    """Runs in a folder and their scores."""

    folder: Path
    files: list[EmbeddingFile]
    scores: SuiteReport


def write_runs(folder):
    """Write and evaluate: recipe `good` with seeds 0 and 1, recipe `noisy` with seed 0."""
    paths = []
    for recipe, seed, noise in [("good", 0, 0.1), ("good", 1, 0.2), ("noisy", 0, 3.0)]:
        run = folder / f"{recipe}-seed{seed}"
        clips = [
            make_clip(
                f"{action}/{name}",
                action=action,
                split=split,
                noise=noise,
                seed=seed,
                frames=20 + 2 * place,
                bend=1 + place % 2,
            )
            for action in PHASES
            for place, (name, split) in enumerate(CLIPS)
        ]
        about = {
            "run": run.name,
            "recipe": recipe,
            "seed": seed,
            "dataset": "made",
            "model": "m",
            "weights": "random:0",
            "commit": "abc",
            "config": {"seed": seed, "optim": {"lr": 0.1 if recipe == "good" else 0.2}},
        }
        paths.append(write_embeddings(run / "embeddings.h5", clips, provenance=about))
        lines = [{"epoch": i, "loss": 2.0 / (i + 1 + seed), "lr": 1e-3} for i in range(5)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = evaluate_files(paths, config=EvaluateConfig(), out=folder / "tables", progress=False)
    return Evaluated(folder, [read_embeddings(path) for path in paths], scores)
