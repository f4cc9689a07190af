"""Configuration of a training run, free of torch: a wrong word is refused before its import."""

from tokenreel.fuse.config.loss import (
    CrossEntropyConfig,
    GtaConfig,
    LavConfig,
    LossConfig,
    SalConfig,
    SclConfig,
    TccConfig,
    TcnConfig,
    VspConfig,
)
from tokenreel.fuse.config.model import (
    POOLINGS,
    ClsConfig,
    FixedWidthConfig,
    GridConfig,
    LstpConfig,
    MaxConfig,
    MeanConfig,
    PoolingConfig,
    TemporalConfig,
)
from tokenreel.fuse.config.run import AugmentConfig, DataConfig, FuseConfig, OptimConfig

__all__ = [
    "POOLINGS",
    "AugmentConfig",
    "ClsConfig",
    "CrossEntropyConfig",
    "DataConfig",
    "FixedWidthConfig",
    "FuseConfig",
    "GridConfig",
    "GtaConfig",
    "LavConfig",
    "LossConfig",
    "LstpConfig",
    "MaxConfig",
    "MeanConfig",
    "OptimConfig",
    "PoolingConfig",
    "SalConfig",
    "SclConfig",
    "TccConfig",
    "TcnConfig",
    "TemporalConfig",
    "VspConfig",
]
