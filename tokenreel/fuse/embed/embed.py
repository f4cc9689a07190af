"""Embed every clip of a store with a model; write the file that phase 3 reads.

Models of one system that read the same store are given each clip together.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import nn

from tokenreel.cache.embeddings import EmbeddedClip, tag_targets, write_embeddings
from tokenreel.cache.errors import Damaged, MachineError, UsageError
from tokenreel.cache.files import make_directory
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.progress import Progress
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.system import SystemConfig
from tokenreel.fuse.data.label_share import in_order_of_draw
from tokenreel.fuse.data.requirements import is_of
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.runs.checkpoint import load_checkpoint, restore_weights
from tokenreel.fuse.runs.provenance import (
    describe_stores,
    read_config,
    read_provenance,
    require_same_tokens,
)
from tokenreel.fuse.systems.base import Embedded, Shapes, make_source, shapes_of, system_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Embedder:
    """A model and where its embeddings go.

    Attributes:
        model: in evaluation mode afterwards.
        config: of the run.
        out: the embedding file.
        provenance: what made the embeddings.
    """

    model: nn.Module
    config: SystemConfig
    out: Path
    provenance: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Tags that it tells apart, in the order of its scores; None where it learned none."""
        names = self.provenance.get("class_names")
        return None if names is None else tuple(names)


def describe_clip(source: TokenSource, record: ClipRecord) -> EmbeddedClip:
    """What the embedding file says of a clip besides its embeddings."""
    store = source.store
    return EmbeddedClip(
        clip_id=record.clip_id,
        split=record.split,
        action=record.action,
        group=record.group,
        embeddings=np.empty((record.num_frames, 0), np.float32),
        labels=store.labels(record.clip_id),
        times_seconds=store.times_seconds(record.clip_id),
        phases=record.phases,
        frame_index=store.frame_index(record.clip_id),
        video=record.video,
    )


def with_values(clip: EmbeddedClip, made: Embedded) -> EmbeddedClip:
    """A clip with its embeddings; one of the whole clip has its label where it has only one."""
    if not made.of_clip:
        return replace(clip, embeddings=made.values)
    labels = np.unique(clip.labels)
    return replace(
        clip,
        embeddings=made.values,
        labels=labels if len(labels) == 1 else np.array([-1], np.int16),
        times_seconds=clip.times_seconds[:1],
        frame_index=clip.frame_index[:1],
    )


def _embed_clip(
    source: TokenSource, embedders: Sequence[Embedder], record: ClipRecord
) -> list[Embedded]:
    """The embedding of a clip by each model; those of one system share what they read."""
    made: dict[int, Embedded] = {}
    names = [embedder.config.system for embedder in embedders]
    for name in dict.fromkeys(names):
        own = [place for place, other in enumerate(names) if other == name]
        models = [(embedders[place].model, embedders[place].config) for place in own]
        system = system_of(embedders[own[0]].config)
        made |= zip(own, system.embed_each(models, source, record), strict=True)
    return [made[place] for place in range(len(embedders))]


def load_run(run: Path, source_of: Callable[[SystemConfig], TokenSource]) -> Embedder:
    """The model of a trained run, for a store that may be another than it was trained on.

    Args:
        run: its folder.
        source_of: makes the source of a config, for the sizes of the model.

    Raises:
        UsageError: a run without a checkpoint.
        Damaged: a folder without a readable run.json or checkpoint.
        WrongIdentity: tokens of another width than those it was trained on.
    """
    found: list[TokenSource] = []

    def sizes_of(config: SystemConfig) -> Shapes:
        found.append(source_of(config))
        return shapes_of(found[0])

    embedder = load_model(run, sizes_of)
    return replace(embedder, model=embedder.model.to(found[0].device))


def load_model(run: Path, sizes_of: Callable[[SystemConfig], Shapes]) -> Embedder:
    """The model of a trained run, on the CPU, for tokens of given sizes.

    Args:
        run: its folder.
        sizes_of: gives the sizes of what a config reads; a checkpoint knows its classes itself.

    Raises:
        As load_run.
    """
    provenance = read_provenance(run)
    config = read_config(run, provenance).as_trained(provenance)
    shapes = sizes_of(config)
    path = run / "checkpoint.pt"
    state = load_checkpoint(path) if path.exists() else None
    system = system_of(config)
    trained = system.classes_in(state["model"]) if state else None
    if trained is not None:
        shapes = replace(shapes, num_classes=trained)
    if config.uses_tags or config.uses_actions:
        shapes = replace(shapes, class_names=tuple(provenance["class_names"]))
    model = system.build(config, shapes)
    epochs = sum(stage.config.optim.epochs for stage in system.stages(config))
    if state is not None:
        restore_weights(path, model, config, state)
        epoch, step = state["position"]
        if epoch < epochs:
            where = f"at epoch {epoch}, step {step} of {epochs} epochs"
            log.warning("%s is %s: embedding with these weights", run, where)
            provenance = provenance | {"unfinished": where}
    elif epochs:
        raise UsageError(f"{run} has no checkpoint.pt yet: train it first")
    else:
        system.begin(model, config)
    return Embedder(model, config, run / "embeddings.h5", provenance)


