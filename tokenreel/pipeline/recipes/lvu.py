"""Recipes of LVU's tasks that STAN's paper leaves out: two streams of tokens, frozen CNNs.

Four have classes, two a number to predict.
"""

from collections.abc import Callable

from tokenreel.fuse.config import config_class
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes.base import PROTOCOLS, Recipe

CLASSES, NUMBERS = ("director", "genre", "writer", "year"), ("like_ratio", "view_count")


def _recipe(task: str) -> Callable[[], Recipe]:
    is_number = task in NUMBERS

    def make() -> Recipe:
        default = config_class("stan").model_validate({})
        loss = "mse" if is_number else "cross_entropy"
        return Recipe(
            dataset="lvu",
            fuse=apply_overrides(default, [f"loss={loss}"], root="fuse"),
            evaluate={**PROTOCOLS["lvu"], "protocol": "numbers" if is_number else "tags"},
            label=f"STAN, {task}",
            spread="standard error",
            stores=("spatial", "temporal"),
        )

    what = "number is predicted" if is_number else "classes are learned"
    make.__doc__ = f"STAN with frozen CNNs on LVU: a store of `data.task={task}`, whose {what}."
    return make


LVU: dict[str, Callable[[], Recipe]] = {
    f"lvu-{task}": _recipe(task) for task in (*CLASSES, *NUMBERS)
}
