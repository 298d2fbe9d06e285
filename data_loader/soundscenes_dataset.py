"""SoundScenes: synthesised scenes with captions, made on this machine in CLOTHO's layout."""

from __future__ import annotations

import shlex
from pathlib import Path

from data_loader.base_dataset import BaseDataset


class SoundScenes(BaseDataset):
    """Scenes whose two experts are computed from the sound itself."""

    def fetch_hint(self) -> str:
        """Say how the data set is made."""
        above = Path(self.settings.data_dir).parent
        elsewhere = "" if above == Path("data") else f" --data_dir {shlex.quote(str(above))}"
        return f"make it with: python misc/make_soundscenes.py{elsewhere}"
