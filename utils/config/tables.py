"""The tables of classes that configurations name, each in the package that owns the classes.

They are imported when a configuration is read, not before: no command imports torch for --help.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

MODELS = "model.build:MODELS"
LOSSES = "model.loss:LOSSES"
OPTIMIZERS = "trainer.optimizer:OPTIMIZERS"
SCHEDULES = "trainer.optimizer:SCHEDULES"
DATASETS = "data_loader:DATASETS"
METRICS = "model.metric:METRICS"


def table(place: str) -> Callable[[], Mapping[str, Any]]:
    """Return a function that imports the table "module:NAME"."""
    module, _, name = place.partition(":")

    def load() -> Mapping[str, Any]:
        found: Mapping[str, Any] = getattr(importlib.import_module(module), name)
        return found

    return load
