"""Files as the published code left them: checkpoints with objects of its classes, merged configs.

    config = released_config(experiment, ce_shared_dim=8, clusters={"text": 2, "audio": 1})
    write_released(path, weights, config=config, seed=0, learning_rate=0.004)

Nothing here uses the code that reads such files.
"""

import argparse
import copy
import json
import sys
import types
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path, PosixPath

import numpy as np
import torch

from utils.config import load_config

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = json.loads((ROOT / "tests/data/published_ckpt/config.json").read_text())
# what only configs of this project have: a published file knows nothing of it
ADDITIONS = {
    "data_loader.args": ("packed_dir", "packed_dtype", "feature_device"),
    "trainer": ("precision", "start_from", "finetune_optimizer"),
}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
STEPS = 12  # that a released optimiser has made


def released_config(experiment, *, ce_shared_dim, clusters):
    """Return the config.json of a published run, everything merged in, with reduced widths."""
    ours = copy.deepcopy(load_config(ROOT / experiment.config).raw)
    for dotted, keys in ADDITIONS.items():
        section = ours
        for name in dotted.split("."):
            section = section[name]
        for key in keys:
            section.pop(key, None)
    aggregation = ours["data_loader"]["args"].pop("feat_aggregation")
    lists = ("training_file", "testing_file")  # AudioCaps has them
    merged = _merge({key: TEMPLATE[key] for key in TEMPLATE if key not in lists}, ours)
    for expert in ("audio", "speech"):  # the data sets differ in these alone
        flaky = aggregation[expert]["flaky"]
        merged["data_loader"]["args"]["feat_aggregation"][expert]["flaky"] = flaky
    merged["experts"]["ce_shared_dim"] = ce_shared_dim
    merged["arch"]["args"]["vlad_clusters"].update(clusters)
    merged["inherit_from"] = f"configs/data_loader_{experiment.dataset.lower()}_old.json"
    return merged


def write_released(path, weights, *, config, seed=0, epoch=7, learning_rate=None):
    """Write a checkpoint as the published trainer did; `weights` in the published order.

    Without `learning_rate` the optimiser's state is left out, as it makes up two thirds of a file.
    """
    state_dict = OrderedDict(weights)
    state_dict._metadata = OrderedDict({"": {"version": 1}})  # modules leave this behind
    with _foreign_class("parse_config.ConfigParser") as parser:
        pickled = parser()
        pickled.__dict__ |= {
            "resume": None,
            "cfg_fname": "configs/clotho/some.json",
            "_config": config,
            "_args": argparse.Namespace(config="configs/clotho/some.json", group_seed=str(seed)),
            "_save_dir": PosixPath("data/saved/models/some"),
            "_log_dir": PosixPath("data/saved/log/some"),
        }
        content = {
            "arch": "CENet",
            "epoch": epoch,
            "state_dict": state_dict,
            "monitor_best": np.float64(31.4),
            "config": pickled,
        }
        if learning_rate is not None:
            content["optimizer"] = released_optimizer(weights, learning_rate)
        torch.save(content, path)


def released_optimizer(weights, learning_rate):
    """Return the state of a published Ranger: parameters are numbered as in the state dict."""
    parameters = [value for name, value in weights.items() if not name.endswith(BUFFERS)]
    state = {
        number: {
            "step": STEPS,
            "exp_avg": torch.zeros_like(value),
            "exp_avg_sq": torch.full_like(value, 1e-4),
            "slow_buffer": value.clone(),
        }
        for number, value in enumerate(parameters)
    }
    group = {"lr": learning_rate, "alpha": 0.5, "k": 6, "step_counter": 0, "betas": (0.95, 0.999)}
    group |= {"N_sma_threshhold": 5, "eps": 1e-5, "weight_decay": 1e-3, "initial_lr": 0.01}
    return {"state": state, "param_groups": [group | {"params": list(state)}]}


def _merge(base, over):
    """Return a copy of `base` with `over` on top; dicts merge, all else replaces."""
    merged = copy.deepcopy(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


@contextmanager
def _foreign_class(full):
    """Yield a class that has this name while a file is written; no reader can import it."""
    module_name, _, name = full.rpartition(".")
    assert module_name not in sys.modules
    module = types.ModuleType(module_name)
    setattr(module, name, type(name, (), {"__module__": module_name}))
    sys.modules[module_name] = module
    try:
        yield getattr(module, name)
    finally:
        del sys.modules[module_name]
