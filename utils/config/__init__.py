"""Configuration files, read strictly into frozen values.

A file (JSON or YAML) may inherit from others; every mistake is reported at once, with the file,
the key and the nearest known name. docs/configuration.md lists every key.

    config = load_config("configs/clotho/train-vggish-vggsound.json", {"trainer.epochs": 5})
"""

from utils.config.configuration import Config, DataConfig, ExpertConfig, TextConfig
from utils.config.custom_args import custom_tag, parse_custom_args
from utils.config.load import config_from_dict, load_config
from utils.config.sections import TrainerConfig, read_text_features

__all__ = [
    "Config",
    "DataConfig",
    "ExpertConfig",
    "TextConfig",
    "TrainerConfig",
    "config_from_dict",
    "custom_tag",
    "load_config",
    "parse_custom_args",
    "read_text_features",
]
