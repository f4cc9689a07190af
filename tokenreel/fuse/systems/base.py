"""What a system is: the one interface between a way to train on tokens and the training loop.

A system of ours is a folder here whose `system.py` names it SYSTEM; a package adds another by the
entry point `tokenreel.systems`.  Its methods import torch themselves where they need it: the
config of a run is checked before torch is imported.

Shapes: B clips, V sequences of each, T units of a sequence, C channels, K scores of a clip.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.registry import SYSTEMS
from tokenreel.fuse.config.system import SystemConfig
from tokenreel.fuse.data.epoch_plan import Draw, Sampling, shuffled_batches
from tokenreel.fuse.data.requirements import (
    actions_of,
    class_offsets,
    grid_of_identity,
    require_clips,
    require_training_clips,
    training_clips,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tokenreel.fuse.data.batches import Batch
    from tokenreel.fuse.data.source import TokenSource, Wanted
    from tokenreel.fuse.distributed.world import World


@dataclass(frozen=True)
class StreamShape:
    """The sizes of what a store holds.

    Attributes:
        blocks: of its tokens.
        dim: channels D of a token of one block, and of a CLS vector.
        grid: rows and columns of the tokens of a unit, as its codec keeps them.
    """

    blocks: tuple[int, ...]
    dim: int
    grid: tuple[int, int]


@dataclass(frozen=True)
class Shapes:
    """The sizes that a model is built for.

    Attributes:
        streams: of each store, by its name.
        num_classes: phases to tell apart, for a supervised loss.
        class_names: tags of clips to tell apart, in the order of Batch.targets; or their actions,
            sorted, where those are learned.
        clips_of: training clips of each tag that has some.
    """

    streams: Mapping[str, StreamShape]
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    clips_of: Mapping[str, int] = field(default_factory=dict)

    @property
    def first(self) -> StreamShape:
        """Those of the first store."""
        return next(iter(self.streams.values()))


@dataclass(frozen=True)
class Stage:
    """A part of a run with its own optimiser.

    Attributes:
        name: such as "train".
        config: that its steps are taken with; a system may change any field, and add others.
    """

    name: str
    config: SystemConfig


@dataclass(frozen=True, eq=False)
class Embedded:
    """The embedding of a clip.

    Attributes:
        values: float32 (T, C), a row a unit of the clip; or (1, K), scores of the whole clip.
        of_clip: whether they are of the whole clip.
        features: (1, F) what the last layer of a classifier sees of the clip, for pictures; they
            are written beside the embeddings; None without any.
        targets: (M,) what a metric compares them with; None for the clip's tags, or its action.
    """

    values: NDArray[np.float32]
    of_clip: bool = False
    targets: NDArray[np.float64] | None = None
    features: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Portable:
    """A model as plain torch computes it, for `torch.export`.

    Attributes:
        module: takes the inputs by name, float32, and gives embeddings (T, C).
        inputs: name -> sizes of a row; all inputs have T rows.
        longest: most rows T at a time.
        says: how an input is made and a longer clip cut, in a sentence or two.
    """

    module: "nn.Module"
    inputs: Mapping[str, tuple[int, ...]]
    longest: int
    says: str


@dataclass(frozen=True, eq=False)
class Explained:
    """Why a model scores a clip as it does.

    Attributes:
        class_names: of the K scores.
        scores: float32 (K,).
        decided: columns that are explained: of scores above a threshold, else of the highest.
        units: int64 (U,), the rows of the clip in its stores that the model sees, ascending.
        maps: stream -> float32 (U, rows, columns), how much each place of a unit's picture adds to
            the decided scores, 0 or more; only streams whose units have places.
        attention: stream -> float32 (U,), the share of the attention that each unit has.
        stores: stream -> the name of its store.
    """

    class_names: tuple[str, ...]
    scores: NDArray[np.float32]
    decided: tuple[int, ...]
    units: NDArray[np.int64]
    maps: Mapping[str, NDArray[np.float32]]
    attention: Mapping[str, NDArray[np.float32]]
    stores: Mapping[str, str]


Shared = Mapping[Any, Any]  # model -> what `share` computed for it


class System(Protocol):
    """A way to train on tokens.  A subclass has the defaults of what it does not define.

    Methods are given the config of the stage that is trained, those of `embed` that of the run.
    """

    config: type[SystemConfig]

    def requirements(self, config: Any, stores: StoreSet) -> None:
        """Refuse, before anything is trained, stores without what a config needs.

        Raises:
            UsageError: what is missing, with the command that would make it.
        """
        ...

    def wanted(self, config: Any, stores: StoreSet) -> "Mapping[str, Wanted]":
        """What a config reads of each store, by its name.

        Raises:
            UsageError: a store lacks it.
        """
        ...

    def batches(
        self, records: Sequence[ClipRecord], config: Any, rng: np.random.Generator
    ) -> list[list[int]]:
        """Which clips step together in an epoch, by their places among the records.

        By default all in a random order, `data.batch_clips` at a time.
        """
        return shuffled_batches(records, config.data.batch_clips, rng)

    def draw(self, record: ClipRecord, config: Any, rng: np.random.Generator) -> Draw:
        """Which units of a clip a step takes: as many of every clip."""
        ...

    def build(self, config: Any, shapes: Shapes) -> "nn.Module":
        """The model, with weights that depend on config.seed alone."""
        ...

    def begin(self, model: Any, config: Any) -> None:
        """Give a model the weights that a run begins with, such as pre-trained parts.

        It is called before the first step of a run, not where a checkpoint has the weights.  By
        default they stay those of :meth:`build`.

        Raises:
            UsageError: weights that cannot be had.
        """

    def loss(
        self,
        model: Any,
        batch: "Batch",
        config: Any,
        *,
        rng: np.random.Generator,
        world: "World",
        shared: Any = None,
    ) -> "Tensor":
        """The loss of a batch, a scalar in float32; in every process that of the whole batch.

        Args:
            model: of :meth:`build`, in training or evaluation mode.
            batch: the step; this process has the frames of its own clips alone.
            config: of the stage.
            rng: where augmentation and loss draw from, the same in every process.
            world: the processes that share the batch.
            shared: what :meth:`share` gave for the model, None where nothing is shared.
        """
        ...

    def embed(self, model: Any, config: Any, source: "TokenSource", record: ClipRecord) -> Embedded:
        """The embedding of a clip, by a model in evaluation mode."""
        ...

    def parameters(self, model: Any, config: Any) -> "list[Any]":
        """Parameters, or groups of them, as an optimiser of torch takes them.

        By default all those that are trained, in one group.
        """
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def stages(self, config: Any) -> list[Stage]:
        """The parts of a run, one after another.  By default one."""
        return [Stage("train", config)]

    def weights_from(self, state: "Mapping[str, Tensor]") -> "Mapping[str, Tensor]":
        """The part of the weights of another run that this one begins with.  By default all."""
        return state

    def initialise(self, model: Any, config: Any) -> None:
        """Load the weights of the run that `init` names.  By default :meth:`weights_from` it.

        Raises:
            UsageError: it has none, or nothing for this system.
            WrongIdentity: they are of another model.
        """
        from tokenreel.fuse.runs.checkpoint import initialise

        initialise(Path(config.init), model, config, self.weights_from)

    def clip(self, model: Any, config: Any) -> "Tensor":
        """Clip the gradients; returns their norm.  By default those of all parameters together."""
        from torch import nn

        return nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_grad_norm)

    # Further hooks, with defaults that suit most systems.

    def share(self, models: Sequence[Any], batch: "Batch") -> AbstractContextManager[Shared]:
        """What several models in lock-step compute on a batch once.  By default nothing.

        Inside the context each model computes its gradients, given its part; what is left of them
        is computed at its end.  A run must end with the bytes of the same run alone.
        """
        return nullcontext({})

    def shared_bytes(self, config: Any, source: "TokenSource") -> int:
        """Bytes that :meth:`share` holds for a model during a step."""
        return 0

    def embed_each(
        self, models: Sequence[tuple[Any, Any]], source: "TokenSource", record: ClipRecord
    ) -> Iterator[Embedded]:
        """The embeddings of a clip by several (model, config), which may share what they read."""
        for model, config in models:
            yield self.embed(model, config, source, record)

    def compile(self, model: Any) -> None:
        """Compile a model, with the dropout of a plain run.  By default all of it."""
        model.compile(options={"fallback_random": True})

    def score_names(self, config: Any, provenance: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the last values of the vector of a whole clip; () where they are no scores.

        By default those that the run has learned.

        Args:
            config: of a run.
            provenance: what its run.json says.
        """
        return tuple(provenance.get("class_names", ()))

    def classes_in(self, state: "Mapping[str, Tensor]") -> int | None:
        """The classes that trained weights tell apart; None: as many as the store has."""
        return None

    def attention(
        self, run: Path, model: Any, config: Any, source: "TokenSource"
    ) -> Callable[[ClipRecord], NDArray[np.float32]]:
        """Where a model looks: for a clip, float32 (T, E, N) over its tokens, by each query.

        Raises:
            UsageError: it has no attention to show.
        """
        raise UsageError(f"{run} is of system={config.system}, which has no attention to show")

    def explain(
        self, model: Any, config: Any, source: "TokenSource", record: ClipRecord, threshold: float
    ) -> Explained:
        """Why a model, in evaluation mode, scores a clip as it does.

        Args:
            model: of :meth:`build`.
            config: of the run.
            source: of the stores.
            record: the clip.
            threshold: a score above it is decided.

        Raises:
            UsageError: the system explains nothing.
        """
        raise UsageError(f"system={config.system} explains no scores of clips")

    def portable(self, run: Path, model: Any, config: Any, shapes: Shapes) -> Portable:
        """A trained model for whoever has torch and not this package.

        Raises:
            UsageError: it has no such form.
        """
        raise UsageError(
            f"{run} is of system={config.system}, which has no program of plain torch: its "
            "checkpoint.pt has the weights"
        )


