"""The model: encoders of the streams, their fusion and head; its loss and the scores of a clip.

Shapes: B clips, T scenes, D channels of a scene, K tags, M scores of a clip by different heads.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from tokenreel.fuse.data.frames import Frames
from tokenreel.fuse.systems.stan.config import DistilConfig, StanConfig
from tokenreel.fuse.systems.stan.encoders import make_encoder
from tokenreel.fuse.systems.stan.fusion import Head, make_fusion
from tokenreel.fuse.systems.stan.pictures import Crops, SceneCnn, centre_crops, draw_crops


class StanModel(nn.Module):
    """Two streams, or one.

    Args:
        config: of the run.
        dims: stream -> channels D of a scene in its store; of no meaning where a CNN is trained.
        num_classes: tags K; 1 with loss=mse.
        numbers: what each tag of the store is as a number, with loss=mse.
        counts: training clips of each number; the head begins at the mean of these clips.

    Attributes:
        blocks: stream -> the block of its store whose tokens are a scene.
        stores: stream -> the name of its store.
        cnns: stream -> the CNN that it trains.
    """

    numbers: Tensor

    def __init__(
        self,
        config: StanConfig,
        *,
        dims: Mapping[str, int],
        num_classes: int,
        blocks: Mapping[str, int] | None = None,
        stores: Mapping[str, str] | None = None,
        numbers: Sequence[float] = (),
        counts: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("numbers", torch.tensor(list(numbers)), persistent=False)
        self.blocks, self.stores = dict(blocks or {}), dict(stores or {})
        cnns = {name: SceneCnn(cnn) for name, cnn in config.cnns.items()}
        self.cnns = nn.ModuleDict(cnns)
        dims = {**dims, **{name: cnn.channels for name, cnn in cnns.items()}}
        is_distilled = isinstance(config.fusion, DistilConfig)
        encoders = {
            name: make_encoder(config.encoder, dim, 2 if is_distilled and name == "spatial" else 1)
            for name, dim in dims.items()
        }
        self.encoders = nn.ModuleDict(encoders)
        widths = [encoder.channels for encoder in encoders.values()]
        self.fusion = None if is_distilled else make_fusion(config.fusion, widths)
        width = widths[0] if self.fusion is None else self.fusion.channels
        self.heads = nn.ModuleList(
            Head(config.head, width, num_classes) for _ in range(3 if is_distilled else 1)
        )
        if numbers and any(counts):
            head = self.heads[0]
            assert isinstance(head, Head)
            total = math.fsum(n * count for n, count in zip(numbers, counts, strict=True))
            nn.init.constant_(head.leave.bias, total / sum(counts))

    def forward(self, scenes: Mapping[str, Tensor], valid: Tensor) -> Tensor:
        """Score clips.

        Args:
            scenes: stream -> (B, T, D).
            valid: bool (B, T), False at padding, which lies at the end.

        Returns:
            (B, M, K): M is 1; with distillation 3, of CLS and of the distilled token of the spatial
            stream, and of the temporal one.
        """
        vectors = {name: encoder(scenes[name], valid) for name, encoder in self.encoders.items()}
        if self.fusion is None:
            parts = [vectors["spatial"][:, 0], vectors["spatial"][:, 1], vectors["temporal"][:, 0]]
        else:
            parts = [self.fusion(*(vector[:, 0] for vector in vectors.values()))]
        return torch.stack([head(x) for head, x in zip(self.heads, parts, strict=True)], dim=1)

    def scenes(
        self,
        frames: Mapping[str, Frames],
        gather: Tensor,
        crops: Mapping[str, Crops] | None = None,
    ) -> dict[str, Tensor]:
        """The vectors of scenes by stream, (B, T, D) float32.

        Args:
            frames: store -> its distinct units.
            gather: int64 (B, T), which of them each scene is.
            crops: stream -> of its units' pictures; the centre where it is None.
        """
        found = {}
        for name, store in self.stores.items():
            units = frames[store]
            if name in self.cnns:
                own = self.centre_crops(frames)[name] if crops is None else crops[name]
                found[name] = self.cnns[name](units.pictures, own)[gather]
            elif self.config.feature == "cls":
                assert units.cls is not None
                found[name] = units.cls[gather]
            else:
                found[name] = units.tokens((self.blocks[name],)).mean(dim=1)[gather]
        return found

    def centre_crops(self, frames: Mapping[str, Frames]) -> dict[str, Crops]:
        """The centre of the pictures of every unit, by stream."""
        found = {}
        for name in self.cnns:
            count, size, side = self._sizes(name, frames)
            found[name] = centre_crops(count, size, side)
        return found

    def draw_crops(
        self,
        frames: Mapping[str, Frames],
        gather: Tensor,
        *,
        num_clips: int,
        own: slice,
        rng: np.random.Generator,
    ) -> dict[str, Crops]:
        """Random crops of the pictures of every unit, by stream.

        Those of all clips of the batch are drawn, in every process the same.

        Args:
            frames: store -> the distinct units of the local clips (this rank).
            gather: int64 (b, T), which of them each scene of those clips is.
            num_clips: B of the whole batch.
            own: which of them are local.
            rng: of the step.
        """
        places = np.unique(gather.cpu().numpy().ravel(), return_index=True)[1]
        found = {}
        for name in self.cnns:
            _, size, side = self._sizes(name, frames)
            length = gather.shape[1]
            drawn = draw_crops(rng, num_clips * length, size, side, self.config.pictures)
            found[name] = drawn[own.start * length + places]
        return found

    def _sizes(self, name: str, frames: Mapping[str, Frames]) -> tuple[int, tuple[int, int], int]:
        """Units of a stream that trains a CNN, H and W of their pictures, and what it sees."""
        pictures, cnn = frames[self.stores[name]].pictures, self.cnns[name]
        assert pictures is not None
        assert isinstance(cnn, SceneCnn)
        size = (pictures.shape[2], pictures.shape[3])
        return len(pictures), size, cnn.side(size)


def loss_of(logits: Tensor, targets: Tensor, config: StanConfig) -> Tensor:
    """The loss of a batch, a scalar.

    Args:
        logits: (B, M, K) of :meth:`StanModel.forward`, float32.
        targets: float32 (B, K), 0 or 1; with loss=mse the numbers, (B,).
        config: of the run.
    """
    if config.loss == "mse":
        return mse_loss(logits[:, 0, 0], targets)

    def of_tags(scores: Tensor) -> Tensor:
        if config.loss == "cross_entropy":
            return cross_entropy(scores, targets.argmax(dim=1))
        return binary_cross_entropy_with_logits(scores, targets)

    if not isinstance(config.fusion, DistilConfig):
        return of_tags(logits[:, 0])
    student, distilled, teacher = logits.unbind(dim=1)
    taught = teacher.detach()
    if config.fusion.targets == "hard":
        imitation = cross_entropy(distilled, taught.argmax(dim=1))
    elif config.loss == "cross_entropy":
        imitation = cross_entropy(distilled, taught.softmax(dim=1))
    else:
        imitation = binary_cross_entropy_with_logits(distilled, taught.sigmoid())
    return of_tags(student) + of_tags(teacher) + imitation


def scores_of(logits: Tensor, config: StanConfig) -> Tensor:
    """Scores of tags from 0 to 1, (B, K) of logits (B, M, K); with loss=mse numbers, (B, 1)."""
    if config.loss == "mse":
        return logits[:, 0]
    of_heads = logits.softmax(dim=-1) if config.loss == "cross_entropy" else logits.sigmoid()
    return of_heads[:, :2].mean(dim=1) if logits.shape[1] == 3 else of_heads[:, 0]
