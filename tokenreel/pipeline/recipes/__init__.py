"""Experiments as functions: each returns a recipe, its docstring has command, cost and number."""

from collections.abc import Callable

from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.override import nearest
from tokenreel.pipeline.recipes import mvformer, sample
from tokenreel.pipeline.recipes.base import Recipe

__all__ = ["RECIPES", "TABLES", "Recipe", "get_recipe"]

RECIPES: dict[str, Callable[[], Recipe]] = {
    "sample": sample.sample,
    "untrained": sample.untrained,
    "frozen-mean": sample.frozen_mean,
    "mvformer-penn": mvformer.penn,
    "mvformer-pouring": mvformer.pouring,
    "mvformer-finegym": mvformer.finegym,
    "folder": sample.folder,
}

TABLES: dict[str, tuple[str, ...]] = {
    "controls": ("sample", "untrained", "frozen-mean"),
}


def get_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UsageError: an unknown name, with the nearest.
    """
    if name not in RECIPES:
        raise UsageError(
            f"no recipe {name!r}{nearest(name, RECIPES)} (there is: {', '.join(RECIPES)})"
        )
    return RECIPES[name]()
