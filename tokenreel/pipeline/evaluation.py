"""Phase 3 as calls: words of the user -> embedding files and settings -> tables."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.config import EvaluateConfig
from tokenreel.evaluate.pool import num_processors
from tokenreel.evaluate.suite import SuiteReport, evaluate_files
from tokenreel.evaluate.summary import Published
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes import RECIPES
from tokenreel.pipeline.run import find_runs

__all__ = ["evaluate_words", "parse_bytes", "published_numbers", "split_words"]

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def evaluate_words(
    words: Sequence[str], *, out: Path, jobs: int = 0, memory: str = "2GB", progress: bool = True
) -> SuiteReport:
    """Evaluate what the words name.

    Args:
        words: runs, folders of runs or embedding files, and key=value settings.
        out: folder of the tables.
        jobs: processors to use, 0 for all of this process.
        memory: for all processes together, such as "2GB".
        progress: show a bar.

    Raises:
        UsageError: a word that means nothing.
    """
    config, runs = split_words(words)
    return evaluate_files(
        runs, config=config, out=out, progress=progress, jobs=jobs or num_processors(),
        memory_bytes=parse_bytes(memory), published=published_numbers(),
    )  # fmt: skip


def split_words(words: Sequence[str]) -> tuple[EvaluateConfig, list[Path]]:
    """Settings and embedding files; every run below runs/ where no word names one."""
    settings = [word for word in words if "=" in word and not Path(word).exists()]
    config = apply_overrides(EvaluateConfig(), settings, root="evaluate")
    return config, find_runs([Path(word) for word in words if word not in settings])


def published_numbers() -> Mapping[str, Published]:
    """Recipe -> what its paper prints, of the recipes that have it."""
    found = {name: make().published for name, make in RECIPES.items()}
    return {name: numbers for name, numbers in found.items() if numbers}


def parse_bytes(text: str) -> int:
    """A size in bytes.

    Raises:
        UsageError: not a number with K, M, G or T.

    >>> parse_bytes("1.5GB"), parse_bytes("200M")
    (1500000000, 200000000)
    """
    match = SIZE.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise UsageError(f"--memory {text!r} is not a size such as 2GB or 500M")
    return int(float(match[1]) * UNITS[match[2].upper()])
