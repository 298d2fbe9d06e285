"""The content of results.json, which everything in this package reads."""

from collections.abc import Mapping
from typing import Any

import torch

from data_loader import DATASETS
from results.published import summarise
from utils.config import Config
from utils.fetching.experiments import EACH_CAPTION, JOINED, ONE_CAPTION

PROJECT_VERSION = "0.1.0"


def queries_of(config: Config) -> str:
    """Return what a query is, one of PROTOCOLS."""
    if DATASETS[config.data.layout].one_caption:
        return ONE_CAPTION
    return JOINED if config.data.fuse_captions else EACH_CAPTION


def results(
    *,
    config: Config,
    seeds: Mapping[str, Mapping[str, Any]],
    split: str,
    identity: Mapping[str, Any],
    parameters: int,
    device: str,
    seconds: float,
) -> dict[str, Any]:
    """Return the content of results.json.

    `config` is the configuration the split was evaluated with, `identity` the data set's
    (sha256 of its list, identities of its feature files), `seeds` {"0": {"t2v_metrics": {...},
    "v2t_metrics": {...}, "best_epoch": 7}, ...}.
    """
    return {
        "config": config.name,
        "config_file": config.path,
        "split": split,
        "protocol": {
            "captions_per_clip": config.data.num_test_captions,
            "fused": config.data.fuse_captions,
            "queries": queries_of(config),
            "test_caption_mode": config.arch.args.get("test_caption_mode", "indep"),
            "ties": "mean of all orders",
        },
        "trainable_parameters": parameters,
        "data": dict(identity),
        "versions": {"project": PROJECT_VERSION, "torch": torch.__version__},
        "device": device,
        "wall_seconds": round(seconds, 3),
        "seeds": {seed: dict(values) for seed, values in seeds.items()},
        "summary": summarise(seeds),
    }
