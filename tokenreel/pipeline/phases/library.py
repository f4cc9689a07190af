"""The three phases as Python functions: what the commands do, with values in place of words."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.manifest import Manifest
from tokenreel.evaluate.commands.suite import SuiteReport
from tokenreel.extract.flow.changes import WhenChanged
from tokenreel.extract.flow.gpus import extract_on_gpus
from tokenreel.extract.report import ExtractReport
from tokenreel.fuse.train.train import RunResult
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.phases.evaluation import evaluate_words
from tokenreel.pipeline.phases.extraction import extract_dataset
from tokenreel.pipeline.phases.training import Stores, embed_with, train_recipe
from tokenreel.pipeline.recipes.extraction import extraction_for


def extract_videos(
    videos: str | Path | Manifest,
    store: str | Path,
    *,
    dataset: str = "folder",
    settings: Mapping[str, Any] | None = None,
    changed: WhenChanged = "refuse",
) -> ExtractReport:
    """Write the tokens of every video into a store; call it again to resume.

    Args:
        videos: a folder of videos, the root of a data set, or a manifest of one's own.
        store: directory of the store; made when absent.
        dataset: name of the data set; with a manifest its own name counts.
        settings: fields of the extraction, and "data.KEY" for the data set, such as
            {"backbone": "vit_small_patch16_224.dino", "blocks": (3, 11), "fps": 5}.
        changed: what is done with clips whose video or range is not what was extracted: "refuse"
            and "keep" leave them as they are, "replace" extracts them again.

    Returns:
        What was done; clips that failed are in it and in the store's quarantine.

    Raises:
        UsageError: a key or value that means nothing; the nearest is named.
        WrongIdentity: the store was made with other settings.
    """
    words = _words(settings)
    if isinstance(videos, Manifest):
        config = apply_overrides(extraction_for(videos.dataset), words, root="extract")
        report = extract_on_gpus(
            [config.device], videos, config, store_path(store), changed=changed
        )
        report.unreadable = list(videos.unreadable)
        return report
    root, out = store_path(videos), store_path(store)
    return extract_dataset(dataset, words, root=root, out=out, changed=changed)[0]


def train_model(
    store: str | Path | Mapping[str, str | Path],
    run: str | Path,
    *,
    recipe: str = "sample",
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: bool = True,
) -> RunResult:
    """Train a recipe on a store and embed every clip; call it again to resume.

    Args:
        store: directory of the store; name -> directory for a system that reads several.
        run: folder of the run.
        recipe: name of the recipe, as `fuse recipes` lists them, or of a system.
        settings: changes of the recipe, such as {"optim.epochs": 10, "pooling.blocks": (11,)}.
        device: "auto", "cpu" or "cuda".
        progress: whether to draw bars.

    Raises:
        UsageError: a key or value that means nothing; the nearest is named.
    """
    words, out = _words(settings), Path(run)
    return train_recipe(
        recipe, words, store=_stores(store), out=out, device=device, progress=progress
    )


def embed_store(
    run: str | Path,
    store: str | Path | Mapping[str, str | Path],
    out: str | Path | None = None,
    *,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Embed a store with a run trained on it, or on another of the same backbone.

    Args:
        run: folder of the run.
        store: directory of the store; name -> directory for a run that reads several.
        out: the file; RUN/embeddings-STORE.h5 when None.
        device: "auto", "cpu" or "cuda".
        progress: whether to draw a bar.

    Returns:
        The file.
    """
    target = None if out is None else Path(out)
    return embed_with(Path(run), _stores(store), out=target, device=device, progress=progress)[0]


def evaluate_files(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    jobs: int = 0,
    progress: bool = True,
) -> SuiteReport:
    """Evaluate runs or embedding files and write the tables.

    Args:
        files: runs, folders of runs or embedding files.
        out: folder of the tables.
        settings: fields of the protocol, such as {"protocol": "tcc"}.
        jobs: processors to use, 0 for all of this process.
        progress: whether to draw a bar.
    """
    words = [*map(str, files), *_words(settings)]
    return evaluate_words(words, out=Path(out), jobs=jobs, progress=progress)


def _stores(store: str | Path | Mapping[str, str | Path]) -> Stores:
    if isinstance(store, Mapping):
        return {name: store_path(path) for name, path in store.items()}
    return store_path(store)


def _words(settings: Mapping[str, Any] | None) -> list[str]:
    """Settings as the words of a command.

    >>> _words({"blocks": (3, 11), "compile_backbone": True, "fps": None})
    ['blocks=3,11', 'compile_backbone=true', 'fps=null']
    """
    return [f"{key}={_word(value)}" for key, value in (settings or {}).items()]


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return ",".join(map(_word, value))
    return str(value)
