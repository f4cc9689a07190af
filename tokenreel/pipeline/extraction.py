"""Phase 1 as one call: words of the user -> manifest and config -> store."""

import re
from collections.abc import Sequence
from pathlib import Path

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.runner import ExtractReport, extract_clips
from tokenreel.pipeline.datasets import load_dataset
from tokenreel.pipeline.naming import named_store
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes.extraction import extraction_for
from tokenreel.pipeline.run import DATA, STORES

__all__ = ["data_options", "extract_dataset", "parse_shard", "read_words"]


def extract_dataset(
    dataset: str,
    words: Sequence[str],
    *,
    root: Path | None = None,
    out: Path | None = None,
    shard: str = "0/1",
) -> tuple[ExtractReport, Path]:
    """Write the tokens of a data set into its store.

    Args:
        dataset: name of the data set.
        words: `key=value` for the extraction, `data.key=value` for the data set.
        root: folder of the videos; data/<dataset> when None.
        out: the store; when None the one of this extraction in stores/, see named_store.
        shard: "i/n", this job's part.

    Returns:
        What was done, and the store.
    """
    part = parse_shard(shard)
    manifest, config = read_words(dataset, words, root=root)
    store = out or named_store(STORES, manifest, config)
    return extract_clips(manifest, config, store, shard=part), store


def read_words(
    dataset: str, words: Sequence[str], *, root: Path | None
) -> tuple[Manifest, ExtractConfig]:
    """The manifest and the extraction that the words of a command ask for."""
    options, rest = data_options(words)
    config = apply_overrides(extraction_for(dataset), rest, root="extract")
    return load_dataset(dataset, root or DATA / dataset, options), config


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


def _data_option(word: str) -> tuple[str, str]:
    key, equals, value = word.removeprefix("data.").partition("=")
    if not equals:
        raise UsageError(f"{word!r} is not data.key=value")
    return key, value
