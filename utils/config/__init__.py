"""Configuration files, read strictly into frozen values; see docs/configuration.md."""

from utils.config.sections import (
    ArchConfig,
    Config,
    DataConfig,
    ExpertConfig,
    LossConfig,
    OptimizerConfig,
    SchedulerConfig,
    TextConfig,
    TrainerConfig,
)

__all__ = [
    "ArchConfig",
    "Config",
    "DataConfig",
    "ExpertConfig",
    "LossConfig",
    "OptimizerConfig",
    "SchedulerConfig",
    "TextConfig",
    "TrainerConfig",
]
