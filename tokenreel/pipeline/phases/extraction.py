"""Phase 1 as calls: words of the user -> manifest and config -> store, new, retried or repaired."""

import dataclasses
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.codec import codec_identity
from tokenreel.cache.errors import StoreError, UsageError
from tokenreel.cache.files import (
    entries_of,
    is_made_by_another,
    make_directory,
    sweep_temporary,
    sync_directory,
    temporary_name,
)
from tokenreel.cache.format.identity import StoreIdentity, wrong_fields
from tokenreel.cache.format.store_files import load_identity, read_failures
from tokenreel.cache.locks import lock_folder
from tokenreel.cache.manifest import Manifest, first_clips, path_below
from tokenreel.cache.tools.maintenance import mend_logs, remove_damaged
from tokenreel.cache.tools.verify import VerifyReport
from tokenreel.extract.backbone.families import backbone_label, check_family
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.frame_policy import check_list, frames_identity, frames_word
from tokenreel.extract.report import ExtractReport
from tokenreel.pipeline.datasets import DATASETS, load_dataset
from tokenreel.pipeline.defaults import STORES, root_of, videos_of_store
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes.extraction import extraction_for
from tokenreel.pipeline.text import require_device, require_gpus

if TYPE_CHECKING:  # torch
    from tokenreel.extract.flow.changes import WhenChanged

log = logging.getLogger(__name__)

DATA_WORDS = ("picture_fps",)  # options of data sets that need no "data." in front
ABANDONED_SECONDS = 86400  # an unfinished store that nobody touched for this long


def extract_dataset(
    dataset: str,
    words: Sequence[str],
    *,
    root: Path | None = None,
    out: Path | None = None,
    shard: str = "0/1",
    gpus: str | None = None,
    limit: int | None = None,
    changed: "WhenChanged" = "refuse",
) -> tuple[ExtractReport, Path]:
    """Write the tokens of a data set into its store.

    Args:
        dataset: name of the data set.
        words: `key=value` for the extraction, `data.key=value` for the data set.
        root: folder of the videos; data/<dataset> when None.
        out: the store; when None the one of this extraction in stores/, see named_store.
        shard: "i/n", this job's part.
        gpus: one process for each: "all", a count, or comma-separated numbers; None: one process,
            where the word device= says.
        limit: only the first clips of each split, as many as this; None: all.  The store is the
            same, so that a run without a limit adds the others.
        changed: what is done with committed clips whose video or range is another one now:
            "refuse", "replace" or "keep"; see runner.extract_clips.

    Returns:
        What was done, and the store.
    """
    check_limit(limit)
    part = parse_shard(shard)
    if gpus is not None:
        require_gpus(gpus)
    manifest, config = read_words(dataset, words, root=root)
    from tokenreel.extract.flow.gpus import extract_on_gpus  # torch: every word is right

    devices = _devices(config, gpus)
    store = store_path(out) if out else named_store(STORES, manifest, config)
    report = extract_on_gpus(
        devices, manifest, config, store, shard=part, limit=limit, changed=changed
    )
    report.unreadable = list(manifest.unreadable)
    report.num_over_limit = len(manifest.clips) - len(first_clips(manifest.clips, limit))
    return report, store


def retry_store(
    store: Path, words: Sequence[str] = (), *, root: Path | None = None, gpus: str | None = None
) -> ExtractReport:
    """Retry the clips in quarantine, and only those, as the store says they were extracted.

    Args:
        store: the store.
        words: `key=value` that the store does not record: weights=FILE, data.key=value, device.
        root: folder of the videos; when None where they were, or data/<dataset>.
        gpus: as extract_dataset.

    Raises:
        UsageError: the store was not made by an extraction, or the data set there has no such
            clip any more.
        WrongIdentity: the words do not describe the extraction that made the store.
    """
    load_identity(store)  # a wrong path is not a store without failures
    held = [str(record["clip_id"]) for record in read_failures(store)]
    if not held:
        return ExtractReport()
    _, manifest, config = _read_store(store, words, root=root)
    part = _only(manifest, held)
    from tokenreel.extract.flow.gpus import extract_on_gpus

    return extract_on_gpus(_devices(config, gpus), part, config, store, retries=True)


def _read_store(
    store: Path, words: Sequence[str], *, root: Path | None
) -> tuple[StoreIdentity, Manifest, ExtractConfig]:
    """The identity of a store, and the data set and the extraction that made it."""
    identity, attributes = load_identity(store)
    made_with = attributes["made_with"]
    options, rest = data_options(words)
    config = configure_extraction(config_of(identity, made_with), rest)
    dataset = str(made_with["dataset"])
    return identity, load_dataset(dataset, videos_of_store(store, root), options), config


