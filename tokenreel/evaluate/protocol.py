"""Protocol of an evaluation: those of the literature by name, and the values a user may change.

    carl      CARL, MV-Former and VSP on Penn Action and Pouring: multinomial logistic regression,
              all frames, squared distances, nearest frames of other validation clips.  A clip that
              lacks a phase is an error, as in the released code.
    finegym   the same papers on FineGym: one linear layer by SGD on the frames of 10 events at a
              time, learning rate 50, at 10, 50 and 100 % of the events.  Accuracy only.
    tags      scores of the tags of whole clips: mean average precision, precision, recall
              and F1 at a threshold, and accuracy where a clip has one tag; that of files of such
              scores.
    actions   scores of the actions of whole clips, of which each has one: accuracy of the first and
              of the first five, and its mean over classes; that of files of such scores.
    pairs     vectors of clips beside those of their texts: retrieval in both directions, and
              zero-shot classification; that of files of such pairs.
    numbers   a number predicted for each clip: mean squared error.
    tcc       TCC and what follows it (LAV, GTA): an RBF SVM, stride 5, TCC's boundaries, few-shot
              classification instead of retrieval.

What the metrics reward: classification, phases that lie apart; progression, a steady change with
time; tau, order alone; AP@K, near frames of the same phase.  The position of a frame in its clip
gives much of each, and all of tau: every evaluation has the clock (data/clock.py) as a control.

A value comes from the user if given, else from the recipe (if it uses the same protocol), else from
the protocol.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.cache.errors import EmbeddingFileError
from tokenreel.cache.plugins import Table, nearest

ProtocolName = Literal["carl", "finegym", "tcc", "tags", "actions", "pairs", "numbers"]
Classifier = Literal["logistic", "svc", "sgd"]
Labelled = Literal["prefix", "stratified"]
AbsentTag = Literal["left_out", "zero", "nan"]  # methods/tags.py explains them
LATER = ("split", "threshold", "absent_tag")  # settings that earlier versions did not have
AbsentRule = Literal["error", "tcc2021", "lav", "casa"]  # methods/progression.py explains them


TASKS = Table(
    "metric",
    "tokenreel.tasks",
    {
        name: f"tokenreel.evaluate.tasks.{module}:TASK"
        for name, module in {
            "classification": "classification",
            "progression": "progression",
            "tau": "tau",
            "retrieval": "retrieval",
            "few-shot": "few_shot",
            "map": "mean_average_precision",
            "f1": "f1",
            "top": "top",
            "mean-class": "mean_class",
            "t2v": "text_to_video",
            "v2t": "video_to_text",
            "zero-shot": "zero_shot",
            "mse": "squared_error",
        }.items()
    },
)


def _known_task(name: str) -> str:
    if name not in TASKS:
        TASKS.load(name)  # raises: the nearest name, and where plugins come from
    return name


TaskName = Annotated[str, AfterValidator(_known_task)]


class Settings(BaseModel):
    """A protocol with every value set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: ProtocolName = Field(description="name of the protocol")
    tasks: tuple[TaskName, ...] = Field(description="metrics to compute")
    classifier: Classifier = Field(description="logistic regression, RBF SVM or a layer by SGD")
    fractions: tuple[float, ...] = Field(description="shares of the training clips with labels")
    labelled: Labelled = Field(
        default="prefix",
        description="the first clips, as published, or a stratified draw",
    )
    seed: int = Field(default=0, ge=0, description="seed of that draw and of SGD")
    absent_phase: AbsentRule = Field(description="progression target where a clip lacks a phase")
    tau_stride: int = Field(ge=1, description="frames between two that tau uses")
    retrieval_stride: int = Field(ge=1, description="frames between two that AP@K uses")
    ks: tuple[int, ...] = Field(default=(5, 10, 15), min_length=1, description="the K of AP@K")
    shots: tuple[int, ...] = Field(default=(1, 5, 10), description="labelled clips of few-shot")
    episodes: int = Field(default=50, ge=1, description="draws of few-shot, averaged")
    learning_rate: float = Field(default=50.0, gt=0, description="of SGD, for unit embeddings")
    epochs: int = Field(default=100, ge=1, description="epochs of SGD")
    split: Literal["val", "test"] = Field(
        default="val", description="whose clips are judged by their tags; all else is of val"
    )
    threshold: float = Field(
        default=0.3, gt=0, lt=1, description="a tag is decided where its score is above it"
    )
    absent_tag: AbsentTag = Field(
        default="left_out",
        description="what a tag without a clip, or a clip without a tag, counts in a mean",
    )

    def words(self) -> str:
        """All values as canonical text: results of other settings are not reused."""
        values = self.model_dump(mode="json")
        for name in LATER:  # rows of earlier versions are of their defaults
            if values[name] == type(self).model_fields[name].default:
                del values[name]
        return canonical_json(values).decode()


