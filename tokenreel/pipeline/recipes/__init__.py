"""Experiments as functions: each row of the papers' frame-level tables is one recipe name."""

from collections.abc import Callable

from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.override import nearest
from tokenreel.pipeline.recipes import mvformer, sample
from tokenreel.pipeline.recipes.base import Recipe, describe
from tokenreel.pipeline.recipes.baselines import BASELINES
from tokenreel.pipeline.recipes.carl import CARL, CARL_TABLES

__all__ = ["RECIPES", "TABLES", "Recipe", "describe", "get_recipe"]

RECIPES: dict[str, Callable[[], Recipe]] = {
    "sample": sample.sample,
    "untrained": sample.untrained,
    "frozen-mean": sample.frozen_mean,
    "frozen-max": sample.frozen_max,
    "frozen-cls": sample.frozen_cls,
    "folder": sample.folder,
    "mvformer-penn": mvformer.penn,
    "mvformer-pouring": mvformer.pouring,
    "mvformer-finegym": mvformer.finegym,
    "mvformer-finegym288": mvformer.finegym288,
    "mvformer-kinetics400": mvformer.kinetics400,
    "mvformer-penn-finetuned": mvformer.penn_finetuned,
    **mvformer.TABLE4,
    **CARL,
    **BASELINES,
}

TABLES: dict[str, tuple[str, ...]] = {
    "controls": ("sample", "untrained", "frozen-mean", "frozen-max", "frozen-cls"),
    "mvformer-table1": (
        "sal-penn", "tcn-penn", "carl-penn", "vsp-penn", "mvformer-penn",
        "sal-finegym", "tcn-finegym", "carl-finegym", "vsp-finegym", "mvformer-finegym",
    ),
    "mvformer-table2": (
        "sal-pouring", "tcn-pouring", "carl-pouring", "vsp-pouring", "mvformer-pouring",
    ),
    "mvformer-table3": ("carl-penn", "vsp-penn", "mvformer-penn", "mvformer-penn-finetuned"),
    "mvformer-table4": tuple(mvformer.TABLE4),
    "mvformer-table5": (
        "tcc-penn", "lav-penn", "gta-penn", "sal-penn", "tcn-penn", "carl-penn", "vsp-penn",
        "mvformer-penn", "mvformer-penn-finetuned",
    ),
    "carl-table1": (
        "tcc-penn", "lav-penn", "gta-penn", "sal-penn", "tcn-penn", "carl-penn",
    ),
    "carl-table3": (
        "tcn-finegym", "sal-finegym", "tcc-finegym", "gta-finegym", "carl-finegym",
    ),
    "carl-table4": ("tcn-pouring", "tcc-pouring", "lav-pouring", "carl-pouring"),
    **CARL_TABLES,
}  # fmt: skip


def get_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UsageError: an unknown name, with the nearest.
    """
    if name not in RECIPES:
        raise UsageError(
            f"no recipe {name!r}{nearest(name, RECIPES, count=3)} (`fuse recipes` lists all "
            f"{len(RECIPES)})"
        )
    return RECIPES[name]()
