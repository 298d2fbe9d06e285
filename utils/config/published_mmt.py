"""Configurations of the second paper's MMT, which have a form of their own, put into ours.

Theirs name data by `train_sets`, `continuous_eval_sets` and `final_eval_sets`, each a list of one
loader with a mix of one data set, and experts by other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from utils.config.sections import FEATURES
from utils.errors import ConfigError

SETS = ("train_sets", "continuous_eval_sets", "final_eval_sets")
DATASETS = {"Clotho": "CLOTHO"}
"""Names of data sets that differ."""
EXPERTS = {"vggish": "audio"}
"""Names of experts that differ."""

KEPT = ("optimizer", "lr_scheduler", "loss", "metrics", "n_gpu", "visualizer")
TRAINER = (
    "epochs",
    "save_dir",
    "save_period",
    "skip_first_n_saves",
    "include_optim_in_ckpts",
    "verbosity",
    "tensorboard",
)
LAST_EPOCH = "max epoch"
"""`trainer.monitor` of all of them: the last epoch is the one that is tested."""


def is_published_mmt(raw: Mapping[str, Any]) -> bool:
    """Return whether a configuration has the form of the second paper's."""
    return all(isinstance(raw.get(name), list) for name in SETS)


def from_published_mmt(raw: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return a published configuration in our form; raises ConfigError for what it has not.

    The experts' table comes from configs/experts.json. `label` is the file's name in messages.
    """
    try:
        return _translated(raw, label)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{label}: is not whole: {type(error).__name__} {error}; expected the form of a "
            "published MMT configuration, which has train_sets, continuous_eval_sets and "
            "final_eval_sets of one loader each"
        ) from None


def _translated(raw: Mapping[str, Any], label: str) -> dict[str, Any]:
    (train, train_mix), (_, validation), (test, test_mix) = (_only(raw, name) for name in SETS)
    experts = [EXPERTS.get(name, name) for name in raw["experts"]["modalities"]]
    places = dict.fromkeys(experts, train_mix["max_expert_tokens"])
    folder = PurePosixPath(test_mix["data_dir"])
    if folder.name != FEATURES:
        raise ConfigError(f"{label}: data_dir is {folder}, expected one that ends in {FEATURES}")
    for mix in (train_mix, test_mix):
        if mix.get("temporal_encoding_window", 1) != 1:
            raise ConfigError(f"{label}: temporal_encoding_window is not 1")
    name = test_mix["dataset_name"]
    shuffling = test_mix["query_shuffling"]
    args = {
        "dataset_name": DATASETS.get(name, name),
        "data_dir": str(folder.parent),
        "root_feat_folder": FEATURES,
        "split_name": validation["split_name"],
        "batch_size": train["batch_size"],
        "num_workers": train.get("num_workers", 1),
        "drop_last": True,
        "query_shuffling": shuffling,
        "captions_per_video": test_mix.get("captions_per_video", 1),
        "restrict_train_captions": 0 if train_mix["query_shuffling"] == "cat" else 1,
        "max_tokens": {"text": train_mix["max_text_words"], **places},
    }
    trainer = {key: raw["trainer"][key] for key in TRAINER if key in raw["trainer"]}
    if raw["trainer"].get("monitor") == LAST_EPOCH:
        trainer["monitor"] = "off"
    return {
        "inherit_from": "configs/experts.json",
        "name": raw.get("exp_name", ""),
        "experts": {"modalities": experts, "text_feat": "w2v"},
        "arch": {"type": "MMT", "args": dict(raw["arch"]["args"])},
        "data_loader": {"type": "ExpertDataLoader", "args": args},
        **{key: raw[key] for key in KEPT if key in raw},
        "trainer": trainer,
        "eval_settings": {
            "data_loader": {
                "args": {"split_name": test_mix["split_name"], "batch_size": test["batch_size"]}
            }
        },
    }


def _only(raw: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the arguments of the one loader of a list, and the one data set of its mix."""
    [loader] = raw[name]
    [mix] = loader["args"]["mix"]
    return loader["args"], mix