PROTOCOLS: dict[ProtocolName, Settings] = {
    "carl": Settings(
        protocol="carl",
        tasks=("classification", "progression", "tau", "retrieval"),
        classifier="logistic",
        fractions=(1.0,),
        absent_phase="error",
        tau_stride=2,
        retrieval_stride=2,
    ),
    "finegym": Settings(
        protocol="finegym",
        tasks=("classification",),
        classifier="sgd",
        fractions=(0.1, 0.5, 1.0),
        absent_phase="error",
        tau_stride=5,
        retrieval_stride=5,
    ),
    "tcc": Settings(
        protocol="tcc",
        tasks=("classification", "progression", "tau", "few-shot"),
        classifier="svc",
        fractions=(0.1, 0.5, 1.0),
        absent_phase="tcc2021",
        tau_stride=5,
        retrieval_stride=5,
    ),
    "tags": Settings(
        protocol="tags",
        tasks=("map", "f1", "top"),
        classifier="logistic",
        fractions=(1.0,),
        absent_phase="error",
        tau_stride=2,
        retrieval_stride=2,
    ),
    "actions": Settings(
        protocol="actions",
        tasks=("top", "mean-class"),
        classifier="logistic",
        fractions=(1.0,),
        absent_phase="error",
        tau_stride=2,
        retrieval_stride=2,
    ),
    "pairs": Settings(
        protocol="pairs",
        tasks=("t2v", "v2t", "zero-shot"),
        classifier="logistic",
        fractions=(1.0,),
        absent_phase="error",
        tau_stride=2,
        retrieval_stride=2,
    ),
    "numbers": Settings(
        protocol="numbers",
        tasks=("mse",),
        classifier="logistic",
        fractions=(1.0,),
        absent_phase="error",
        tau_stride=2,
        retrieval_stride=2,
    ),
}


