"""Requirements of MV-Former on its store, checked before anything is trained."""

from collections import Counter
from collections.abc import Sequence

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.mvformer import FuseConfig
from tokenreel.fuse.data.requirements import (
    class_offsets,
    clips_of,
    extract_command,
    require_clips,
    require_training_clips,
    require_views,
    training_clips,
)

WITH_CLS = "vit_small_patch16_224"  # such as


def pooled_dim(config: FuseConfig, store: Store) -> int:
    """Channels of what a config pools: the tokens of all its blocks, end to end, or CLS."""
    count = len(blocks_of(config, store)) if config.pooling.uses_tokens else 1
    return store.identity.dim * count


def blocks_of(config: FuseConfig, store: Store) -> tuple[int, ...]:
    """The blocks whose tokens a config uses, those of the store by default.

    A negative one counts from the last of the store: -1 is the last.

    Raises:
        UsageError: the store lacks one, or one is named twice.
    """
    wanted = config.for_stores(StoreSet({"tokens": store})).pooling.blocks or store.identity.blocks
    if len(set(wanted)) < len(wanted):
        raise UsageError(f"pooling.blocks names a block twice: {config.pooling.blocks}")
    if min(wanted) < 0:
        raise UsageError(
            f"pooling.blocks counts {min(wanted)} from the last, {store.path} holds "
            f"{list(store.identity.blocks)}: set pooling.blocks to some of them"
        )
    missing = set(wanted) - set(store.identity.blocks)
    if missing:
        every = ",".join(map(str, sorted(set(wanted) | set(store.identity.blocks))))
        raise UsageError(
            f"pooling.blocks wants {sorted(wanted)}, {store.path} holds "
            f"{list(store.identity.blocks)}: `{extract_command(store, blocks=every)}` "
            "makes one that does, or set pooling.blocks where it is trained"
        )
    return tuple(sorted(wanted))


def require_store(config: FuseConfig, store: Store) -> None:
    """Refuse, before anything is trained, a store without what a config needs.

    Raises:
        UsageError: what is missing, and the command that would make it.
    """
    require_tokens(config, store)
    require_training_clips(config, store)
    _require_length(config, store)
    _require_labels(config, store)
    require_views(config, store)


def require_tokens(config: FuseConfig, store: Store) -> None:
    """Refuse a store without the clips, tokens or CLS vectors that a model of a config reads.

    Raises:
        UsageError: what is missing, and the command that would make it.
    """
    require_clips(config, store)
    if config.pooling.uses_tokens:
        store.require_tokens()
        blocks_of(config, store)
    if config.pooling.uses_cls and store.identity.cls == "none":
        raise UsageError(
            f"{store.path} holds no CLS tokens, {store.identity.architecture} has none: "
            f"`{extract_command(store, backbone=WITH_CLS)}`, with weights of it, makes one "
            "that does, or set pooling.kind"
        )


def _require_length(config: FuseConfig, store: Store) -> None:
    loss = config.loss
    longest = max((clip.num_frames for clip in clips_of(config, store)), default=loss.min_frames)
    if longest < loss.min_frames:
        raise UsageError(
            f"loss.name={loss.name} learns from {loss.min_frames} frames of a clip or more, the "
            f"longest training clip of {store.path} has {longest}: `{extract_command(store)}` "
            "of longer clips makes one that has them, or take another loss"
        )


def _require_labels(config: FuseConfig, store: Store) -> None:
    loss, clips = config.loss, clips_of(config, store)
    if loss.uses_labels:
        count = class_offsets(store)[1]
        has_labels = any((store.labels(record.clip_id) >= 0).any() for record in clips)
        if count < 2 or not has_labels:
            what = f"has {count}" if count < 2 else "has no labelled frame in the split train"
            raise UsageError(
                f"loss.name={loss.name} learns phases, {store.path} {what}: "
                f"`{extract_command(store)}` of clips with labels makes one that has them "
                "(`tokenreel data check` says what it finds), or take another loss"
            )
        _require_every_phase(config, store, clips)
    actions = Counter(record.action for record in clips if record.action)
    if loss.pairs_by_action and max(actions.values(), default=0) < 2:
        raise UsageError(
            f"loss.name={loss.name} aligns two clips of one action, the training clips of "
            f"{store.path} are of {dict(actions) or 'no known action'}: `{extract_command(store)}` "
            "of clips with actions makes one that has them, or set loss.pairs=windows"
        )


def _require_every_phase(config: FuseConfig, store: Store, clips: Sequence[ClipRecord]) -> None:
    """Refuse a share of the labels that lacks a phase which all of them have."""

    def phases(some: Sequence[ClipRecord]) -> set[tuple[str, int]]:
        found = [(clip.action, store.labels(clip.clip_id).tolist()) for clip in some]
        return {(action, phase) for action, own in found for phase in own if phase >= 0}

    drawn = training_clips(config, store)
    missing = sorted(phases(clips) - phases(drawn)) if len(drawn) < len(clips) else []
    if missing:
        names = {(c.action, place): name for c in clips for place, name in enumerate(c.phases)}
        lost = ", ".join(f"{names[key]} of {key[0]}" if key[0] else names[key] for key in missing)
        raise UsageError(
            f"data.label_share={config.data.label_share:g} leaves {len(drawn)} clips of "
            f"{store.path}, too few to have each of its phases (without: {lost}): set a larger one"
        )
