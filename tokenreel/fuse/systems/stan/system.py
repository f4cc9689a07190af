"""STAN as a system: its stores, the scenes of a clip, its model, loss and scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.pictures import ARCHITECTURE
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
from tokenreel.fuse.systems.base import Embedded, Explained, Shapes, System
from tokenreel.fuse.systems.stan.config import PRETRAINED, CnnConfig, StanConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokenreel.fuse.data.batches import Batch
    from tokenreel.fuse.data.frames import Frames
    from tokenreel.fuse.data.source import TokenSource, Wanted
    from tokenreel.fuse.distributed.world import World


class Stan(System):
    """Tags of whole clips from the scenes of one or two stores."""

    config = StanConfig

    def requirements(self, config: StanConfig, stores: StoreSet) -> None:
        """The stores of its streams, with tags of clips, and what each stream reads of its own."""
        named = stores_of(config, tuple(stores))
        for stream, name in named.items():
            if stream in config.cnns:
                _require_pictures(stores[name], stream, config.cnns[stream])
            else:
                _require_tokens(stores[name], stream)
        require_clips(config, stores.first)
        require_tags(config, stores.first, are_numbers=config.loss == "mse")
        require_training_clips(config, stores.first)
        if config.loss != "bce":
            _require_one_tag(config, stores.first)
        if config.loss == "mse":
            for record in stores.first.select(action=config.data.action):  # all are embedded
                number_of(record)
        for stream, name in named.items():
            is_cls = config.feature == "cls" and stream not in config.cnns
            if is_cls and stores[name].identity.cls == "none":
                raise UsageError(
                    f"{stores[name].path} holds no CLS vectors: set feature=mean, or "
                    f"`{extract_command(stores[name])}` with a backbone that has them"
                )

    def wanted(self, config: StanConfig, stores: StoreSet) -> "Mapping[str, Wanted]":
        """The last block of each store, or CLS vectors, or pictures."""
        from tokenreel.fuse.data.source import Wanted

        found, actions = {}, frozenset([config.data.action])
        for stream, name in stores_of(config, tuple(stores)).items():
            is_trained = stream in config.cnns
            is_cls = config.feature == "cls" and not is_trained
            is_of_tokens = not (is_cls or is_trained)
            blocks = (max(stores[name].identity.blocks),) if is_of_tokens else ()
            found[name] = Wanted(blocks, is_cls, False, actions, pictures=is_trained)
        return found

    def draw(self, record: ClipRecord, config: StanConfig, rng: np.random.Generator) -> Draw:
        """Scenes of a clip, (1, T): all, the same whatever the step unless they are shuffled."""
        drawn = draw_scenes(record.num_frames, config)
        return shuffle_scenes(drawn, rng) if config.order == "shuffled" else drawn

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
                num_classes=1 if config.loss == "mse" else len(shapes.class_names),
                numbers=[float(n) for n in shapes.class_names] if config.loss == "mse" else (),
                counts=[shapes.clips_of.get(name, 0) for name in shapes.class_names],
                blocks={
                    stream: max(shapes.streams[name].blocks)
                    for stream, name in stores.items()
                    if stream not in config.cnns
                },
                stores=stores,
            )

    def begin(self, model: Any, config: StanConfig) -> None:
        """The pre-trained weights of its CNNs; none where another run gives all weights."""
        from tokenreel.fuse.systems.stan.pictures import load_first_weights

        for cnn in model.cnns.values() if config.init is None else ():
            load_first_weights(cnn)

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
            gather, crops = batch.gather[:, 0], None
            if model.training:
                crops = model.draw_crops(
                    frames, gather, num_clips=len(batch.clip_ids), own=batch.own, rng=rng
                )
            logits = model(model.scenes(frames, gather, crops), valid).float()
        every = gather_clips(logits, len(batch.clip_ids), batch.own, world)
        if config.loss == "mse":
            return loss_of(every, batch.targets @ model.numbers, config)
        return loss_of(every, batch.targets, config)

    def embed(
        self, model: Any, config: StanConfig, source: "TokenSource", record: ClipRecord
    ) -> Embedded:
        """Scores of the tags of the clip, (1, K); with loss=mse its number, (1, 1)."""
        from tokenreel.fuse.systems.stan.model import scores_of

        frames, places, valid, _ = self._clip(model, config, source, record)
        logits = model(model.scenes(frames, places), valid).float()
        targets = None
        if config.loss == "mse":
            # A clip without tags is a new one, of which there is no number to compare with.
            targets = np.array([number_of(record)]) if record.tags else np.empty(0)
        return Embedded(scores_of(logits, config).cpu().numpy(), of_clip=True, targets=targets)

    def score_names(self, config: StanConfig, provenance: Mapping[str, Any]) -> tuple[str, ...]:
        """The tags; with loss=mse a number."""
        return ("number",) if config.loss == "mse" else super().score_names(config, provenance)

    def explain(
        self,
        model: Any,
        config: StanConfig,
        source: "TokenSource",
        record: ClipRecord,
        threshold: float,
    ) -> Explained:
        """Grad-CAM of the streams that see places, attention of CLS, scores of the tags."""
        from tokenreel.fuse.systems.stan.explain import explain_clip

        if config.loss == "mse":
            raise UsageError("loss=mse predicts a number: there are no tags to explain")
        frames, places, valid, units = self._clip(model, config, source, record)
        grids = {
            stream: source.streams[name].grid
            for stream, name in model.stores.items()
            if stream not in config.cnns
        }
        found = explain_clip(model, frames, places, valid, grids=grids, threshold=threshold)
        return Explained(source.class_names, units=units, stores=model.stores, **found)

    def _clip(
        self, model: Any, config: StanConfig, source: "TokenSource", record: ClipRecord
    ) -> "tuple[dict[str, Frames], Tensor, Tensor, NDArray[np.int64]]":
        """The distinct units of a clip by store, which of them each scene is, (1, T), and valid.

        The last is the units' rows in the stores.
        """
        import torch

        drawn = self.draw(record, config, np.random.default_rng(list(record.clip_id.encode())))
        distinct, gather = np.unique(drawn.units, return_inverse=True)
        places = torch.from_numpy(gather.reshape(drawn.units.shape)).to(source.device)
        valid = torch.from_numpy(drawn.valid).to(source.device)
        names = set(model.stores.values())
        frames = {
            name: stream.frames(record.clip_id, distinct)
            for name, stream in source.streams.items()
            if name in names
        }
        return frames, places, valid, distinct


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


def shuffle_scenes(drawn: Draw, rng: np.random.Generator) -> Draw:
    """A draw with its valid scenes in a random order; padding stays at the end."""
    units = drawn.units.copy()
    for row, valid in zip(units, drawn.valid, strict=True):
        row[valid] = rng.permutation(row[valid])
    return Draw(units, drawn.valid)


def stores_of(config: StanConfig, names: tuple[str, ...]) -> dict[str, str]:
    """The store of each stream that a config reads; a lone store is that of the only stream.

    A stream that trains a CNN reads `spatial_pixels` or `temporal_pixels` where there is one, so
    that the rows of a table share one set of stores.

    Raises:
        UsageError: there is none of that name.
    """
    wanted = config.stream_names
    if len(wanted) == len(names) == 1:
        return {wanted[0]: names[0]}
    own = {stream: f"{stream}_pixels" if stream in config.cnns else stream for stream in wanted}
    found = {stream: name if name in names else stream for stream, name in own.items()}
    if not set(found.values()) <= set(names):
        words = " ".join(f"--store {name}=PATH" for name in own.values())
        one = ", or for one store streams=spatial or streams=temporal" if len(wanted) > 1 else ""
        kinds = [f"{name} {'pictures' if name in config.cnns else 'tokens'}" for name in wanted]
        raise UsageError(
            f"system={config.system} with streams={config.streams} reads a store of "
            f"{' and one of '.join(kinds)} of the same scenes, given "
            f"{', '.join(names)}: give {words}{one}"
        )
    return found


def _require_tokens(store: Store, stream: str) -> None:
    """Refuse a store of pictures for a stream of tokens."""
    if not store.identity.blocks:
        command = _command(store, "backbone=torchvision:resnet18 blocks=3")
        raise UsageError(
            f"{store.path} keeps pictures of scenes and no tokens: `{command}` makes one "
            f"of them, on which the CNN stays frozen, or set {stream}_cnn.name to train one"
        )


def _require_pictures(store: Store, stream: str, cnn: CnnConfig) -> None:
    """Refuse a store without the pictures that the CNN of a stream is trained from.

    Raises:
        UsageError: what is missing, and the command that would make it.
    """
    identity, wanted = store.identity, "all" if cnn.name == "r2plus1d_18" else "centre"
    row = f"{stream}_cnn.name={cnn.name} trains a CNN from the pictures of scenes"
    if not identity.architecture.startswith(ARCHITECTURE):
        raise UsageError(
            f"{row}, {store.path} keeps none: `{_command(store, f'pixels={wanted}')}` makes a "
            f"store that does, or set {stream}_cnn.name=none to learn from the tokens of a frozen "
            "CNN"
        )
    if wanted == "all" and identity.frames_per_window == 1:
        raise UsageError(
            f"{row}, several of each, {store.path} keeps one: `{_command(store, 'pixels=all')}` "
            "makes a store of 12"
        )
    weights = cnn.weights
    if weights != PRETRAINED and cnn.random_seed is None and not Path(weights).is_file():
        raise UsageError(
            f"{stream}_cnn.weights={weights}: no such file: give the file of its weights, "
            "pretrained, or random:SEED for untrained ones"
        )


def _command(store: Store, words: str) -> str:
    """The command that makes another store of the scenes of one."""
    frames = store.made_with.get("frames", "")
    scenes = frames if frames.startswith("scenes:") else "scenes:FOLDER"
    dataset = store.made_with.get("dataset") or "DATASET"
    return f"extract run {dataset} --root VIDEOS frames={scenes} {words} --out STORE"


def _require_one_tag(config: StanConfig, store: Store) -> None:
    several = [clip for clip in clips_of(config, store) if len(clip.tags) > 1]
    if several:
        raise UsageError(
            f"loss={config.loss} learns one tag a clip, {len(several)} training clips of "
            f"{store.path} have more, the first is {several[0].clip_id!r} "
            f"({', '.join(several[0].tags)}): set loss=bce"
        )


def number_of(record: ClipRecord) -> float:
    """The number of a clip, which its only tag is.

    Raises:
        UsageError: it has none.
    """
    try:
        [text] = record.tags
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise UsageError(
            f"loss=mse predicts the number that a clip has as its only tag, {record.clip_id!r} has "
            f"{', '.join(record.tags) or 'none'}: set loss=bce or cross_entropy, or tag clips with "
            "a number"
        )
    return value


SYSTEM = Stan
