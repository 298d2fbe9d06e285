"""SoundScenes: synthesised scenes with captions, made on this machine in CLOTHO's layout."""

from __future__ import annotations

from data_loader.base_dataset import BaseDataset


class SoundScenes(BaseDataset):
    """Scenes whose two experts are computed from the sound itself."""

    def fetch_hint(self) -> str:
        """Say how the data set is made."""
        return "make it with: python misc/make_soundscenes.py"
