"""Data sets as the model sees them: `build_dataset(config, split)` is the door."""

from __future__ import annotations

from pathlib import Path

from data_loader.activity_net import ActivityNet
from data_loader.audiocaps import AudioCaps
from data_loader.base_dataset import BaseDataset
from data_loader.clotho import CLOTHO
from data_loader.layout import Sources
from data_loader.queryd import QuerYD, QuerYDSegments
from data_loader.sounddescs import SoundDescs
from data_loader.soundscenes_dataset import SoundScenes
from utils.config import Config
from utils.errors import DataError, UsageError, nearest

DATASETS: dict[str, type[BaseDataset]] = {
    layout.__name__: layout
    for layout in (AudioCaps, CLOTHO, ActivityNet, QuerYD, QuerYDSegments, SoundDescs, SoundScenes)
}
"""Every data set by the name of its class. Yours is a file and a line here: configurations,
misc/sync_experts.py and error messages follow from this table."""

__all__ = [
    "DATASETS",
    "BaseDataset",
    "Sources",
    "build_dataset",
    "find_archive",
    "find_sources",
    "missing_files",
    "require_files",
]


def build_dataset(config: Config, split: str) -> BaseDataset:
    """Open one split of the config's data set: "train" or another split of its layout.

    Raises DataError when a file is missing or unfit, ConfigError when there is no such split.
    """
    return DATASETS[config.data.layout](config, split)


def missing_files(config: Config, split: str) -> list[Path]:
    """Return the files of a split that are not there; ConfigError when there is no such split."""
    return find_sources(config, split).missing()


def require_files(config: Config, command: str) -> None:
    """Raise DataError when files are missing that a configuration is evaluated on.

    `command` fetches the features.
    """
    missing = missing_files(config, config.data.split_name)
    if missing:
        others = f" and {len(missing) - 1} more files are" if len(missing) > 1 else " is"
        raise DataError(f"{missing[0]}{others} missing; fetch them with: {command}")
    vocabulary = config.needs.vocabulary
    if vocabulary is not None and not Path(vocabulary).is_file():
        raise DataError(
            f"{vocabulary} is missing; put vocab.txt of bert-base-cased there, which the captions "
            "are split into word pieces by"
        )


def find_sources(config: Config, split: str) -> Sources:
    """Return the files of a split, there or not; ConfigError without such a split."""
    return DATASETS[config.data.layout].sources(config, split)


def find_archive(name: str) -> type[BaseDataset]:
    """Return the data set whose features are published under this name.

    Raises UsageError with the nearest name and all known ones.
    """
    known = {dataset.archive: dataset for dataset in DATASETS.values() if dataset.archive}
    if name not in known:
        names = ", ".join(known)
        raise UsageError(f"unknown data set {name[:200]!r}{nearest(name, known)} (known: {names})")
    return known[name]
