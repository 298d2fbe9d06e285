"""results.json, which everything in this package reads: its content, and the tables beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from data_loader import DATASETS
from results.published import Comparison, render, summarise
from results.ranks import Ranks, save_ranks
from results.runs import RESULTS
from utils.config import Config
from utils.fetching.experiments import EACH_CAPTION, JOINED, ONE_CAPTION, Experiment
from utils.files import write_json, write_text

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
    identity: Mapping[str, Any],
    parameters: int,
    device: str,
    seconds: float,
    experiment: Experiment | None = None,
) -> dict[str, Any]:
    """Return the content of results.json.

    `config` is the configuration the split was evaluated with, `identity` the data set's
    (sha256 of its list, identities of its feature files), `seeds` {"0": {"t2v_metrics": {...},
    "v2t_metrics": {...}, "best_epoch": 7}, ...}; `experiment` is the published one that they are.
    """
    published = {"experiment": experiment.key, "paper": experiment.paper} if experiment else {}
    return {
        "config": config.name,
        "config_file": config.path,
        "split": config.data.split_name,
        "protocol": {
            "captions_per_clip": config.data.num_test_captions,
            "fused": config.data.fuse_captions,
            "queries": experiment.protocol if experiment else queries_of(config),
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
        **published,
    }


def write_results(
    folder: Path, content: Mapping[str, Any], ranks: Mapping[str, Ranks], row: Comparison
) -> None:
    """Write results.json, the ranks of its seeds, and its row of the table."""
    for seed, of_seed in ranks.items():
        save_ranks(folder / f"seed-{seed}", of_seed)
    write_json(folder / RESULTS, content)
    write_summary(folder, [row])


def write_summary(folder: Path, rows: Sequence[Comparison]) -> None:
    """Write the table for people and for programs."""
    write_text(folder / "summary.md", render(rows, "markdown"))
    write_text(folder / "summary.json", render(rows, "json"))
