"""AudioCaps: lists of its own, of which training may take a part."""

from __future__ import annotations

import re
from typing import ClassVar

from data_loader.base_dataset import BaseDataset


class AudioCaps(BaseDataset):
    """49,291 / 428 / 816 clips; training clips have one caption, the others five."""

    archive = "AudioCaps"
    split_lists: ClassVar[dict[str, str]] = {
        "train": "train_list.txt",
        "val": "filtered_val_list.txt",
        "test": "final_filtered_test_list.txt",
    }
    chosen_lists: ClassVar[tuple[str, ...]] = ("training_file", "testing_file")

    def split_list(self, split: str) -> str:
        """Return a split's list; a training list train_list_NN.txt brings its validation list."""
        part = re.fullmatch(r"train_list(_\w+)\.txt", self.settings.training_file or "")
        if split == "val" and part:
            return f"filtered_val_list{part[1]}.txt"
        return super().split_list(split)
