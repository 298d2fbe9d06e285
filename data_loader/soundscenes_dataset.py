"""SoundScenes: synthesised scenes with captions, made on this machine in CLOTHO's layout."""

from __future__ import annotations

import shlex
from pathlib import Path

from data_loader.base_dataset import BaseDataset
from utils.config import DataConfig


class SoundScenes(BaseDataset):
    """Scenes whose two experts are computed from the sound itself."""

    @classmethod
    def fetch_hint(cls, data: DataConfig) -> str:
        """Return how the data set is made."""
        above = Path(data.data_dir).parent
        elsewhere = "" if above == Path("data") else f" --data_dir {shlex.quote(str(above))}"
        return f"make it with: python misc/make_soundscenes.py{elsewhere}"