class EvaluateConfig(BaseModel):
    """Protocol settings that a user changes; None keeps the value of the recipe or the protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: tuple[ProtocolName, ...] | None = Field(
        default=None,
        min_length=1,
        description="carl, finegym, tcc, tags, actions, pairs, numbers, or several; tags, actions "
        "or pairs for files of those, else carl",
    )
    tasks: tuple[TaskName, ...] | None = None
    classifier: Classifier | None = None
    fractions: tuple[float, ...] | None = None
    labelled: Labelled | None = None
    seed: int | None = None
    absent_phase: AbsentRule | None = None
    tau_stride: int | None = Field(default=None, ge=1)
    retrieval_stride: int | None = Field(default=None, ge=1)
    ks: tuple[int, ...] | None = None
    shots: tuple[int, ...] | None = None
    episodes: int | None = None
    learning_rate: float | None = None
    epochs: int | None = None
    split: Literal["val", "test"] | None = None
    threshold: float | None = Field(default=None, gt=0, lt=1)
    absent_tag: AbsentTag | None = None

    @field_validator("protocol", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else list(value or ())
        if value is not None and (not names or set(names) - PROTOCOLS.keys()):
            raise ValueError("choose carl, tcc, finegym, tags, actions, pairs or numbers")
        return value if value is None else tuple(names)

    @field_validator("fractions")
    @classmethod
    def _is_share(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and not (value and all(0 < share <= 1 for share in value)):
            raise ValueError("shares lie above 0 and up to 1, such as 0.1,0.5,1")
        return value

    @field_validator("ks", "shots")
    @classmethod
    def _is_count(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and not (value and all(count > 0 for count in value)):
            raise ValueError("counts are 1 or more, such as 5,10,15")
        return value

    def changes(self) -> dict[str, Any]:
        """The values that are set, without the protocol."""
        return self.model_dump(exclude_none=True, exclude={"protocol"})


def settings_of(file: EmbeddingFile, config: EvaluateConfig) -> list[Settings]:
    """The settings of each requested protocol for a file, which brings some.

    Args:
        file: of the embeddings; the object `evaluate` of its provenance is that of its recipe or
            data set, whose protocol holds for files of its kind: frames, tags, pairs or numbers.
        config: the user's settings.

    Raises:
        EmbeddingFileError: it sets what does not exist, or to a value that is none.
    """
    own = dict(file.provenance.get("evaluate", {}))
    own["protocol"] = _fitting_protocol(file, own.get("protocol"))
    try:
        return resolve(config, own)
    except ValidationError as error:
        wrong = "; ".join(_wrong_setting(item) for item in error.errors())
        raise EmbeddingFileError(f"{file.path}: settings of its recipe: {wrong}") from error


def _fitting_protocol(file: EmbeddingFile, named: Any) -> Any:
    """The protocol that a recipe or data set names, or that of the file where it is of others.

    Frames, scores of tags, pairs and numbers have protocols of their own; what is no protocol is
    left for `resolve` to refuse.
    """
    fitting: tuple[str, ...]
    if file.is_of_tags:
        fitting = ("actions", "tags") if _is_of_actions(file) else ("tags", "actions")
    elif file.provenance.get("pairs"):
        fitting = ("pairs",)
    elif file.unit == "clip" and not file.class_names and any(c.targets.size for c in file.clips):
        fitting = ("numbers",)
    elif file.unit != "clip":
        fitting = ("carl", "finegym", "tcc")
    else:
        return named
    names = named if isinstance(named, (list, tuple)) else [named]
    is_known = all(isinstance(name, str) and name in PROTOCOLS for name in names)
    is_other = named is None or (is_known and not set(names) & set(fitting))
    return fitting[0] if is_other else named


def _is_of_actions(file: EmbeddingFile) -> bool:
    """Whether the classes of a file are the actions of its clips, each of one at most."""
    known = {name: place for place, name in enumerate(file.class_names)}
    places = np.array([known.get(clip.action, -1) for clip in file.clips])
    targets = np.stack([clip.targets for clip in file.clips])
    wanted = np.zeros_like(targets)
    has = np.flatnonzero(places >= 0)
    wanted[has, places[has]] = 1
    return bool(len(has)) and bool((wanted == targets).all())


def _wrong_setting(item: Mapping[str, Any]) -> str:
    key = ".".join(map(str, ("evaluate", *item["loc"])))
    if item["type"] == "extra_forbidden":
        known = list(EvaluateConfig.model_fields)
        near = nearest(str(item["loc"][-1]), known)
        return f"{key}: no such setting{near} (there are {', '.join(known)})"
    what = str(item["msg"]).removeprefix("Value error, ")
    return f"{key} is {item['input']!r}: {what[:1].lower()}{what[1:]}"


def resolve(config: EvaluateConfig, recipe: Mapping[str, Any]) -> list[Settings]:
    """The settings of each requested protocol.

    Args:
        config: the user's settings.
        recipe: the fields of EvaluateConfig that the recipe of the embeddings sets.

    Raises:
        ValueError: a field or value of the recipe that does not exist (pydantic's).

    >>> resolve(EvaluateConfig(protocol="tcc"), {"tau_stride": 2})[0].tau_stride
    5
    """
    own = EvaluateConfig.model_validate(dict(recipe))
    own_names = own.protocol or ("carl",)
    found = []
    for name in config.protocol or own_names:
        values = PROTOCOLS[name].model_dump()
        values |= own.changes() if name in own_names else {}
        found.append(Settings.model_validate(values | config.changes()))
    return found