def embed_run(
    run: Path,
    store: Path | Mapping[str, Path],
    out: Path,
    *,
    device: torch.device,
    progress: bool = True,
) -> list[str]:
    """Embed a store with a run that was trained on it, or on another of the same backbone.

    A damaged clip is left out; the file says so too, as `left_out`, and evaluation repeats it.

    Args:
        run: folder of the run.
        store: what to embed; several by name where the run reads several.
        out: the embedding file.
        device: where to compute.
        progress: show a bar.

    Returns:
        A sentence for each clip that was left out.

    Raises:
        UsageError: a path where no embedding file can be.
        WrongIdentity: a store of another backbone, weights or blocks.
        Damaged: a store without a sound clip.
    """
    stores = StoreSet(store if isinstance(store, Mapping) else {"tokens": store})
    embedder, source = _load_for(run, stores, device)
    _require_writable(out)
    left_out: dict[str, list[str]] = {}
    embed_together(source, [replace(embedder, out=out)], progress=progress, left_out=left_out)
    return [reason for reasons in left_out.values() for reason in reasons]


def _load_for(
    run: Path, stores: StoreSet, device: torch.device, *, of_new_clips: bool = False
) -> tuple[Embedder, TokenSource]:
    """The model of a run for some stores, with what made its embeddings, and what it reads."""
    there = describe_stores(stores)
    known = require_same_tokens(run, there, of_new_clips=of_new_clips)
    trained_on = known["store_fingerprint"]
    found: list[TokenSource] = []

    def source_of(config: SystemConfig) -> TokenSource:
        found.append(make_source(stores, [config], device, placement="disk"))
        return found[0]

    embedder = load_run(run, source_of)
    made = {"run": run.name, **embedder.provenance, **there, "trained_on": trained_on}
    return replace(embedder, provenance=made), found[0]


class ClipEmbedder:
    """A trained run that embeds clips of stores which other threads still add clips to.

    Args:
        run: its folder; its model is loaded for the first clip.
        stores: of the backbone and weights that it was trained on, by name.
        device: where to compute.

    Attributes:
        stores: their records are those of the clip that was embedded last.
    """

    def __init__(self, run: Path, stores: Mapping[str, Store], *, device: torch.device) -> None:
        self.stores = stores
        self._run, self._device = run, device

    def open(self, clip_id: str) -> StoreSet:
        """The stores as those of a clip alone.

        Raises:
            ClipNotFound: a store does not have the clip.
            UsageError: its units differ from store to store.
            Damaged: its record cannot be read.
        """
        for store in self.stores.values():
            store.records = {clip_id: store.newest_record(clip_id)}
        return StoreSet(self.stores)

    def load(self) -> None:
        """Load the model, once a clip was opened.

        Raises:
            UsageError, WrongIdentity: as embed_run.
            Damaged: a run whose files cannot be read.
        """
        _ = self._loaded

    def embed(self, clip_id: str) -> tuple[EmbeddedClip, dict[str, Any]]:
        """A clip with its embedding, and what made it; the store is one of this clip alone.

        Raises:
            As open and load.
            Damaged: a file of the clip that cannot be read.
        """
        stores = self.open(clip_id)
        embedder, source = self._loaded
        record = stores.first.record(clip_id)
        clip = describe_clip(source, record)
        with torch.inference_mode():
            [made] = _embed_clip(source, [embedder], record)
        return with_values(clip, made), embedder.provenance | describe_stores(stores)

    @cached_property
    def _loaded(self) -> tuple[Embedder, TokenSource]:
        loaded = _load_for(self._run, StoreSet(self.stores), self._device, of_new_clips=True)
        loaded[0].model.eval()
        return loaded


def features_path(out: Path) -> Path:
    """The file of the features of clips beside an embedding file.

    >>> features_path(Path("run/embeddings.h5")).as_posix()
    'run/features.h5'
    """
    return out.with_name(f"features{out.stem.removeprefix('embeddings')}.h5")


