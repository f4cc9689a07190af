"""The clips that a run trains on, and what every system requires of a store."""

import logging
import zlib
from collections import Counter

import numpy as np

from tokenreel.cache.codec import kept_grid
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.plugins import nearest
from tokenreel.cache.read.pictures import ARCHITECTURE
from tokenreel.cache.read.store_reader import Store
from tokenreel.fuse.config.system import SystemConfig
from tokenreel.fuse.data.label_share import draw_labelled

log = logging.getLogger(__name__)

SHOWN = 12  # tags that a warning lists
TRAIN_CLIPS = 2  # the stream of random numbers that data.num_train_clips are drawn from


def extract_command(store: Store, **changes: str) -> str:
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
    if recipe.architecture.startswith(ARCHITECTURE):
        words = {
            "pixels": recipe.architecture.removeprefix(ARCHITECTURE),
            "image_size": words["image_size"],
            "transform": words["transform"],
            "jpeg_quality": f"{recipe.transform.get('jpeg', {}).get('quality', 95)}",
        }
    if "fps" in recipe.frames:
        words["fps"] = f"{recipe.frames['fps']:g}"
    elif "count" in recipe.frames:
        words["frames"] = f"uniform:{recipe.frames['count']}"
    elif recipe.frames["policy"] in ("listed", "scenes"):
        words["frames"] = made_with.get("frames") or f"{recipe.frames['policy']}:FILE"
    if recipe.num_augmented:
        words["views"] = f"{recipe.num_augmented}"
        words["view_seed"] = f"{recipe.views[-1].get('seed', 0)}"
    elif recipe.num_crops > 1 and "views" not in changes:
        words["crops"] = f"{recipe.num_crops}"
    dataset = made_with.get("dataset") or "DATASET"
    is_rendered = dataset.startswith("sample-")  # the sample makes its own videos
    root = "" if is_rendered else "--root VIDEOS "
    typed = " ".join(f"{key}={value}" for key, value in (words | changes).items())
    return f"extract run {dataset} {root}{typed} --out STORE"


def is_of(config: SystemConfig, clip: ClipRecord) -> bool:
    """Whether a clip is of the action of a config."""
    return config.data.action in (None, clip.action)


def training_clips(config: SystemConfig, store: Store) -> list[ClipRecord]:
    """The clips that a config is trained on, before any is held out."""
    share, count = config.data.label_share, config.data.num_train_clips
    clips = clips_of(config, store) if share == 1 else labelled_clips(config, store, share)
    if config.uses_tags:
        clips = [clip for clip in clips if clip.tags]
    if config.uses_actions:
        clips = [clip for clip in clips if clip.action]
    if config.data.clips_per_action is not None:
        return _draw_of_each_action(clips, config.data.clips_per_action, config.data.seed)
    if count is None:
        return clips
    drawn = np.random.default_rng([config.data.seed, TRAIN_CLIPS]).permutation(len(clips))[:count]
    return [clips[place] for place in sorted(drawn)]


def _draw_of_each_action(clips: list[ClipRecord], count: int, seed: int) -> list[ClipRecord]:
    """As many clips of each action, drawn by a seed, in the order of the clips; all where fewer."""
    actions = np.array([clip.action for clip in clips])
    chosen: list[int] = []
    for action in np.unique(actions):
        own = np.flatnonzero(actions == action)
        rng = np.random.default_rng([seed, TRAIN_CLIPS, zlib.crc32(str(action).encode())])
        chosen += own[rng.permutation(len(own))[:count]].tolist()
    return [clips[place] for place in sorted(chosen)]


def actions_of(store: Store) -> tuple[str, ...]:
    """The actions of the training clips of a store, sorted; of all its clips without any."""
    records = store.records.values()
    learned = {record.action for record in records if record.split == "train"} - {""}
    return tuple(sorted(learned or {record.action for record in records} - {""}))


def clips_of(config: SystemConfig, store: Store) -> list[ClipRecord]:
    """The clips of the split train of the action of a config."""
    return store.select(split="train", action=config.data.action)


def labelled_clips(config: SystemConfig, store: Store, share: float) -> list[ClipRecord]:
    """A share of the labelled training clips, in the order that the seed of a config draws them."""
    clips = clips_of(config, store)
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


