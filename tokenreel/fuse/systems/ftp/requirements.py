"""What a run of FTP requires of its store, its texts and its processors, before it trains."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.text_file import TextFile
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.data.requirements import (
    clips_of,
    extract_command,
    require_clips,
    require_views,
)
from tokenreel.fuse.systems.ftp.config import FtpConfig
from tokenreel.fuse.systems.ftp.processor_runs import assign_prompts
from tokenreel.fuse.systems.ftp.texts import open_texts
from tokenreel.fuse.systems.ftp.units import frames_of_map, grid_of_map, is_pooled

log = logging.getLogger(__name__)

SHOWN = 3  # clips that an error lists


def require_all(config: FtpConfig, stores: StoreSet) -> None:
    """Refuse stores, texts and processors without what a config needs.

    Raises:
        UsageError: what is missing, with the command that makes it.
        EmbeddingFileError: a file of texts that cannot be read.
    """
    store = stores.first
    if len(stores) > 1:
        raise UsageError(
            f"system={config.system} reads one store of clip maps, given {', '.join(stores)}: give "
            "one --store PATH"
        )
    require_clips(config, store)
    _require_maps(config, store)
    if config.stage != "classify" and config.align.optim.epochs:
        _require_texts(config, store)
    if config.class_texts is not None:
        _require_class_texts(config, store)
    if config.stage != "align":
        _require_processors(config)
        _require_actions(config, store)
        if config.optim.epochs:
            require_views(config, store)


def _require_maps(config: FtpConfig, store: Store) -> None:
    if not store.identity.blocks:
        raise UsageError(f"{store.path} keeps pictures and no tokens: clip maps are of tokens")
    if is_pooled(store):
        if config.pool == "max":
            raise UsageError(
                f"pool=max: {store.path} has the means of maps: give the store of whole maps"
            )
        return
    if config.map == "pooled":
        return
    height, width = grid_of_map(store)
    most = frames_of_map(store)
    if (
        most > max(4, config.segments) * config.data.num_frames
        and "count" not in store.identity.frames
    ):
        log.warning(
            "%s has up to %d frames of a clip, of which data.num_frames=%d, evenly spaced, are "
            "read: `%s` makes a store of as many",
            store.path,
            most,
            config.data.num_frames,
            extract_command(store, frames=f"uniform:{config.data.num_frames}"),
        )
    needed = config.segments * config.data.num_frames
    if config.stage != "align" and config.segments > 1 and most < needed:
        log.warning(
            "%s has up to %d frames of a clip, so that the %d segments of a test of %d frames each "
            "repeat them: `%s` makes a store of as many",
            store.path,
            most,
            config.segments,
            config.data.num_frames,
            extract_command(store, frames=f"uniform:{needed}"),
        )
    if config.reading == "appendix" and config.prompts and height * width < 2:
        raise UsageError(f"reading=appendix needs a grid, {store.path} has one token a frame")


def _require_texts(config: FtpConfig, store: Store) -> None:
    """The texts of the training clips; those that are missing are counted."""
    if config.texts is None:
        raise UsageError(
            f"system={config.system} aligns clips with texts: set texts=FILE; `extract text "
            "DATASET --from prompts.jsonl --out FILE` makes it"
        )
    texts = open_texts(Path(config.texts))
    require_same_encoder(config, texts)
    clips = [clip.clip_id for clip in clips_of(config, store)]
    missing = texts.missing(clips, config.prompts)
    for prompt in config.prompts:
        without = missing.get(prompt, [])
        if len(clips) - len(without) < 2:
            raise UsageError(
                f"{config.texts} has texts of prompt {prompt} for {len(clips) - len(without)} of "
                f"{len(clips)} training clips of {store.path}: it must have some of its clips"
            )
    if not missing:
        return
    lacking = sorted({clip for without in missing.values() for clip in without})
    counts = ", ".join(f"{prompt}: {len(without)}" for prompt, without in missing.items())
    what = (
        f"{config.texts} lacks texts of {len(lacking)} of {len(clips)} training clips (by prompt, "
        f"{counts}), the first are {_listed(lacking)}"
    )
    if config.texts_lacking == "refuse":
        raise UsageError(
            f"{what}: add them, or set texts_lacking=leave_out to leave such a clip out for that "
            "prompt alone"
        )
    log.warning("%s: left out for that prompt alone", what)


def _require_class_texts(config: FtpConfig, store: Store) -> None:
    """Texts of classes of the run's encoder, and those of the store's actions among them."""
    assert config.class_texts is not None
    names = open_texts(Path(config.class_texts))
    require_same_encoder(config, names)
    actions = sorted({record.action for record in store.records.values()} - {""})
    unnamed = [action for action in actions if action not in names.clip_ids]
    if unnamed:
        log.warning(
            "%s has no text of %d of %d actions of %s, whose clips are left out: %s; `extract text "
            "DATASET --classes` makes one of every action",
            config.class_texts,
            len(unnamed),
            len(actions),
            store.path,
            _listed(unnamed),
        )


def require_same_encoder(config: FtpConfig, texts: TextFile) -> None:
    """Refuse texts of another encoder than the run's.

    Raises:
        UsageError: both encoders.
    """
    if config.text_encoder is not None:
        texts.require_encoder(config.text_encoder, config.text_encoder_sha256)


def _require_processors(config: FtpConfig) -> None:
    if config.processors:
        assign_prompts(config.prompts, config.processors)
    elif (
        config.stage == "classify"
        and config.prompts
        and config.init is None
        and config.processors_aligned
    ):
        raise UsageError(
            "stage=classify takes trained processors: name runs of stage 1, processors=RUN,RUN, or "
            "set processors_aligned=false for processors as they begin, a control"
        )


def _require_actions(config: FtpConfig, store: Store) -> None:
    """Actions to learn, and those of other splits that are among them."""
    clips = clips_of(config, store)
    counts = Counter(clip.action for clip in clips if clip.action)
    if config.optim.epochs and len(counts) < 2:
        raise UsageError(
            f"stage 2 learns the actions of clips, the training clips of {store.path} have "
            f"{len(counts)}: give each clip its action in clips.csv and take it over by "
            "`tokenreel store relabel STORE DATASET`, or set stage=align"
        )
    unnamed = sum(not clip.action for clip in clips)
    if unnamed:
        log.warning("%d of %d training clips have no action and are left out", unnamed, len(clips))
    others = Counter(
        (record.action, record.split)
        for record in store.records.values()
        if record.action and record.split != "train" and record.action not in counts
    )
    if config.optim.epochs and others:
        named = ", ".join(
            f"{action!r} ({count} of {split})" for (action, split), count in sorted(others.items())
        )
        log.warning(
            "%d actions are of no training clip, so that their clips are never right: %s; look for "
            "names that differ between splits",
            len(others),
            named,
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN]))