def require_portable(run: Path, config: SystemConfig) -> None:
    """Raise UsageError for a run of a system that has no program of plain torch."""
    system = system_of(config)
    if type(system).portable is System.portable:
        system.portable(run, None, config, Shapes({}))


def system_of(config: SystemConfig) -> System:
    """The system of a config.

    Raises:
        UsageError: an unknown one, with the nearest.
    """
    found = SYSTEMS.load(config.system)
    made: System = found() if isinstance(found, type) else found
    return made


def sampling_of(config: SystemConfig) -> Sampling:
    """How the steps of a stage draw clips and units."""
    system = system_of(config)
    return Sampling(
        key=config.stream,
        data=config.data,
        batches=lambda records, rng: system.batches(records, config, rng),
        draw=lambda record, rng: system.draw(record, config, rng),
    )


def wanted_of(
    configs: Sequence[SystemConfig], stores: StoreSet
) -> "tuple[tuple[str, Wanted], ...]":
    """What any of some configs reads of each store, by name; the first is always among them.

    Raises:
        UsageError: a store lacks it.
    """
    from tokenreel.fuse.data.source import Wanted

    each = [
        system_of(stage.config).wanted(stage.config, stores)
        for config in configs
        for stage in system_of(config).stages(config)
    ]
    found = {name: [wanted[name] for wanted in each if name in wanted] for name in stores}
    first = next(iter(stores))
    return tuple(
        (name, Wanted.merged(some)) for name, some in found.items() if some or name == first
    )


