"""FTP as a system: its clip maps, texts, stages, losses and scores of clips."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.data.epoch_plan import Draw
from tokenreel.fuse.systems.base import Embedded, Shapes, Shared, Stage, System
from tokenreel.fuse.systems.ftp.config import FtpConfig
from tokenreel.fuse.systems.ftp.processor_runs import assign_prompts
from tokenreel.fuse.systems.ftp.requirements import require_all
from tokenreel.fuse.systems.ftp.units import judged_views, segment_units

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokenreel.fuse.data.batches import Batch
    from tokenreel.fuse.data.source import TokenSource, Wanted
    from tokenreel.fuse.distributed.world import World
    from tokenreel.fuse.systems.ftp.layers import ClipMap


class Ftp(System):
    """Actions of whole clips, or clips beside their texts, from a store of clip maps."""

    config = FtpConfig

    def requirements(self, config: FtpConfig, stores: StoreSet) -> None:
        """A store of clip maps, with texts for stage 1, actions and processors for stage 2."""
        require_all(config, stores)

    def wanted(self, config: FtpConfig, stores: StoreSet) -> "Mapping[str, Wanted]":
        """The last block, of all stored views where steps draw from them."""
        from tokenreel.fuse.data.source import Wanted

        name = next(iter(stores))
        last = max(stores[name].identity.blocks)
        every_view = config.data.views != "clean"
        return {name: Wanted((last,), False, every_view, frozenset([None]))}

    def draw(self, record: ClipRecord, config: FtpConfig, rng: np.random.Generator) -> Draw:
        """The frames of a clip, (V, T), V repeats: evenly spaced, or drawn within equal parts."""
        even = segment_units(record.num_frames, config.data.num_frames, 0, 1, in_a_row=False)
        if config.pooled_grid is not None:
            even = np.zeros(1, np.int64)
        each = np.tile(even, (config.repeats, 1))
        if config.draws == "sparse" and config.pooled_grid is None:
            places = np.arange(each.shape[1]) + rng.random(each.shape)
            each = (places * record.num_frames / each.shape[1]).astype(np.int64)
        return Draw(each, np.ones(each.shape, bool))

    def stages(self, config: FtpConfig) -> list[Stage]:
        """Alignment, classification, or one after the other."""
        parts = []
        if config.stage != "classify" and config.prompts:
            data = config.data.with_(batch_clips=config.align.batch_clips, clips_per_action=None)
            first = config.with_(
                stage="align", optim=config.align.optim, data=data, repeats=1, class_texts=None
            )
            parts.append(Stage("align", first))
        if config.stage != "align":
            parts.append(Stage("classify", config.with_(stage="classify")))
        return parts

    def build(self, config: FtpConfig, shapes: Shapes) -> "nn.Module":
        """The model, for the maps of its store and their actions."""
        from tokenreel.fuse.systems.ftp.model import FtpModel, MapShape

        stream = shapes.first
        grid = config.pooled_grid or stream.grid
        frames = config.data.num_frames
        if config.pooled_grid is not None:
            frames = stream.grid[0] * stream.grid[1] - grid[0] * grid[1]
        return FtpModel(config, MapShape(frames, grid, stream.dim), shapes.class_names)

    def begin(self, model: Any, config: FtpConfig) -> None:
        """The processors of runs of stage 1."""
        from tokenreel.fuse.runs.checkpoint import initialise
        from tokenreel.fuse.systems.ftp.model import own_weights

        for run, prompts in assign_prompts(config.prompts, config.processors):
            if prompts:
                own = partial(own_weights, prompts=prompts, names=("processors",))
                initialise(run.path, model, config, own)

    def initialise(self, model: Any, config: FtpConfig) -> None:
        """All of another run that this one has, but for the last layer and processors it is given.

        Its actions may be others, as those of Kinetics-710 are.
        """
        from tokenreel.fuse.runs.checkpoint import initialise
        from tokenreel.fuse.systems.ftp.model import own_weights

        held = set(model.state_dict())
        parts = ["alignments", "integrations", "conv", "blocks", "head"]
        parts += [] if config.processors else ["processors"]

        def shared(state: "Mapping[str, Tensor]") -> "Mapping[str, Tensor]":
            found = own_weights(state, config.prompts, parts)
            return {
                name: value
                for name, value in found.items()
                if name in held and not name.startswith("head.last.")
            }

        assert config.init is not None
        initialise(Path(config.init), model, config, shared)

    def parameters(self, model: Any, config: FtpConfig) -> "list[Any]":
        """Those of the stage; all others are frozen."""
        from tokenreel.fuse.systems.ftp.steps import stage_parameters

        return stage_parameters(model, config.stage)

    def clip(self, model: Any, config: FtpConfig) -> "Tensor":
        """Clip the gradients of stage 1 for each prompt alone, so that none depends on another."""
        from tokenreel.fuse.systems.ftp.steps import clip_gradients

        return clip_gradients(model, config)

    def loss(
        self,
        model: Any,
        batch: "Batch",
        config: FtpConfig,
        *,
        rng: np.random.Generator,
        world: "World",
        shared: Any = None,
    ) -> "Tensor":
        """InfoNCE of each prompt, summed; or cross-entropy of the actions."""
        from tokenreel.fuse.systems.ftp.steps import alignment_loss, class_loss, maps_of_batch

        clips = maps_of_batch(model, batch) if shared is None else shared
        step = alignment_loss if config.stage == "align" else class_loss
        return step(model, batch, config, rng, world, clips)

    def share(self, models: Sequence[Any], batch: "Batch") -> AbstractContextManager[Shared]:
        """The maps of the batch, which all runs in lock-step read; they have no gradients."""
        from tokenreel.fuse.systems.ftp.steps import share_maps

        return nullcontext(share_maps(models, batch) if len(models) > 1 else {})

    def score_names(self, config: FtpConfig, provenance: Mapping[str, Any]) -> tuple[str, ...]:
        """The actions; of stage 1 alone those that texts name."""
        if config.stage == "align":
            return tuple(provenance.get("pairs", {}).get("classes", ()))
        return super().score_names(config, provenance)

    def embed(
        self, model: Any, config: FtpConfig, source: "TokenSource", record: ClipRecord
    ) -> Embedded:
        """Scores of the actions (1, K); of stage 1 alone, vectors of the clip and of its texts."""
        [found] = self.embed_each([(model, config)], source, record)
        return found

    def embed_each(
        self, models: Sequence[tuple[Any, Any]], source: "TokenSource", record: ClipRecord
    ) -> Iterator[Embedded]:
        """As :meth:`embed` of each; models of the same maps share what is read."""
        import torch

        from tokenreel.fuse.systems.ftp.steps import map_key, maps_of

        in_a_row = source.store.identity.frames_per_window > 1
        read: dict[Hashable, ClipMap] = {}
        for model, config in models:

            def clips(
                view: int, segment: int, model: Any = model, config: FtpConfig = config
            ) -> "ClipMap":
                units = units_of(record.num_frames, config, segment, in_a_row=in_a_row)
                key = view, units.tobytes(), map_key(model)
                if key not in read:
                    distinct, places = np.unique(units, return_inverse=True)
                    frames = source.frames(record.clip_id, distinct, view=view)
                    gather = torch.from_numpy(places[None]).to(source.device)
                    read[key] = maps_of(model, frames, source.blocks[-1], gather)
                return read[key]

            yield _embed(model, config, source, record, clips)


def _embed(
    model: Any,
    config: FtpConfig,
    source: "TokenSource",
    record: ClipRecord,
    clips: "Callable[[int, int], ClipMap]",
) -> Embedded:
    """What a model makes of a clip.

    Args:
        model: trained.
        config: of its run.
        source: of the clip.
        record: of the clip.
        clips: the map of a view and a segment of it.
    """
    import torch

    from tokenreel.fuse.systems.ftp.steps import class_scores, pair_vectors

    if config.stage == "align":
        own = clips(0, 0)
        values, targets = pair_vectors(model, config, own, record.clip_id)
        if config.class_texts is not None:
            values = np.concatenate([values, class_scores(model, config, own)])
        return Embedded(values[None], of_clip=True, targets=targets)
    features = [
        model.features(clips(view, segment))
        for view in judged_views(source.store)
        for segment in range(config.segments)
    ]
    scores = [model.head.last(x).float().softmax(dim=1) for x in features]
    means = (torch.stack(each).mean(dim=0).cpu().numpy() for each in (scores, features))
    values, seen = means
    return Embedded(values, of_clip=True, features=seen)


def units_of(
    num_units: int, config: FtpConfig, segment: int = 0, *, in_a_row: bool = False
) -> NDArray[np.int64]:
    """The units that a map is read from: T of a segment, or the one of a pooled map.

    Stage 1, and steps, read one segment of all: T units, evenly spaced.

    >>> units_of(16, FtpConfig()).tolist(), units_of(3, FtpConfig()).tolist()
    ([1, 3, 5, 7, 9, 11, 13, 15], [0, 0, 0, 1, 1, 2, 2, 2])
    """
    if config.pooled_grid is not None:
        return np.zeros(1, np.int64)
    segments = config.segments if config.stage != "align" else 1
    return segment_units(num_units, config.data.num_frames, segment, segments, in_a_row=in_a_row)


SYSTEM = Ftp
