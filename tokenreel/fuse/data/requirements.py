"""Requirements of a config on a store, checked before anything is trained."""

import difflib
from collections import Counter
from collections.abc import Sequence

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.store_reader import Store
from tokenreel.fuse.config.run import FuseConfig
from tokenreel.fuse.data.label_share import draw_labelled

WITH_CLS = "vit_small_patch16_224"  # such as


def blocks_of(config: FuseConfig, store: Store) -> tuple[int, ...]:
    """The blocks whose tokens a config uses, those of the store by default.

    A negative one counts from the last of the store: -1 is the last.

    Raises:
        UsageError: the store lacks one, or one is named twice.
    """
    wanted = for_store(config, store).pooling.blocks or store.identity.blocks
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
            f"{list(store.identity.blocks)}: `{_extract(store, blocks=every)}` makes one that "
            "does, or set pooling.blocks where it is trained"
        )
    return tuple(sorted(wanted))


def for_store(config: FuseConfig, store: Store) -> FuseConfig:
    """The config with the blocks of a store by number, where it counts from the last."""
    kept, words = store.identity.blocks, config.pooling.blocks or ()
    if min(words, default=0) >= 0:
        return config
    return _with_blocks(config, [kept[b] if -len(kept) <= b < 0 else b for b in words])


def as_trained(config: FuseConfig, blocks: Sequence[int]) -> FuseConfig:
    """The config with the blocks that a run pooled by number: another store may have more."""
    return _with_blocks(config, blocks) if config.pooling.uses_tokens else config


def _with_blocks(config: FuseConfig, blocks: Sequence[int]) -> FuseConfig:
    return config.with_(pooling=config.pooling.with_(blocks=tuple(blocks)))


def _extract(store: Store, **changes: str) -> str:
    """The command that makes a store as this one is made, but for some words."""
    recipe, made_with = store.identity, store.made_with
    height, width = recipe.image_size
    words = {
        "backbone": recipe.architecture,
        "weights": made_with.get("weights") or "FILE",
        "blocks": ",".join(map(str, recipe.blocks)),
        "image_size": f"{height}" if height == width else f"{height},{width}",
        "transform": recipe.transform.get("name", "NAME"),
        "numeric": recipe.numeric,
        "codec": recipe.codec["name"],
    }
    if "fps" in recipe.frames:
        words["fps"] = f"{recipe.frames['fps']:g}"
    if recipe.num_views > 1:
        words["views"] = f"{recipe.num_views - 1}"
        words["view_seed"] = f"{recipe.views[1].get('seed', 0)}"
    dataset = made_with.get("dataset") or "DATASET"
    root = "" if dataset == "sample" else "--root VIDEOS "  # the sample makes its own
    typed = " ".join(f"{key}={value}" for key, value in (words | changes).items())
    return f"extract run {dataset} {root}{typed} --out STORE"


def is_of(config: FuseConfig, clip: ClipRecord) -> bool:
    """Whether a clip is of the action of a config."""
    return config.data.action in (None, clip.action)


def training_clips(config: FuseConfig, store: Store) -> list[ClipRecord]:
    """The clips that a config is trained on, before any is held out."""
    share = config.data.label_share
    return _clips_of(config, store) if share == 1 else labelled_clips(config, store, share)


def _clips_of(config: FuseConfig, store: Store) -> list[ClipRecord]:
    return store.select(split="train", action=config.data.action)


def labelled_clips(config: FuseConfig, store: Store, share: float) -> list[ClipRecord]:
    """A share of the labelled training clips, in the order that the seed of a config draws them."""
    clips = _clips_of(config, store)
    labels = [store.labels(clip.clip_id) for clip in clips]
    chosen = draw_labelled([c.action for c in clips], labels, share=share, seed=config.seed)
    return [clips[place] for place in chosen]


def class_offsets(store: Store) -> tuple[dict[str, int], int]:
    """How phases are numbered as classes of a supervised loss.

    Phases that all actions share are classes as they are; otherwise each action has its own.

    Returns:
        The first class of each action, and the number of classes.
    """
    phases = {record.action: record.phases for record in store.records.values()}
    if len(set(phases.values())) == 1:
        return dict.fromkeys(phases, 0), len(next(iter(phases.values())))
    offsets, count = {}, 0
    for action in sorted(phases):
        offsets[action] = count
        count += len(phases[action])
    return offsets, count


