"""Recipe: definition and description, and what the recipes of several papers share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import cleandoc
from itertools import zip_longest
from math import ceil
from typing import Any, Literal

from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.read.store_reader import Store
from tokenreel.evaluate.tables.printed import Published, as_printed
from tokenreel.fuse.config import (
    DataConfig,
    FuseConfig,
    MaxConfig,
    OptimConfig,
    PoolingConfig,
    SystemConfig,
    TemporalConfig,
)
from tokenreel.fuse.systems.base import system_of
from tokenreel.pipeline.defaults import dataset_of
from tokenreel.pipeline.override import apply_overrides

# Training clips of the papers' data sets, for the number of steps that a recipe takes.
TRAIN_CLIPS = {
    "penn_action": 1140,
    "pouring": 70,
    "finegym": 3182,
    "kinetics400": 240_000,
    "mmx": 6047,
    "kinetics600": 390_000,
    "kinetics710": 660_000,
    "ssv2": 169_000,
    "ucf101": 9537,
    "hmdb51": 3570,
}
NUM_ACTIONS = 13  # of Penn Action
PRE_TRAINED = {  # the papers' backbones
    "resnet50": "resnet50, pre-trained by BYOL",
    "vit_base_patch8_224.dino": "vit_base_patch8_224, pre-trained by DINO",
}
PROTOCOLS: dict[str, Mapping[str, object]] = {  # how the papers evaluate each data set
    "penn_action": {"tau_stride": 2, "retrieval_stride": 2},
    "pouring": {"tau_stride": 5, "retrieval_stride": 5, "fractions": (0.1, 0.5, 1.0)},
    "finegym": {"protocol": "finegym"},
    "kinetics400": {"tau_stride": 2, "retrieval_stride": 2},
    "mmx": {"protocol": "tags", "split": "test"},
    "lvu": {"protocol": "tags", "split": "test"},
    "kinetics600": {"protocol": "actions"},
    "ssv2": {"protocol": "actions"},
    "ucf101": {"protocol": "actions", "split": "test"},
    "hmdb51": {"protocol": "actions", "split": "test"},
}


def protocol_of(store: Store) -> Mapping[str, object]:
    """How the papers evaluate the data set of a store; {} for any other data set."""
    return PROTOCOLS.get(dataset_of(store), {})


SHORT_NAMES = {  # of backbones in the labels of rows
    "resnet50": "ResNet-50",
    "vit_base_patch8_224.dino": "DINO-B/8",
}
RESNET, DINO = "resnet50", "vit_base_patch8_224.dino"
LAST = (-1,)  # the last block of the store
SAME_VIEW = (
    "the paper draws new pixel augmentations at every step; a store has the clean view, and as "
    "many fixed augmented ones as it was extracted with"
)
SUPERVISED = (
    "the paper trains all layers of the backbone, which is frozen here; its accuracy is that of a "
    f"probe with the same labels; {SAME_VIEW}"
)
DRAWN = (
    f"{SUPERVISED}; the paper does not say which clips have labels, here the seed draws them, one "
    "of each class first"
)
GYM99, GYM288 = "gym99", "gym288"  # the action of every clip: which classes its labels are of
FROZEN = f"the paper trains the last stage of the backbone, which is frozen here; {SAME_VIEW}"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An experiment.

    Attributes:
        dataset: the data set whose store it reads by default.
        fuse: how it trains.
        evaluate: settings of phase 3 that differ from the defaults, by field; those of the store's
            data set where there are none.
        label: what a table calls it; the recipe's name where it is empty.
        published: task -> the published mean and 2 std (None where not given), as the paper prints
            them: classification and AP in percent, progression and tau from 0 to 1.
            "classification@10%" is what a tenth of the labels gives.
        backbone: the published row's backbone, as timm names it; empty where any will do.
        source: table and row of the paper.
        status: "exact": the published system, given the store; "variant": something of it cannot
            come from a cache of frozen tokens; "control": ours, not a paper's.
        differs: what a variant lacks.
        unpublished: why a paper's row has no published number here.
        caveat: a doubt about the published number, printed beside it.
        begins_from: the recipe whose run, of the same seed, gives its first weights, unless `init`
            names one.
        first_runs: recipes whose runs, of the same seed, give parts of its first weights, unless it
            names runs; `fuse ablate` trains each once for all rows that begin from it.
        first_words: `key=value` words that those runs have beside the user's.
        per_action: whether it is one model for each action, as the rows with a star are: a run
            needs `data.action`, and a table averages the runs of all actions.
        parameters: millions of trained parameters that the paper prints; `fuse train` logs its own.
        count_parameters: counts those of a config at the paper's sizes, by part of the model.
        stores: names of the stores that it reads, where they have some.
        spread: what the paper wants beside a mean over seeds.
    """

    dataset: str
    fuse: SystemConfig
    evaluate: Mapping[str, object] = field(default_factory=dict)
    label: str = ""
    published: Published = field(default_factory=dict)
    backbone: str = ""
    source: str = ""
    status: Literal["exact", "variant", "control"] = "control"
    differs: str = ""
    unpublished: str = ""
    caveat: str = ""
    begins_from: str = ""
    first_runs: tuple[str, ...] = ()
    first_words: tuple[str, ...] = ()
    per_action: bool = False
    parameters: float | None = None
    count_parameters: Callable[[SystemConfig], Mapping[str, int]] | None = None
    stores: tuple[str, ...] = ()
    spread: Literal["2 std", "standard error"] = "2 std"

    def is_on_its_backbone(self, store: StoreIdentity) -> bool:
        """Whether a store is of the published row's backbone."""
        return _model_of(store.architecture).startswith(_model_of(self.backbone))

    def is_of_kind(self, store: StoreIdentity) -> bool:
        """Whether a store is of a backbone of the published row's kind: a ResNet, or none."""
        names = (self.backbone, store.architecture)
        return len({_model_of(name).startswith("resnet") for name in names}) == 1

    def label_on(self, label: str, store: StoreIdentity) -> str:
        """The label of its row where a store of another backbone feeds it.

        The backbone that it names is replaced; one that names none is followed by it.
        """
        name = SHORT_NAMES.get(self.backbone, "")
        if name and label.startswith(name):
            return store.architecture + label.removeprefix(name)
        return f"{label} on {store.architecture}"


