"""Configuration of a training run, free of torch: a wrong word is refused before its import."""

from tokenreel.fuse.config.augment import AugmentConfig
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
from tokenreel.fuse.config.mvformer import FuseConfig
from tokenreel.fuse.config.registry import SYSTEMS, config_class, parse_config
from tokenreel.fuse.config.system import DataConfig, OptimConfig, SystemConfig

__all__ = [
    "POOLINGS",
    "SYSTEMS",
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
    "SystemConfig",
    "TccConfig",
    "TcnConfig",
    "TemporalConfig",
    "VspConfig",
    "config_class",
    "parse_config",
]