def config_of(identity: StoreIdentity, made_with: Mapping[str, Any]) -> ExtractConfig:
    """The extraction that a store says it was made by; the machine's own fields are defaults.

    Raises:
        UsageError: the store was not made by an extraction.
    """
    augmented = identity.views[identity.num_crops :]
    kind, _, pixels = identity.architecture.partition(":")
    try:
        if kind == "pixels":
            return ExtractConfig.model_validate(
                {
                    "pixels": pixels,
                    "jpeg_quality": identity.transform["jpeg"]["quality"],
                    "image_size": identity.image_size,
                    "transform": identity.transform["name"],
                    "frames": made_with["frames"],
                    "pixel_aspect": identity.pixel_aspect,
                }
            )
        return ExtractConfig(
            backbone=identity.architecture,
            weights=made_with["weights"],
            weights_key=made_with.get("weights_key"),
            blocks=identity.blocks,
            image_size=identity.image_size,
            transform=identity.transform["name"],
            fps=identity.frames.get("fps"),
            frames=made_with.get("frames") or frames_word(identity.frames),
            views=len(augmented),
            crops=3 if identity.num_crops == 3 else 1,
            view_seed=augmented[0]["seed"] if augmented else 0,
            pixel_aspect=identity.pixel_aspect,
            codec=identity.codec["name"],
            numeric=identity.numeric,
            compile_backbone=made_with.get("compile_backbone", False),
        )
    except (KeyError, ValueError) as error:
        why = wrong_fields(error) if isinstance(error, ValidationError) else str(error)
        raise UsageError(f"the store does not say how it was extracted: {why}") from error


def read_words(
    dataset: str, words: Sequence[str], *, root: Path | None
) -> tuple[Manifest, ExtractConfig]:
    """The manifest and the extraction that the words of a command describe."""
    options, rest = data_options(words)
    _require_prefix(dataset, rest)
    config = configure_extraction(extraction_for(dataset), rest)
    manifest = load_dataset(dataset, store_path(root or root_of(dataset)), options)
    check_list(config, manifest)
    return manifest, config


def _require_prefix(dataset: str, words: Sequence[str]) -> None:
    """Refuse a key of the data set that lacks its `data.`."""
    about = str(DATASETS.load(dataset).__doc__ or "")
    for word in words:
        key = word.partition("=")[0]
        if key not in ExtractConfig.model_fields and f"`{key}`" in about:
            raise UsageError(
                f"extract.{key}: no such field, did you mean data.{word}? It is a key of {dataset}"
            )


def configure_extraction(config: ExtractConfig, words: Sequence[str]) -> ExtractConfig:
    """The extraction with `key=value` changes, checked as far as that needs no torch.

    Raises:
        UsageError: a wrong key or value, a word that is no codec or device, or a list of times
            that cannot be read.
    """
    config = apply_overrides(config, words, root="extract")
    codec_identity(config.codec)
    check_family(config.backbone)
    frames_identity(config)
    require_device(config.device, option="device=")
    return config


