"""Frozen baseline: tokens of a store pooled without any learned part.

A frame becomes the maximum or the mean of its patch tokens after a block (before the final norm),
or its CLS token after the final norm.  Channels are standardised by the training clips and frames
scaled to unit length, as the embeddings of a model are; no label is used.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.embeddings import EmbeddedClip, read_embeddings, tag_targets, write_embeddings
from tokenreel.cache.errors import Damaged, EmbeddingFileError, StoreError, UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.progress import Progress
from tokenreel.cache.provenance import describe_fingerprints, names_same_store
from tokenreel.cache.read.store_reader import Store, open_store

log = logging.getLogger(__name__)

POOLS = ("max", "mean", "cls")
FRAMES_AT_ONCE = 64  # decoded at once, which bounds the memory

Floats = NDArray[np.float32]


def pool_store(
    path: Path,
    out: Path,
    *,
    blocks: Sequence[int] | None = None,
    pools: Sequence[str] = POOLS,
    provenance: Mapping[str, Mapping[str, Any]] | None = None,
    progress: bool = True,
) -> list[Path]:
    """Write an embedding file for each way of pooling: OUT/frozen-max/embeddings.h5 and so on.

    Existing files of the same clips and blocks are reused.

    Args:
        path: the token store.
        out: folder of the files.
        blocks: whose tokens are pooled, their channels side by side; all of the store when None,
            which is what a model may read.
        pools: which of them; a store without CLS vectors has no "cls".
        provenance: what the file of each pool says besides, such as `evaluate`, settings of the
            evaluation.
        progress: show a bar.

    A damaged clip is left out, and the file says so: its evaluation lists it.

    Raises:
        UsageError: a block that the store does not hold.
        StoreError: the store cannot be read, or has no sound clip.
    """
    store = open_store(path)
    store.require_tokens()
    chosen = tuple(blocks or store.identity.blocks)
    if missing := sorted(set(chosen) - set(store.identity.blocks)):
        raise UsageError(f"{path} holds blocks {store.identity.blocks}, not {missing}")
    pools = [pool for pool in pools if pool != "cls" or store.identity.cls != "none"]
    files = {pool: out / f"frozen-{pool}" / "embeddings.h5" for pool in pools}
    further = provenance or {}
    abouts = {p: {**_provenance(store, p, chosen), **further.get(p, {})} for p in pools}
    todo = [pool for pool in pools if not _is_current(files[pool], abouts[pool])]
    found: dict[str, list[EmbeddedClip]] = {pool: [] for pool in todo}
    records = list(store.records.values()) if todo else []
    class_names, targets = tag_targets({record.clip_id: record.tags for record in records})
    left_out: dict[str, list[str]] = {}
    for record in Progress(records, desc="pool", unit="clip", enabled=progress):
        try:
            frames = _pool_clip(store, record, chosen, todo)
            clips = {pool: _clip(store, record, frames[pool]) for pool in todo}
        except Damaged as error:
            log.error("%s is left out: %s", record.clip_id, error)
            left_out.setdefault(record.action, []).append(f"{record.clip_id}: {error}")
            continue
        for pool, clip in clips.items():
            found[pool].append(replace(clip, targets=targets[record.clip_id]))
    if todo and not any(found.values()):
        why = "every clip is damaged; run verify, then repair" if records else "it holds no clips"
        raise StoreError(f"{path}: {why}")
    told: dict[str, Any] = {"left_out": left_out} if left_out else {}
    for pool in todo:
        write_embeddings(
            files[pool],
            standardise(found.pop(pool)),
            provenance={**abouts[pool], **told},
            unit=store.identity.unit,
            class_names=class_names,
        )
    return list(files.values())


def standardise(clips: Sequence[EmbeddedClip]) -> list[EmbeddedClip]:
    """Channels with mean 0 and standard deviation 1, then frames of unit length.

    Mean and standard deviation are those of the training clips, or of all where there are none.
    Frozen channels differ in scale by orders of magnitude, and a classifier would see only the
    largest.
    """
    chosen = [clip for clip in clips if clip.split == "train"] or clips
    together = np.concatenate([clip.embeddings for clip in chosen]).astype(np.float64)
    mean, sd = together.mean(0), together.std(0)
    sd[sd == 0] = 1.0
    out = []
    for clip in clips:
        standard = (clip.embeddings - mean) / sd
        length = np.linalg.norm(standard, axis=1, keepdims=True)
        unit = standard / np.where(length == 0, 1.0, length)
        out.append(replace(clip, embeddings=unit.astype(np.float32)))
    return out


def _pool_clip(
    store: Store, record: ClipRecord, blocks: Sequence[int], pools: Sequence[str]
) -> dict[str, Floats]:
    """The frames of a clip, (T, C), by each way of pooling."""
    found: dict[str, Floats] = {}
    if "cls" in pools:
        found["cls"] = store.read_cls(record.clip_id, block="normed").astype(np.float32)
    if {"max", "mean"} & set(pools):
        parts = list(_pool_tokens(store, record, blocks))
        for place, pool in enumerate(("max", "mean")):
            found[pool] = np.concatenate([part[place] for part in parts])
    return found


def _pool_tokens(
    store: Store, record: ClipRecord, blocks: Sequence[int]
) -> Iterator[tuple[Floats, Floats]]:
    """Maximum and mean over the tokens of a few frames at a time, (t, C) each."""
    for start in range(0, record.num_frames, FRAMES_AT_ONCE):
        frames = slice(start, start + FRAMES_AT_ONCE)
        coded = store.read(record.clip_id, frames, blocks=list(blocks))
        decoded = [coded.decode(block) for block in blocks]
        yield (
            np.concatenate([tokens.max(axis=1) for tokens in decoded], axis=1),
            np.concatenate([tokens.mean(axis=1) for tokens in decoded], axis=1),
        )


def _clip(store: Store, record: ClipRecord, embeddings: Floats) -> EmbeddedClip:
    return EmbeddedClip(
        clip_id=record.clip_id,
        split=record.split,
        action=record.action,
        group=record.group,
        embeddings=embeddings,
        labels=store.labels(record.clip_id),
        times_seconds=store.times_seconds(record.clip_id),
        phases=record.phases,
        frame_index=store.frame_index(record.clip_id),
        video=record.video,
    )


def _provenance(store: Store, pool: str, blocks: Sequence[int]) -> dict[str, Any]:
    clips = [
        [record.clip_id, record.split, record.action, record.num_frames, record.source["sha256"]]
        + ([list(record.tags)] if record.tags else [])
        for record in store.records.values()
    ]
    is_whole = pool == "cls" or set(blocks) == set(store.identity.blocks)
    return {
        "run": f"frozen-{pool}",
        "recipe": f"frozen-{pool}" + ("" if is_whole else f" block={','.join(map(str, blocks))}"),
        "model": "frozen",
        "augmentation": "none",
        "blocks": list(blocks),
        **describe_fingerprints(store.fingerprint, store.facts.former_fingerprints),
        "store_clips_sha256": hashlib.sha256(canonical_json(clips)).hexdigest(),
        "store_labels_sha256": store.labels_sha256,
        "store_name": store.path.name,
        "dataset": store.made_with.get("dataset", ""),
        "weights": store.made_with.get("weights", ""),
        "backbone": store.identity.architecture,
    }


def _is_current(path: Path, provenance: dict[str, Any]) -> bool:
    try:
        held = read_embeddings(path).provenance
    except EmbeddingFileError:
        return False
    names = ("store_fingerprint", "former_fingerprints", "store_name")
    fields = [{k: v for k, v in of.items() if k not in names} for of in (held, provenance)]
    return held == provenance or (fields[0] == fields[1] and names_same_store(held, provenance))