def _model_of(backbone: str) -> str:
    """A backbone without the library that builds it and the weights that it has there.

    >>> _model_of("torchvision:resnet18"), _model_of("vit_base_patch8_224.dino")
    ('resnet18', 'vit_base_patch8_224')
    """
    return backbone.rpartition(":")[2].partition(".")[0]


def percent(
    classification: float | None = None,
    progression: float | None = None,
    tau: float | None = None,
    ap5: float | None = None,
    *,
    ap10: float | None = None,
    ap15: float | None = None,
    spread: tuple[float | None, ...] = (),
) -> Published:
    """Published numbers in the order of the papers' columns; None where the paper has none.

    >>> percent(93.07, tau=0.985)
    {'classification': (93.07, None), 'tau': (0.985, None)}
    """
    tasks = ("classification", "progression", "tau", "ap@5", "ap@10", "ap@15")
    values = (classification, progression, tau, ap5, ap10, ap15)
    found = zip_longest(tasks, values, spread)
    return {task: (value, two_std) for task, value, two_std in found if value is not None}


def by_labels(tenth: float, half: float, all_of_them: float) -> Published:
    """Published classification with 10, 50 and 100 % of the labels."""
    shares = {"classification@10%": (tenth, None), "classification@50%": (half, None)}
    return {**shares, **percent(all_of_them)}


def documented(name: str, make: Callable[[], Recipe]) -> Callable[[], Recipe]:
    """The recipe with a docstring that ends with its command, source, numbers, status and cost.

    They are made from its fields, so that they say what is run.
    """
    recipe = make()
    words = [name, "data.action=ACTION"] if recipe.per_action else [name]
    stores = " ".join(f"--store {store}=PATH" for store in recipe.stores) or "--store STORE"
    numbers = ", ".join(
        f"{task} {as_printed(task, *published)}" for task, published in recipe.published.items()
    )
    facts = {
        "command": f"fuse train {' '.join(words)} {stores}",
        "source": f"{recipe.source} ({recipe.label})" if recipe.source else "",
        "published": (numbers or recipe.unpublished or "nothing")
        + (f" ({recipe.caveat})" if recipe.caveat else ""),
        "first weights": _first_weights(recipe),
        "backbone of the paper": PRE_TRAINED.get(recipe.backbone, recipe.backbone),
        "parameters of the paper": f"{recipe.parameters:g} million" if recipe.parameters else "",
        "sampling": _sampling(recipe.fuse),
        recipe.status: recipe.differs
        or {"exact": "the published system"}.get(recipe.status, "ours, exact on cached features"),
        "cost": _cost(recipe),
    }
    lines = [f"{fact}: {text}" for fact, text in facts.items() if text]
    make.__doc__ = "\n".join([cleandoc(make.__doc__ or recipe.label), "", *lines])
    return make


