"""AudioCaps: lists of its own."""

from __future__ import annotations

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