def make_source(
    stores: StoreSet | Store,
    configs: Sequence[SystemConfig],
    device: "torch.device",
    **options: Any,
) -> "TokenSource":
    """The source of what some runs read: that of the first store, with the others.

    Args:
        stores: that they read.
        configs: of the runs.
        device: where frames go.
        options: those of :class:`TokenSource`.

    Raises:
        UsageError: a store lacks what a config wants, or the codes do not fit.
    """
    from tokenreel.fuse.data.source import TokenSource

    joined = StoreSet({"tokens": stores}) if isinstance(stores, Store) else stores
    sources: list[TokenSource] = []
    for name, wanted in wanted_of(configs, joined):
        taken = sum(source.in_memory_bytes for source in sources)
        source = TokenSource(joined[name], wanted, device, name=name, taken_bytes=taken, **options)
        sources.append(source)
    first, *others = sources
    first.others.update({source.name: source for source in others})
    return first


def shape_of_stream(identity: StoreIdentity) -> StreamShape:
    """The sizes of what a store of an identity holds."""
    return StreamShape(identity.blocks, identity.dim, grid_of_identity(identity))


def shapes_of(source: "TokenSource", config: SystemConfig | None = None) -> Shapes:
    """The sizes of what a source reads.

    Args:
        source: of the tokens.
        config: of a run; where it learns actions, they are the classes that it tells apart.
    """
    streams = {
        name: shape_of_stream(stream.store.identity) for name, stream in source.streams.items()
    }
    learned = config is not None and config.uses_actions
    names = actions_of(source.store) if learned else source.class_names
    return Shapes(streams, source.num_classes, names, _clips_of(source.store, config))


def shapes_of_stores(stores: StoreSet, config: SystemConfig) -> Shapes:
    """The sizes of some stores, as :func:`shapes_of` gives them once they are read."""
    streams = {name: shape_of_stream(store.identity) for name, store in stores.items()}
    tags = {tag for record in stores.records.values() for tag in record.tags}
    names = actions_of(stores.first) if config.uses_actions else tuple(sorted(tags))
    counts = _clips_of(stores.first, config)
    return Shapes(streams, class_offsets(stores.first)[1], names, counts)


def _clips_of(store: Store, config: SystemConfig | None) -> Counter[str]:
    """Training clips of each tag; those of the split train where no config chooses of them."""
    if config is None or not config.uses_tags:
        clips = store.select(split="train")
    else:
        clips = training_clips(config, store)
    return Counter(tag for clip in clips for tag in clip.tags)


def num_parameters(config: SystemConfig, shapes: Shapes) -> dict[str, int]:
    """Parameters that a config trains, by part of its model, which takes no memory for them."""
    import torch

    with torch.device("meta"):
        model = system_of(config).build(config, shapes)
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = name.partition(".")[0]
            counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def require_stores(config: SystemConfig, stores: StoreSet | Store) -> None:
    """Refuse, before anything is trained, stores without what a config needs.

    Raises:
        UsageError: what is missing, and the command that would make it.
    """
    joined = StoreSet({"tokens": stores}) if isinstance(stores, Store) else stores
    require_clips(config, joined.first)
    system_of(config).requirements(config, joined)
    require_training_clips(config, joined.first)