def _first_weights(recipe: Recipe) -> str:
    """The runs that a recipe begins from, in words."""
    if recipe.begins_from:
        return f"a run of {recipe.begins_from}"
    if recipe.first_runs:
        return f"runs of {', '.join(recipe.first_runs)}, which `fuse ablate` trains"
    return ""


def describe(name: str, make: Callable[[], Recipe]) -> str:
    """A recipe as text: its name and its docstring."""
    lines = [line for line in (make.__doc__ or "").splitlines() if line]
    return "\n".join([name, *(f"    {line}" for line in lines)])


def _sampling(config: SystemConfig) -> str:
    """Which frames a window has, in words; fuse/config/windows.py describes each kind."""
    if not (config.optim.epochs and isinstance(config, FuseConfig)):
        return ""
    kind = config.data.sampling
    whose = {"paper": "as in the text", "even": "as in the text", "uniform": "of the whole clip"}
    return f"{kind}, {whose.get(kind, 'as the released code does')}"


def _cost(recipe: Recipe) -> str:
    if not recipe.fuse.is_trained:
        return "one pass over the store, nothing is trained"
    config = system_of(recipe.fuse).stages(recipe.fuse)[-1].config
    batch = config.data.batch_clips
    each = f"2 x {config.data.num_frames} frames"
    if not isinstance(config, FuseConfig):
        each = f"{config.units_per_clip} units"
    frames = f"of {batch} clips, {each} each"
    clips = config.data.num_train_clips or TRAIN_CLIPS.get(recipe.dataset)
    if clips is None:
        return f"{config.optim.epochs} epochs, steps {frames}"
    clips = int(config.data.label_share * clips)
    steps = ceil(clips / batch) * config.optim.epochs
    all_of_them = f" in all {NUM_ACTIONS} runs" if recipe.per_action else ""
    return (
        f"{steps:,} steps {frames} ({config.optim.epochs} epochs of {clips:,} clips){all_of_them}"
    )


def variant(
    paper: str, dataset: str, fuse: FuseConfig, source: str, published: Published, **fields: Any
) -> Recipe:
    """A row of a paper of which something cannot come from a cache of frozen tokens."""
    return Recipe(
        dataset=dataset,
        fuse=fuse,
        evaluate=PROTOCOLS[dataset],
        published=published,
        source=f"{paper}, {source}",
        status="variant",
        **fields,
    )


def changed(
    base: Callable[[], Recipe], summary: str, words: Sequence[str] = (), **fields: Any
) -> Callable[[], Recipe]:
    """A recipe that is another one with some words of its training and some fields changed.

    Args:
        base: the other recipe.
        summary: first line of the docstring.
        words: `key=value`, as for `fuse train`.
        **fields: of Recipe.
    """

    def make() -> Recipe:
        recipe = base()
        fuse = apply_overrides(recipe.fuse, words, root="fuse")
        return replace(recipe, **{"fuse": fuse, **fields})

    make.__doc__ = summary
    return make


def mvformer(
    *,
    pooling: PoolingConfig,
    epochs: int = 500,
    output: str = "one",
    capacity: int = 2,
    embedding: int = 128,
    embed_frames: int = 1000,
    **data: Any,
) -> FuseConfig:
    """MV-Former as released: `capacity` widens the two layers before fusion (256 times it)."""
    return FuseConfig(
        data=DataConfig(**{"num_frames": 80, "sampling": "official", **data}),
        pooling=pooling,
        temporal=TemporalConfig.model_validate(
            {"fc_width": 256 * capacity, "embedding": embedding, "output": output}
        ),
        optim=OptimConfig(epochs=epochs),
        embed_frames=embed_frames,
    )


def late_fusion(
    *, epochs: int = 300, layers: int = 3, embed_frames: int = 1000, **data: Any
) -> FuseConfig:
    """CARL's frame-level encoder: one vector a frame, two layers, a transformer."""
    return FuseConfig(
        data=DataConfig(**{"num_frames": 80, "sampling": "official", **data}),
        pooling=MaxConfig(blocks=LAST),
        temporal=TemporalConfig(layers=layers),
        optim=OptimConfig(epochs=epochs),
        embed_frames=embed_frames,
    )
