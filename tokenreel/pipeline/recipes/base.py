"""What a recipe is, and how it is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import cleandoc
from math import ceil
from typing import Literal

from tokenreel.cache.errors import UsageError
from tokenreel.cache.recipe import StoreRecipe
from tokenreel.fuse.config import FuseConfig

__all__ = ["Published", "Recipe", "describe", "percent"]

Published = Mapping[str, tuple[float, float | None]]

# Training clips of the papers' data sets, for the number of steps that a recipe takes.
TRAIN_CLIPS = {"penn_action": 1140, "pouring": 70}
IN_PERCENT = ("classification", "ap@5", "ap@10", "ap@15")


@dataclass(frozen=True)
class Recipe:
    """An experiment.

    Attributes:
        dataset: the data set whose store it reads by default.
        fuse: how it trains.
        evaluate: settings of phase 3 that differ from the defaults, by field.
        label: what a table calls it; the recipe's name where it is empty.
        published: task -> the published mean and 2 std (None where not given), as the paper prints
            them: classification and AP in percent, progression and tau from 0 to 1.
        backbone: how the published row's backbone is named in timm, or begins: "resnet50"; empty
            where any will do.
        source: table and row of the paper.
        status: "exact": the published system, given the store; "variant": something of it cannot
            come from a cache of frozen tokens; "control": ours, not a paper's.
        differs: what a variant lacks.
        needs: dotted fields of `fuse` that the user must set, such as "init".
    """

    dataset: str
    fuse: FuseConfig
    evaluate: Mapping[str, object] = field(default_factory=dict)
    label: str = ""
    published: Published = field(default_factory=dict)
    backbone: str = ""
    source: str = ""
    status: Literal["exact", "variant", "control"] = "control"
    differs: str = ""
    needs: tuple[str, ...] = ()

    def is_about(self, store: StoreRecipe) -> bool:
        """Whether a store is of the backbone that the published row is about."""
        return store.architecture.startswith(self.backbone)

    def require_words(self, name: str, config: FuseConfig) -> None:
        """Refuse a run of this recipe without what only the user can know.

        Raises:
            UsageError: a field of `needs` that is not set, and what to type.
        """
        for key in self.needs:
            if getattr(config, key) is None:
                raise UsageError(
                    f"recipe {name} goes on from another run: type `fuse train {name} {key}=RUN`"
                )


def percent(
    classification: float | None = None,
    progression: float | None = None,
    tau: float | None = None,
    ap5: float | None = None,
    *,
    spread: tuple[float | None, ...] = (None,) * 4,
) -> Published:
    """Published numbers in the order of the papers' columns; None where the paper has none.

    >>> percent(93.07, tau=0.985)
    {'classification': (93.07, None), 'tau': (0.985, None)}
    """
    tasks = ("classification", "progression", "tau", "ap@5")
    values = (classification, progression, tau, ap5)
    return {
        task: (value, deviation)
        for task, value, deviation in zip(tasks, values, spread, strict=True)
        if value is not None
    }


def describe(name: str, make: Callable[[], Recipe]) -> str:
    """A recipe as text: what it is, command, published numbers, cost, exact or variant."""
    recipe = make()
    command = " ".join([f"fuse train {name}", *(f"{key}=RUN" for key in recipe.needs)])
    facts = [
        cleandoc(make.__doc__ or recipe.label),
        f"command: {command} --store STORE",
        f"source: {recipe.source} ({recipe.label})" if recipe.source else "",
        f"published: {_numbers(recipe.published)}" if recipe.published else "",
        f"backbone of the paper: {recipe.backbone}" if recipe.backbone else "",
        f"{recipe.status}: {recipe.differs}" if recipe.differs else recipe.status,
        f"cost: {_cost(recipe)}",
    ]
    lines = "\n".join(fact for fact in facts if fact).splitlines()
    return "\n".join([name, *(f"    {line}".rstrip() for line in lines)])


def _numbers(published: Published) -> str:
    parts = []
    for task, (mean, spread) in published.items():
        digits = 2 if task in IN_PERCENT else 3
        text = f"{task} {mean:.{digits}f}"
        parts.append(text if spread is None else f"{text} +- {spread:.{digits}f}")
    return ", ".join(parts)


def _cost(recipe: Recipe) -> str:
    config = recipe.fuse
    if config.model == "frozen" or not config.optim.epochs:
        return "one pass over the store, nothing is trained"
    batch = config.data.batch_clips
    frames = f"of {batch} clips, 2 x {config.data.num_frames} frames each"
    clips = TRAIN_CLIPS.get(recipe.dataset)
    if clips is None:
        return f"{config.optim.epochs} epochs, steps {frames}"
    steps = ceil(clips / batch) * config.optim.epochs
    return f"{steps:,} steps {frames} ({config.optim.epochs} epochs of {clips:,} clips)"
