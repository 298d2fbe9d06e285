"""The tables of classes that configurations name, each in the package that owns the classes.

They are imported when a configuration is read, not before: no command imports torch for --help.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

Table = Callable[[], Mapping[str, Any]]


def _table(module: str, name: str) -> Table:
    return lambda: vars(importlib.import_module(module))[name]


MODELS = _table("model.build", "MODELS")
LOSSES = _table("model.loss", "LOSSES")
OPTIMIZERS = _table("trainer.optimizer", "OPTIMIZERS")
SCHEDULES = _table("trainer.optimizer", "SCHEDULES")
DATASETS = _table("data_loader", "DATASETS")
METRICS = _table("model.metric", "METRICS")
