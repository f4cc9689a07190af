"""Phase 2 as one call: words of the user -> recipe and store -> run."""

from collections.abc import Sequence
from pathlib import Path

from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.train import RunResult, train
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes import get_recipe
from tokenreel.pipeline.run import RUNS, code_version, find_store

__all__ = ["default_run", "train_recipe"]


def train_recipe(
    name: str,
    words: Sequence[str],
    *,
    store: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
    progress: bool = True,
) -> RunResult:
    """Train a recipe on a store and write the embeddings of every split.

    Args:
        name: name of the recipe.
        words: `key=value` changes of the recipe.
        store: the store; the one of the recipe's data set in stores/ when None.
        out: folder of the run; runs/<recipe>[-changes]-seed<seed> when None.
        device: "auto", "cpu" or "cuda".
        progress: show bars.
    """
    chosen = get_recipe(name)
    config = apply_overrides(chosen.fuse, words, root="fuse")
    return train(
        config,
        store=store or find_store(chosen.dataset),
        out=out or default_run(name, words, config),
        device=device,
        progress=progress,
        provenance={"recipe": name, "commit": code_version(), "evaluate": dict(chosen.evaluate)},
    )


def default_run(name: str, words: Sequence[str], config: FuseConfig) -> Path:
    """runs/<recipe>[-key=value...]-seed<seed>: other words never meet in one folder.

    >>> default_run("sample", ["seed=1", "pooling.num_entities=5"], FuseConfig(seed=1)).name
    'sample-pooling.num_entities=5-seed1'
    """
    changes = sorted(word.replace("/", "_") for word in words if not word.startswith("seed="))
    return RUNS / "-".join([name, *changes, f"seed{config.seed}"])
