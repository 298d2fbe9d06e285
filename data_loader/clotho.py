"""CLOTHO, version 1."""

from __future__ import annotations

from typing import ClassVar

from data_loader.base_dataset import BaseDataset


class CLOTHO(BaseDataset):
    """2,314 / 579 / 1,045 clips of five captions each."""

    archive = "CLOTHO"
    chosen_lists: ClassVar[tuple[str, ...]] = ("training_file", "testing_file")
