"""The model: encoders of the streams, their fusion and head; its loss and the scores of a clip.

Shapes: B clips, T scenes, D channels of a scene, K tags, M scores of a clip by different heads.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from tokenreel.fuse.data.frames import Frames
from tokenreel.fuse.systems.stan.config import DistilConfig, StanConfig
from tokenreel.fuse.systems.stan.encoders import make_encoder
from tokenreel.fuse.systems.stan.fusion import Head, make_fusion


class StanModel(nn.Module):
    """Two streams, or one.

    Args:
        config: of the run.
        dims: stream -> channels D of a scene.
        num_classes: tags K.

    Attributes:
        blocks: stream -> the block of its store whose tokens are a scene.
        stores: stream -> the name of its store.
    """

    def __init__(
        self,
        config: StanConfig,
        *,
        dims: Mapping[str, int],
        num_classes: int,
        blocks: Mapping[str, int] | None = None,
        stores: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.blocks, self.stores = dict(blocks or {}), dict(stores or {})
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

    def scenes(self, frames: Mapping[str, Frames], gather: Tensor) -> dict[str, Tensor]:
        """The vectors of scenes by stream, (B, T, D) float32.

        Args:
            frames: store -> its distinct units.
            gather: int64 (B, T), which of them each scene is.
        """
        found = {}
        for name, store in self.stores.items():
            units = frames[store]
            if self.config.feature == "cls":
                assert units.cls is not None
                found[name] = units.cls[gather]
            else:
                found[name] = units.tokens((self.blocks[name],)).mean(dim=1)[gather]
        return found


def loss_of(logits: Tensor, targets: Tensor, config: StanConfig) -> Tensor:
    """The loss of a batch, a scalar.

    Args:
        logits: (B, M, K) of :meth:`StanModel.forward`, float32.
        targets: float32 (B, K), 0 or 1.
        config: of the run.
    """

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
    """Scores of tags from 0 to 1, (B, K) of logits (B, M, K)."""
    of_heads = logits.softmax(dim=-1) if config.loss == "cross_entropy" else logits.sigmoid()
    return of_heads[:, :2].mean(dim=1) if logits.shape[1] == 3 else of_heads[:, 0]
