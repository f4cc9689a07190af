"""Experiments as functions: each row of the papers' frame-level tables is one recipe name."""

from collections.abc import Callable

from tokenreel.cache.errors import UsageError
from tokenreel.cache.plugins import nearest
from tokenreel.fuse.config import SYSTEMS, config_class
from tokenreel.pipeline.recipes.base import Recipe, describe, documented
from tokenreel.pipeline.recipes.baselines import BASELINES
from tokenreel.pipeline.recipes.captioned import CAPTIONED
from tokenreel.pipeline.recipes.carl import CARL
from tokenreel.pipeline.recipes.ftp import FTP
from tokenreel.pipeline.recipes.lvu import LVU
from tokenreel.pipeline.recipes.mvformer import MVFORMER, TABLE4
from tokenreel.pipeline.recipes.sample import SAMPLE
from tokenreel.pipeline.recipes.stan import STAN
from tokenreel.pipeline.recipes.tables import (
    CLOCK,
    CONTROLS,
    FROZEN_CONTROLS,
    TABLES,
    WITHOUT_RECIPE,
)
from tokenreel.pipeline.recipes.trailers import TRAILERS

__all__ = [
    "CONTROLS",
    "FROZEN_CONTROLS",
    "RECIPES",
    "TABLES",
    "WITHOUT_RECIPE",
    "Recipe",
    "describe_recipe",
    "get_recipe",
]

RECIPES: dict[str, Callable[[], Recipe]] = {
    name: documented(name, make)
    for name, make in {
        **SAMPLE,
        **MVFORMER,
        **TABLE4,
        **CARL,
        **BASELINES,
        **STAN,
        **LVU,
        **TRAILERS,
        **FTP,
        **CAPTIONED,
    }.items()
}


def get_recipe(name: str) -> Recipe:
    """The recipe of a name; of a system the one with its defaults, on a store that is named.

    Raises:
        UsageError: an unknown name, with the nearest.
    """
    if name in FROZEN_CONTROLS:
        raise UsageError(f"recipe {name} trains nothing: type `evaluate frozen STORE`")
    if name == CLOCK:
        raise UsageError(f"{name} trains nothing: it is a row of every `evaluate all`")
    if name in RECIPES:
        return RECIPES[name]()
    if name in SYSTEMS:
        return Recipe(dataset="", label=name, fuse=config_class(name).model_validate({}))
    known = [*RECIPES, *SYSTEMS.names()]
    raise UsageError(
        f"no recipe {name!r}{nearest(name, known, count=3)} (`fuse recipes` lists all "
        f"{len(RECIPES)} recipes; systems: {', '.join(SYSTEMS.names())}; packages add more by the "
        f"entry point {SYSTEMS.group})"
    )


def describe_recipe(name: str) -> str:
    """A recipe, or a system with its defaults, as text.

    Raises:
        UsageError: an unknown name, with the nearest.
    """
    recipe = get_recipe(name)
    text = describe(name, RECIPES.get(name) or documented(name, lambda: recipe))
    if recipe.count_parameters is None:
        return text
    counts = recipe.count_parameters(recipe.fuse)
    parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    return f"{text}\n    parameters here: {sum(counts.values()) / 1e6:.2f} million: {parts}"
