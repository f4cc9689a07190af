"""What the recipes of several papers share: data sets, models and protocols."""

from collections.abc import Mapping

from tokenreel.fuse.config.loss import SclConfig
from tokenreel.fuse.config.run import (
    DataConfig,
    FuseConfig,
    OptimConfig,
    PoolingConfig,
    TemporalConfig,
)

__all__ = [
    "DINO",
    "DRAWN",
    "FINEGYM_PROTOCOL",
    "FROZEN",
    "GYM99",
    "GYM288",
    "LAST",
    "PENN_PROTOCOL",
    "POURING_PROTOCOL",
    "PROTOCOLS",
    "RESNET",
    "SAME_VIEW",
    "SUPERVISED",
    "late_fusion",
    "mvformer",
]

PENN_PROTOCOL = {"tau_stride": 2, "retrieval_stride": 2}
POURING_PROTOCOL = {"tau_stride": 5, "retrieval_stride": 5, "fractions": (0.1, 0.5, 1.0)}
FINEGYM_PROTOCOL = {"protocol": "finegym"}
PROTOCOLS: dict[str, Mapping[str, object]] = {
    "penn_action": PENN_PROTOCOL,
    "pouring": POURING_PROTOCOL,
    "finegym": FINEGYM_PROTOCOL,
    "kinetics400": PENN_PROTOCOL,
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


def mvformer(
    *,
    num_frames: int = 80,
    batch_clips: int = 4,
    epochs: int = 500,
    pooling: PoolingConfig,
    output: str = "one",
    capacity: int = 2,
    embedding: int = 128,
    sampling: str = "official",
    embed_frames: int = 1000,
    action: str | None = None,
) -> FuseConfig:
    """MV-Former as released: `capacity` widens the two layers before fusion (256 times it)."""
    return FuseConfig(
        data=DataConfig.model_validate(
            {
                "num_frames": num_frames,
                "batch_clips": batch_clips,
                "sampling": sampling,
                "action": action,
            }
        ),
        pooling=pooling,
        temporal=TemporalConfig.model_validate(
            {"fc_width": 256 * capacity, "embedding": embedding, "output": output}
        ),
        loss=SclConfig(),
        optim=OptimConfig(epochs=epochs),
        embed_frames=embed_frames,
    )


def late_fusion(
    *,
    num_frames: int = 80,
    epochs: int = 300,
    layers: int = 3,
    pool: str = "max",
    sampling: str = "official",
    embed_frames: int = 1000,
    action: str | None = None,
) -> FuseConfig:
    """CARL's frame-level encoder: one vector a frame, two layers, a transformer."""
    return FuseConfig(
        data=DataConfig.model_validate(
            {"num_frames": num_frames, "sampling": sampling, "action": action}
        ),
        pooling=PoolingConfig.model_validate({"kind": pool, "blocks": LAST}),
        temporal=TemporalConfig(layers=layers),
        optim=OptimConfig(epochs=epochs),
        embed_frames=embed_frames,
    )
