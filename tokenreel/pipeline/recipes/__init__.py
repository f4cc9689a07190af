"""Experiments as functions: each row of the papers' frame-level tables is one recipe name."""

from collections.abc import Callable

from tokenreel.cache.errors import UsageError
from tokenreel.cache.plugins import nearest
from tokenreel.pipeline.recipes.base import Recipe, describe, documented
from tokenreel.pipeline.recipes.baselines import BASELINES
from tokenreel.pipeline.recipes.carl import CARL
from tokenreel.pipeline.recipes.mvformer import MVFORMER, TABLE4
from tokenreel.pipeline.recipes.sample import SAMPLE
from tokenreel.pipeline.recipes.tables import FROZEN_CONTROLS, TABLES

__all__ = ["FROZEN_CONTROLS", "RECIPES", "TABLES", "Recipe", "describe", "get_recipe"]

RECIPES: dict[str, Callable[[], Recipe]] = {
    name: documented(name, make)
    for name, make in {**SAMPLE, **MVFORMER, **TABLE4, **CARL, **BASELINES}.items()
}


def get_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UsageError: an unknown name, with the nearest.
    """
    if name in FROZEN_CONTROLS:
        raise UsageError(f"recipe {name} trains nothing: type `evaluate frozen STORE`")
    if name not in RECIPES:
        raise UsageError(
            f"no recipe {name!r}{nearest(name, RECIPES, count=3)} (`fuse recipes` lists all "
            f"{len(RECIPES)})"
        )
    return RECIPES[name]()
