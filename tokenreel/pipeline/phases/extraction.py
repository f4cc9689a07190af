"""Phase 1 as one call: words of the user -> manifest and config -> store."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenreel.cache.codec import codec_identity
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.store_files import load_identity, read_failures
from tokenreel.cache.manifest import Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.report import ExtractReport
from tokenreel.pipeline.datasets import load_dataset
from tokenreel.pipeline.defaults import DATA, STORES
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes.extraction import extraction_for
from tokenreel.pipeline.text import require_device, require_gpus

__all__ = [
    "config_of",
    "configure_extraction",
    "data_options",
    "extract_dataset",
    "parse_shard",
    "read_words",
    "retry_store",
]


def extract_dataset(
    dataset: str,
    words: Sequence[str],
    *,
    root: Path | None = None,
    out: Path | None = None,
    shard: str = "0/1",
    gpus: str | None = None,
) -> tuple[ExtractReport, Path]:
    """Write the tokens of a data set into its store.

    Args:
        dataset: name of the data set.
        words: `key=value` for the extraction, `data.key=value` for the data set.
        root: folder of the videos; data/<dataset> when None.
        out: the store; when None the one of this extraction in stores/, see named_store.
        shard: "i/n", this job's part.
        gpus: a process on each: "all", how many, or numbers with a comma; None: one process,
            where the word device= says.

    Returns:
        What was done, and the store.
    """
    part = parse_shard(shard)
    if gpus is not None:
        require_gpus(gpus)
    manifest, config = read_words(dataset, words, root=root)
    from tokenreel.extract.flow.gpus import extract_on_gpus  # torch: every word is right
    from tokenreel.pipeline.phases.store_name import named_store

    devices = _devices(config, gpus)
    store = out or named_store(STORES, manifest, config)
    return extract_on_gpus(devices, manifest, config, store, shard=part), store


def retry_store(
    store: Path, words: Sequence[str] = (), *, root: Path | None = None, gpus: str | None = None
) -> ExtractReport:
    """Try the clips in quarantine again, exactly those, as the store says they were extracted.

    Args:
        store: the store.
        words: `key=value` where the store does not tell: weights=FILE, data.key=value, device.
        root: folder of the videos; data/<dataset> when None.
        gpus: as extract_dataset.

    Raises:
        UsageError: the store was not made by an extraction, or the data set there has no such
            clip any more.
        WrongIdentity: the words do not describe the extraction that made the store.
    """
    recipe, attributes = load_identity(store)
    held = [str(record["clip_id"]) for record in read_failures(store)]
    if not held:
        return ExtractReport()
    made_with = attributes["made_with"]
    options, rest = data_options(words)
    config = configure_extraction(config_of(recipe, made_with), rest)
    dataset = str(made_with["dataset"])
    manifest = load_dataset(dataset, root or DATA / dataset, options)
    chosen = tuple(clip for clip in manifest.clips if clip.clip_id in held)
    missing = sorted(set(held) - {clip.clip_id for clip in chosen})
    if missing:
        raise UsageError(
            f"{manifest.dataset} in {manifest.root} has no clip {missing[0]!r}"
            f" ({len(missing)} in all): give the --root and data.key=value of the extraction"
        )
    from tokenreel.extract.flow.gpus import extract_on_gpus

    devices = _devices(config, gpus)
    part = dataclasses.replace(manifest, clips=chosen)
    return extract_on_gpus(devices, part, config, store, retries=True)


def config_of(recipe: StoreIdentity, made_with: Mapping[str, Any]) -> ExtractConfig:
    """The extraction that a store says it was made by; the machine's own fields are defaults.

    Raises:
        UsageError: the recipe is not that of an extraction.
    """
    augmented = recipe.views[1:]
    try:
        return ExtractConfig(
            backbone=recipe.architecture,
            weights=made_with["weights"],
            blocks=recipe.blocks,
            image_size=recipe.image_size,
            transform=recipe.transform["name"],
            fps=recipe.frames.get("fps"),
            views=len(augmented),
            view_seed=augmented[0]["seed"] if augmented else 0,
            codec=recipe.codec["name"],
            numeric=recipe.numeric,
            compile_backbone=made_with.get("compile_backbone", False),
        )
    except (KeyError, ValueError) as error:
        raise UsageError(f"the store does not say how it was extracted: {error}") from error


def read_words(
    dataset: str, words: Sequence[str], *, root: Path | None
) -> tuple[Manifest, ExtractConfig]:
    """The manifest and the extraction that the words of a command ask for."""
    options, rest = data_options(words)
    config = configure_extraction(extraction_for(dataset), rest)
    return load_dataset(dataset, root or DATA / dataset, options), config


def configure_extraction(config: ExtractConfig, words: Sequence[str]) -> ExtractConfig:
    """The extraction with `key=value` changes, checked as far as that needs no torch.

    Raises:
        UsageError: a wrong key or value, or a word that is no codec or device.
    """
    config = apply_overrides(config, words, root="extract")
    codec_identity(config.codec)
    require_device(config.device, option="device=")
    return config


def data_options(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The `data.key=value` words as a dict, and the words that are left.

    >>> data_options(["data.classes=288", "blocks=11"])
    ({'classes': '288'}, ['blocks=11'])
    """
    own = dict(_data_option(word) for word in words if word.startswith("data."))
    return own, [word for word in words if not word.startswith("data.")]


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


def _data_option(word: str) -> tuple[str, str]:
    key, equals, value = word.removeprefix("data.").partition("=")
    if not equals:
        raise UsageError(f"{word!r} is not data.key=value")
    return key, value