def _learned_of(config: SystemConfig, record: ClipRecord) -> tuple[str, ...]:
    """The tags of a clip; its action, where that is what a run learns."""
    if config.uses_actions:
        return (record.action,) if record.action else ()
    return record.tags


def _alike(targets: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers to compare with, where all clips have them or none has.

    Raises:
        UsageError: some have; the first that has none.
    """
    without = [clip_id for clip_id, numbers in targets.items() if not len(numbers)]
    if without and len(without) < len(targets):
        raise UsageError(
            f"{len(without)} of {len(targets)} clips have no number as their tag, the first is "
            f"{without[0]!r}: tag all of them, or none"
        )
    return targets


def _warn_of_unknown_tags(embedder: Embedder, tags: Mapping[str, Sequence[str]]) -> None:
    """Say which tags of the clips a model does not know: they are in no column of its file."""
    known = embedder.class_names
    if known is None:
        return
    unknown = Counter(tag for own in tags.values() for tag in own if tag not in known)
    if unknown:
        log.warning(
            "%s: tags that it did not learn are left out: %s",
            embedder.out,
            ", ".join(f"{tag} (of {count} clips)" for tag, count in sorted(unknown.items())),
        )


def _require_writable(out: Path) -> None:
    """Refuse a path that is no embedding file's, before any work: what is there is not replaced."""
    make_directory(out.parent)
    if out.exists() and not (out.is_file() and h5py.is_hdf5(out)):
        raise UsageError(f"{out} is there and is no embedding file: use another --out")
    if not os.access(out.parent, os.W_OK):
        raise MachineError(f"{out.parent} cannot be written in: use another --out")


def embed_together(
    source: TokenSource,
    embedders: Sequence[Embedder],
    *,
    progress: bool,
    left_out: dict[str, list[str]] | None = None,
) -> None:
    """Write the embeddings of every clip of every split, of several models in one pass.

    A model of one action embeds the clips of that action alone.

    Args:
        source: the store.
        embedders: the models.
        progress: show a bar.
        left_out: takes a sentence for each damaged clip by its action, and so do the files; None
            ends at the first one.

    Raises:
        Damaged: a damaged clip that must not be left out, or not one that is sound.
    """
    for embedder in embedders:
        embedder.model.eval()
    found: list[list[EmbeddedClip]] = [[] for _ in embedders]
    units = ["frame"] * len(embedders)
    compared: list[dict[str, np.ndarray]] = [{} for _ in embedders]
    features: list[list[EmbeddedClip]] = [[] for _ in embedders]
    every = source.store.records.values()
    records = [
        clip for clip in every if any(is_of(embedder.config, clip) for embedder in embedders)
    ]
    for record in Progress(records, desc="embed", unit="clip", enabled=progress):
        own = [i for i, embedder in enumerate(embedders) if is_of(embedder.config, record)]
        try:
            clip = describe_clip(source, record)
            with torch.inference_mode():
                made = _embed_clip(source, [embedders[number] for number in own], record)
        except Damaged as error:
            if left_out is None:
                raise
            log.error("%s is left out: %s", record.clip_id, error)
            left_out.setdefault(record.action, []).append(f"{record.clip_id}: {error}")
            continue
        for number, embedding in zip(own, made, strict=True):
            found[number].append(with_values(clip, embedding))
            if embedding.features is not None:
                own_features = Embedded(embedding.features, of_clip=True)
                features[number].append(with_values(clip, own_features))
            if embedding.targets is not None:
                compared[number][record.clip_id] = embedding.targets
            units[number] = "clip" if embedding.of_clip else source.store.identity.unit
    for embedder, seen in zip(embedders, features, strict=True):
        if seen:
            path = features_path(embedder.out)
            write_embeddings(path, seen, provenance=embedder.provenance, unit="clip")
    for embedder, clips, unit, given in zip(embedders, found, units, compared, strict=True):
        if not clips:
            raise Damaged(f"{source.store.path}: every clip is damaged; run verify, then repair")
        ordered = in_order_of_draw(clips, embedder.config)
        missing = {"left_out": left_out} if left_out else {}
        tags = {record.clip_id: _learned_of(embedder.config, record) for record in records}
        class_names, targets = tag_targets(tags, embedder.class_names)
        if given:
            class_names, targets = (), _alike(given)
        else:
            _warn_of_unknown_tags(embedder, tags)
        write_embeddings(
            embedder.out,
            [replace(clip, targets=targets[clip.clip_id]) for clip in ordered],
            provenance={**embedder.provenance, **missing},
            unit=unit,
            class_names=class_names,
        )