def require_store(config: FuseConfig, store: Store) -> None:
    """Refuse, before anything is trained, a store without what a config needs.

    Raises:
        UsageError: what is missing, and the command that would make it.
    """
    require_tokens(config, store)
    if config.optim.epochs and not _clips_of(config, store):
        of_action = f" of the action {config.data.action}" if config.data.action else ""
        raise UsageError(
            f"{store.path} has no clips of the split train{of_action}: nothing to train on (its "
            f"splits: {dict(Counter(record.split for record in store.records.values()))}); "
            f"`{_extract(store)}` with training clips makes one that has them"
        )
    _require_length(config, store)
    _require_labels(config, store)
    wanted, augmented = config.data.views, store.identity.num_views - 1
    if augmented < {"clean": 0, "all": 1, "augmented": 2}[wanted]:
        has = f"has {augmented} besides the clean one" if augmented else "has the clean one"
        raise UsageError(
            f"data.views={wanted} wants {'two ' if wanted == 'augmented' else ''}augmented views, "
            f"{store.path} {has}: `{_extract(store, views='2')}` makes one that has more"
        )


def require_tokens(config: FuseConfig, store: Store) -> None:
    """Refuse a store without the clips, tokens or CLS vectors that a model of a config reads.

    Raises:
        UsageError: what is missing, and the command that would make it.
    """
    if not store.records:
        raise UsageError(f"{store.path} has no clips: `{_extract(store)}` makes some")
    _require_action(config, store)
    if config.pooling.uses_tokens:
        blocks_of(config, store)
    if config.pooling.uses_cls and store.identity.cls == "none":
        raise UsageError(
            f"{store.path} holds no CLS tokens, {store.identity.architecture} has none: "
            f"`{_extract(store, backbone=WITH_CLS)}`, with weights of it, makes one that does, or "
            "set pooling.kind"
        )


def _require_action(config: FuseConfig, store: Store) -> None:
    actions = sorted({record.action for record in store.records.values() if record.action})
    wanted = config.data.action
    if wanted is None or wanted in actions:
        return
    close = difflib.get_close_matches(wanted, actions, n=1, cutoff=0.5)
    near = f", did you mean {close[0]}?" if close else ""
    raise UsageError(
        f"{store.path} has no clip of the action data.action={wanted}{near} (it has: "
        f"{', '.join(actions) or 'none'}): `{_extract(store)}` of clips of it makes "
        "one that has them, or set data.action (null: of all)"
    )


def _require_length(config: FuseConfig, store: Store) -> None:
    loss = config.loss
    longest = max((clip.num_frames for clip in _clips_of(config, store)), default=loss.min_frames)
    if longest < loss.min_frames:
        raise UsageError(
            f"loss.name={loss.name} learns from {loss.min_frames} frames of a clip or more, the "
            f"longest training clip of {store.path} has {longest}: `{_extract(store)}` "
            "of longer clips makes one that has them, or take another loss"
        )


def _require_labels(config: FuseConfig, store: Store) -> None:
    loss, clips = config.loss, _clips_of(config, store)
    if loss.uses_labels:
        count = class_offsets(store)[1]
        has_labels = any((store.labels(record.clip_id) >= 0).any() for record in clips)
        if count < 2 or not has_labels:
            what = f"has {count}" if count < 2 else "has no labelled frame in the split train"
            raise UsageError(
                f"loss.name={loss.name} learns phases, {store.path} {what}: `{_extract(store)}` "
                "of clips with labels makes one that has them (`tokenreel data check` "
                "says what it finds), or take another loss"
            )
        _require_every_phase(config, store, clips)
    actions = Counter(record.action for record in clips if record.action)
    if loss.pairs_by_action and max(actions.values(), default=0) < 2:
        raise UsageError(
            f"loss.name={loss.name} aligns two clips of one action, the training clips of "
            f"{store.path} are of {dict(actions) or 'no known action'}: `{_extract(store)}` "
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