def grid_of(store: Store) -> tuple[int, int]:
    """Rows and columns of the tokens of a unit, as the codec keeps them."""
    return grid_of_identity(store.identity)


def grid_of_identity(identity: StoreIdentity) -> tuple[int, int]:
    """Those of a store of an identity."""
    return kept_grid(
        str(identity.codec["name"]),
        num_tokens=identity.num_tokens,
        dim=identity.dim,
        grid=identity.grid,
    )


def require_clips(config: SystemConfig, store: Store) -> None:
    """Refuse a store without a clip, or without one of the action of a config.

    Raises:
        UsageError: what is missing, and the command that would make it.
    """
    if not store.records:
        raise UsageError(f"{store.path} has no clips: `{extract_command(store)}` makes some")
    actions = sorted({record.action for record in store.records.values() if record.action})
    wanted = config.data.action
    if wanted is None or wanted in actions:
        return
    raise UsageError(
        f"{store.path} has no clip of the action data.action={wanted}"
        f"{nearest(wanted, actions)} (it has: "
        f"{', '.join(actions) or 'none'}): `{extract_command(store)}` of clips of it makes "
        "one that has them, or set data.action (null: of all)"
    )


def require_training_clips(config: SystemConfig, store: Store) -> None:
    """Refuse a store without a clip to train on, where a config trains.

    Raises:
        UsageError: its splits, and the command that would make some.
    """
    if config.is_trained and not clips_of(config, store):
        of_action = f" of the action {config.data.action}" if config.data.action else ""
        raise UsageError(
            f"{store.path} has no clips of the split train{of_action}: nothing to train on (its "
            f"splits: {dict(Counter(record.split for record in store.records.values()))}); "
            f"`{extract_command(store)}` with training clips makes one that has them"
        )
    wanted, found = config.data.num_train_clips, len(training_clips(config, store))
    if wanted is not None and found < wanted:
        tagged = " with tags" if config.uses_tags else ""
        raise UsageError(
            f"data.num_train_clips={wanted}: {store.path} has {found} training clips{tagged}: set "
            "a smaller number, or null for all"
        )


def require_tags(config: SystemConfig, store: Store, *, are_numbers: bool = False) -> None:
    """Refuse a store whose training clips have no tags; say what else is missing of them.

    Args:
        config: of the run.
        store: with the tags.
        are_numbers: whether the tags are numbers to predict: any may be new, and none may lack.

    Raises:
        UsageError: no training clip has a tag, and what to do.
    """
    every = {tag for record in store.records.values() for tag in record.tags}
    clips = clips_of(config, store)
    learned = {tag for clip in clips for tag in clip.tags}
    if config.optim.epochs and not learned:
        where = f"has {len(every)} tags, none of them of a training clip" if every else "has none"
        raise UsageError(
            f"system={config.system} learns the tags of clips, {store.path} {where}: list them in "
            "tags.csv and take them over with `tokenreel store relabel STORE DATASET`, or extract "
            "a data set that has them (`tokenreel data check` says what it finds)"
        )
    if are_numbers:
        return
    untagged = sum(not clip.tags for clip in clips)
    if untagged:
        log.warning("%d of %d training clips have no tag and are left out", untagged, len(clips))
    unseen = sorted(every - learned)
    if config.optim.epochs and unseen:
        log.warning(
            "%d of %d tags are of no training clip and cannot be learned: %s",
            len(unseen),
            len(every),
            ", ".join(unseen[:SHOWN]) + (", ..." if len(unseen) > SHOWN else ""),
        )


def require_views(config: SystemConfig, store: Store) -> None:
    """Refuse a store without the augmented views that a config draws from.

    Raises:
        UsageError: how many it has, and the command that would make more.
    """
    wanted, augmented = config.data.views, store.identity.num_augmented
    if augmented < {"clean": 0, "all": 1, "augmented": 2}[wanted]:
        has = f"has {augmented} besides the clean one" if augmented else "has the clean one"
        raise UsageError(
            f"data.views={wanted} wants {'two ' if wanted == 'augmented' else ''}augmented views, "
            f"{store.path} {has}: `{extract_command(store, views='2')}` makes one that has more"
        )
