"""STAN as a system: its stores, the scenes of a clip, its model, loss and scores."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.data.epoch_plan import Draw
from tokenreel.fuse.data.requirements import (
    clips_of,
    extract_command,
    require_clips,
    require_tags,
    require_training_clips,
)
from tokenreel.fuse.systems.base import Embedded, Shapes, System
from tokenreel.fuse.systems.stan.config import StanConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokenreel.fuse.data.batches import Batch
    from tokenreel.fuse.data.source import TokenSource, Wanted
    from tokenreel.fuse.distributed.world import World


class Stan(System):
    """Tags of whole clips from the scenes of one or two stores."""

    config = StanConfig

    def requirements(self, config: StanConfig, stores: StoreSet) -> None:
        """The stores of its streams, with tags of clips, and CLS vectors where it reads them."""
        for name in stores_of(config, tuple(stores)).values():
            _require_tokens(stores[name])
        require_clips(config, stores.first)
        require_tags(config, stores.first)
        require_training_clips(config, stores.first)
        if config.loss == "cross_entropy":
            _require_one_tag(config, stores.first)
        for name in stores_of(config, tuple(stores)).values():
            if config.feature == "cls" and stores[name].identity.cls == "none":
                raise UsageError(
                    f"{stores[name].path} holds no CLS vectors: set feature=mean, or "
                    f"`{extract_command(stores[name])}` with a backbone that has them"
                )

    def wanted(self, config: StanConfig, stores: StoreSet) -> "Mapping[str, Wanted]":
        """The last block of each store, or CLS vectors."""
        from tokenreel.fuse.data.source import Wanted

        is_cls = config.feature == "cls"
        return {
            name: Wanted(
                () if is_cls else (max(stores[name].identity.blocks),),
                is_cls,
                False,
                frozenset([config.data.action]),
            )
            for name in stores_of(config, tuple(stores)).values()
        }

    def draw(self, record: ClipRecord, config: StanConfig, rng: np.random.Generator) -> Draw:
        """Scenes of a clip, (1, T): all, the same whatever the step."""
        return draw_scenes(record.num_frames, config)

    def build(self, config: StanConfig, shapes: Shapes) -> "nn.Module":
        """The model, for the channels of its stores and their tags."""
        import torch

        from tokenreel.fuse.systems.stan.model import StanModel

        stores = stores_of(config, tuple(shapes.streams))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return StanModel(
                config,
                dims={stream: shapes.streams[name].dim for stream, name in stores.items()},
                num_classes=len(shapes.class_names),
                blocks={
                    stream: max(shapes.streams[name].blocks) for stream, name in stores.items()
                },
                stores=stores,
            )

    def loss(
        self,
        model: Any,
        batch: "Batch",
        config: StanConfig,
        *,
        rng: np.random.Generator,
        world: "World",
        shared: Any = None,
    ) -> "Tensor":
        """Binary cross-entropy of all tags, or cross-entropy."""
        import torch

        from tokenreel.fuse.distributed.global_layers import place_dropouts
        from tokenreel.fuse.distributed.precision import precision_of
        from tokenreel.fuse.distributed.world import gather_clips
        from tokenreel.fuse.systems.stan.model import loss_of

        if world.size > 1:
            place_dropouts(model, len(batch.clip_ids), batch.own)
        device = batch.gather.device
        precision = precision_of(config.optim.precision, device)
        valid = batch.valid[batch.own, 0].to(device, non_blocking=True)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            # Those of the first store have no name.
            frames = {name: batch.others.get(name, batch.frames) for name in model.stores.values()}
            logits = model(model.scenes(frames, batch.gather[:, 0]), valid).float()
        every = gather_clips(logits, len(batch.clip_ids), batch.own, world)
        return loss_of(every, batch.targets, config)

    def embed(
        self, model: Any, config: StanConfig, source: "TokenSource", record: ClipRecord
    ) -> Embedded:
        """Scores of the tags of the clip, (1, K)."""
        import torch

        from tokenreel.fuse.systems.stan.model import scores_of

        drawn = draw_scenes(record.num_frames, config)
        distinct, gather = np.unique(drawn.units, return_inverse=True)
        places = torch.from_numpy(gather.reshape(drawn.units.shape)).to(source.device)
        valid = torch.from_numpy(drawn.valid).to(source.device)
        names = set(model.stores.values())
        frames = {
            name: stream.frames(record.clip_id, distinct)
            for name, stream in source.streams.items()
            if name in names
        }
        logits = model(model.scenes(frames, places), valid).float()
        return Embedded(scores_of(logits, config).cpu().numpy(), of_clip=True)


def draw_scenes(num_scenes: int, config: StanConfig) -> Draw:
    """The scenes of a clip that a model sees, (1, T).

    Of more than T those in the middle of T equal parts.  Fewer are followed by padding, which
    repeats the last one and is not valid; or by themselves from the first.

    >>> draw_scenes(26, StanConfig()).units[0].tolist()
    [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25]
    """
    count = config.data.num_frames
    places = np.arange(count)
    if num_scenes >= count:
        units = (2 * places + 1) * num_scenes // (2 * count)
    elif config.fill == "cycle":
        units = places % num_scenes
    else:
        units = np.minimum(places, num_scenes - 1)
    is_valid = (places < num_scenes) | (config.fill == "cycle")
    return Draw(units[None], is_valid[None])


def stores_of(config: StanConfig, names: tuple[str, ...]) -> dict[str, str]:
    """The store of each stream that a config reads; a lone store is that of the only stream.

    Raises:
        UsageError: there is none of that name.
    """
    wanted = config.stream_names
    if len(wanted) == len(names) == 1:
        return {wanted[0]: names[0]}
    if not set(wanted) <= set(names):
        words = " ".join(f"--store {name}=PATH" for name in wanted)
        one = ", or for one store streams=spatial or streams=temporal" if len(wanted) > 1 else ""
        raise UsageError(
            f"system={config.system} with streams={config.streams} reads a store of "
            f"{' and one of '.join(wanted)} tokens of the same scenes, given "
            f"{', '.join(names)}: give {words}{one}"
        )
    return {name: name for name in wanted}


def _require_tokens(store: Store) -> None:
    """Refuse a store of pictures; a model that is trained on them is not there yet."""
    if not store.identity.blocks:
        raise UsageError(
            f"{store.path} keeps pictures of scenes and no tokens: `extract run DATASET "
            "frames=scenes:FOLDER backbone=torchvision:resnet18 blocks=3` makes one of tokens, on "
            "which the CNN stays frozen"
        )


def _require_one_tag(config: StanConfig, store: Store) -> None:
    several = [clip for clip in clips_of(config, store) if len(clip.tags) > 1]
    if several:
        raise UsageError(
            f"loss=cross_entropy learns one tag a clip, {len(several)} training clips of "
            f"{store.path} have more, the first is {several[0].clip_id!r} "
            f"({', '.join(several[0].tags)}): set loss=bce"
        )


SYSTEM = Stan