def data_options(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The `data.key=value` words as a dict, and the words that are left.

    Those of DATA_WORDS need no "data." in front.

    >>> data_options(["data.classes=288", "blocks=11", "picture_fps=10"])
    ({'classes': '288', 'picture_fps': '10'}, ['blocks=11'])
    """
    own: dict[str, str] = {}
    left = []
    for word in words:
        key, equals, value = word.partition("=")
        if not word.startswith("data.") and key not in DATA_WORDS:
            left.append(word)
            continue
        if not equals:
            raise UsageError(f"{word!r} is not data.key=value")
        key = key.removeprefix("data.")
        if own.setdefault(key, value) != value:
            raise UsageError(
                f"data.{key}={own[key]} and {word}: {key} is given twice, leave one out"
            )
    return own, left


def check_limit(limit: int | None) -> None:
    """Raise UsageError for a limit that leaves no clip."""
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: give the number of clips of each split, 1 or more")


def parse_shard(text: str) -> tuple[int, int]:
    """Read "i/n", 0 <= i < n.

    >>> parse_shard("2/8")
    (2, 8)

    Raises:
        UsageError: not two whole numbers, or i outside [0, n).
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise UsageError(f"--shard is i/n with 0 <= i < n, such as 0/4; got {text!r}")
    return int(match[1]), int(match[2])


def _devices(config: ExtractConfig, gpus: str | None) -> Sequence[str]:
    """Where to extract; raises before anything is begun where there is no such device."""
    from tokenreel.extract.flow.devices import pick_device, pick_gpus

    if gpus is not None:
        return pick_gpus(gpus)
    pick_device(config.device)
    return [config.device]


def make_store(manifest: Manifest, config: ExtractConfig, out: Path | None) -> Path:
    """The store of an extraction, made and calibrated where there is none, before workers run.

    Its canary and its calibration are computed here, on whatever device this machine has.

    Args:
        manifest: the clips.
        config: the extraction; its device is that of the workers.
        out: the store; when None the one of this extraction in stores/.

    Raises:
        WrongIdentity: there is a store at the path, of other settings.
    """
    from tokenreel.extract.flow.runner import prepare_store

    config = config.model_copy(update={"device": "auto"})
    if out is None:
        return named_store(STORES, manifest, config)
    prepare_store(manifest, config, out)
    return out


def named_store(folder: Path, manifest: Manifest, config: ExtractConfig) -> Path:
    """The one store of an extraction in a folder; made, calibrated and named when there is none.

    Several processes, such as shards of one extraction, get the same one: the first makes it.

    Args:
        folder: of the stores.
        manifest: the clips; some are decoded to calibrate a new store.
        config: the extraction.

    Raises:
        UsageError: several stores there hold this extraction, each calibrated on other frames.
        Damaged: a store there that could be the one cannot be read.
    """
    from tokenreel.extract.encode.identity import build_identity, store_name
    from tokenreel.extract.flow.runner import prepare_store

    planned = build_identity(config)
    start = store_name(manifest.dataset, config)
    make_directory(folder)
    with lock_folder(folder, waiting="another process makes a store here; waiting"):
        sweep_temporary(folder, older_than_seconds=ABANDONED_SECONDS)
        found = _stores_of(folder, start, planned, config)
        if not found:  # the same weights in a file of another name
            start_of_all = f"{manifest.dataset}-{backbone_label(config.backbone)}-"
            found = _stores_of(folder, start_of_all, planned, config, skip_damaged=True)
        if len(found) > 1:
            names = ", ".join(f"--out {path}" for path in found)
            raise UsageError(f"{len(found)} stores hold this extraction, name one: {names}")
        if found:
            return found[0]
        beside = temporary_name(folder / start.rstrip("-"))
        _, recipe, _, _ = prepare_store(manifest, config, beside)
        path = folder / store_name(manifest.dataset, config, recipe)
        if _rename_store(beside, path):
            log.info("new store: %s", path)
        else:  # where there are no locks
            log.info("%s: made by another process meanwhile", path)
            load_identity(path)[0].require(recipe, path=path)
    return path


def _rename_store(beside: Path, path: Path) -> bool:
    """Give a new store its name; False where another process made it first, which stays."""
    try:
        beside.rename(path)
    except OSError as error:
        if not is_made_by_another(error, (path / "recipe.json").exists):
            raise
        shutil.rmtree(beside, ignore_errors=True)
        return False
    sync_directory(path.parent)
    return True


def _stores_of(
    folder: Path,
    start: str,
    planned: StoreIdentity,
    config: ExtractConfig,
    *,
    skip_damaged: bool = False,
) -> list[Path]:
    """Stores of an extraction among those whose names begin so."""
    from tokenreel.extract.encode.identity import same_extraction

    found = []
    for path in entries_of(folder, f"{escape(start)}*"):
        if not (path / "recipe.json").exists():
            continue
        try:
            held = load_identity(path)[0].before_calibration
        except StoreError:
            if not skip_damaged:
                raise
            continue
        if held.has_tokens_of(same_extraction(held, planned, config)):
            found.append(path)
    return found


def repair_store(
    store: Path, report: VerifyReport, words: Sequence[str] = (), *, root: Path | None = None
) -> ExtractReport | None:
    """Extract the damaged clips of a store again, as its recipe and its data set say.

    Nothing is removed before it is known that the clips can be made again.

    Args:
        store: the store.
        report: of verify_store.
        words: `key=value` that the store does not record: weights=FILE, data.key=value, device.
        root: folder of the videos; when None where they were, or data/<dataset>.

    Returns:
        What the extraction did; None when no clip had to be made again.

    Raises:
        UsageError: the store was not made by an extraction, or videos are not where they were.
        WrongIdentity: the words do not describe the extraction that made the store.
    """
    mend_logs(store)
    if not report.repair:
        return None
    maker = load_identity(store)[1]["made_with"].get("made_by", "extract")
    if maker != "extract":
        raise UsageError(
            f"{store} was made by `store {maker}`, not by an extraction: remove the damaged clips "
            f"({', '.join(report.repair[:3])}) and run `store {maker}` again"
        )
    identity, manifest, config = _read_store(store, words, root=root)
    from tokenreel.extract.encode.identity import build_identity, same_extraction
    from tokenreel.extract.flow.runner import extract_clips

    held = identity.before_calibration
    held.require(same_extraction(held, build_identity(config), config), path=store)
    part = _only(manifest, report.repair)
    for clip in part.clips:
        path = path_below(part.root, clip.video)
        if not path.exists():
            raise UsageError(f"{clip.clip_id}: {path} is not there: --root?")
    remove_damaged(store, report)
    return extract_clips(part, config, store, retries=True)


def _only(manifest: Manifest, clips: Sequence[str]) -> Manifest:
    """The part of a manifest that is of these clips."""
    chosen = tuple(clip for clip in manifest.clips if clip.clip_id in clips)
    missing = sorted(set(clips) - {clip.clip_id for clip in chosen})
    if missing:
        raise UsageError(
            f"{manifest.dataset} in {manifest.root} has no clip {missing[0]!r}"
            f" ({len(missing)} in all): give the --root and data.key=value of the extraction"
        )
    return dataclasses.replace(manifest, clips=chosen)
