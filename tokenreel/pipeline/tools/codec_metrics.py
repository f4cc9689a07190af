"""What a codec does to metrics: frozen frame embeddings of its tokens, evaluated as runs are."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.codec import Codec
from tokenreel.cache.codec.base import Array
from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.cache.progress import Progress
from tokenreel.cache.read.store_reader import ClipRecord, Store
from tokenreel.cache.tools.codec_error import pool_tokens
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig

__all__ = ["TASKS", "measure_metrics"]

TASKS = ("classification", "tau", "ap@5")
STEP_FRAMES = 16  # frames of a clip in memory at once
WIDTH = 128  # of a block's pooled entities in a frame's embedding


def measure_metrics(
    store: Store,
    records: Sequence[ClipRecord],
    codecs: Mapping[str, Codec],
    fitted: Mapping[int, Array],
    *,
    progress: bool,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Probe accuracy, tau and AP@5 of frame embeddings made of each codec's tokens.

    Args:
        store: of the clips.
        records: the clips.
        codecs: name -> calibrated codec.
        fitted: block -> tokens that give the channels' means and deviations.
        progress: show a bar.

    Returns:
        codec -> task -> value, finite; and why what is not there is not.
    """
    labelled = [record for record in records if (store.labels(record.clip_id) >= 0).any()]
    if not labelled:
        return {}, ["no phase labels: no probe accuracy, tau or AP@5"]
    clips: dict[str, list[EmbeddedClip]] = {name: [] for name in codecs}
    for record in Progress(labelled, desc="fidelity", unit="clip", enabled=progress):
        for name, embeddings in embed_clip(store, record, codecs, fitted).items():
            clips[name].append(
                EmbeddedClip(
                    record.clip_id,
                    record.split,
                    record.action,
                    record.group,
                    embeddings,
                    store.labels(record.clip_id),
                    store.times_seconds(record.clip_id),
                    record.phases,
                )
            )
    with tempfile.TemporaryDirectory() as folder:
        files = [
            write_embeddings(Path(folder) / f"{number}.h5", own, provenance={"run": name})
            for number, (name, own) in enumerate(clips.items())
        ]
        report = evaluate_files(
            files, config=EvaluateConfig(), out=Path(folder) / "tables", progress=False
        )
    found: dict[str, dict[str, float]] = {name: {} for name in codecs}
    for score in report.scores:
        wanted = score.action == "mean" and score.task in TASKS and score.fraction == 1.0
        if wanted and np.isfinite(score.value):
            found[score.run][score.task] = score.value
    notes = list(dict.fromkeys(report.problems))
    for task in TASKS:
        absent = [name for name in codecs if task not in found[name]]
        if absent:
            notes.append(f"{task} could not be computed for {', '.join(absent)}")
    if len(labelled) < len(records):
        notes.append(f"{len(records) - len(labelled)} clips without labels are in no metric")
    return found, notes


def embed_clip(
    store: Store, record: ClipRecord, codecs: Mapping[str, Codec], fitted: Mapping[int, Array]
) -> dict[str, NDArray[np.float32]]:
    """The frame embeddings of a clip by each codec, (T, C)."""
    channels = {
        block: (tokens.mean(axis=(0, 1)), tokens.std(axis=(0, 1)) + 1e-6)
        for block, tokens in fitted.items()
    }
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in codecs}
    for tokens in frames_of(store, record):
        for name, codec in codecs.items():
            decoded = {
                block: codec.decode(
                    codec.encode(values, block=block, grid=store.identity.grid), block=block
                )
                for block, values in tokens.items()
            }
            parts[name].append(embed_frames(decoded, channels))
    return {name: np.concatenate(some) for name, some in parts.items()}


def frames_of(store: Store, record: ClipRecord) -> Iterator[dict[int, Array]]:
    """The tokens of a clip, a few frames at a time: block -> float32 (t, N, D)."""
    for start in range(0, record.num_frames, STEP_FRAMES):
        tokens = store.read(record.clip_id, slice(start, start + STEP_FRAMES))
        yield {block: tokens.decode(block) for block in store.identity.blocks}


def embed_frames(
    tokens: Mapping[int, Array], channels: Mapping[int, tuple[Array, Array]]
) -> NDArray[np.float32]:
    """Frozen embeddings of frames: each block's mean token, and its pooled entities projected.

    The mean alone would not see what a codec does to a single token.

    Args:
        tokens: block -> (t, n, D).
        channels: block -> mean and deviation, (D,).
    """
    parts = []
    for block, values in tokens.items():
        mean, deviation = channels[block]
        standard = (values - mean) / deviation
        pooled = pool_tokens(standard, seed=block).reshape(len(values), -1)
        random = np.random.default_rng(block).standard_normal((pooled.shape[1], WIDTH))
        parts += [standard.mean(axis=1), pooled @ random / np.sqrt(pooled.shape[1])]
    return np.concatenate(parts, axis=1).astype(np.float32)
