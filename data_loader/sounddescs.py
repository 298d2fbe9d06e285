"""SoundDescs: recordings of the BBC's archive of sound effects."""

from __future__ import annotations

from typing import ClassVar

from data_loader.base_dataset import BaseDataset


class SoundDescs(BaseDataset):
    """23,085 / 4,947 / 4,947 clips of one caption each."""

    archive = "SoundDescs"
    one_caption = True
    chosen_lists: ClassVar[tuple[str, ...]] = ("training_file", "testing_file")
    lists_elsewhere: ClassVar[dict[str, str]] = {
        "train_list.txt": "cd4221963a4d4d313ac7215443e53f1daedf8fe6f7feccbc3639b9a47d6a7fe4",
        "val_list.txt": "5c3c4018cdb590be13fda2f60e172ed3b79c9bf041bcde923000b4a011a841b4",
        "test_list.txt": "68f9fc580d3483dcb311095b008007e443ae690c7e51fc3fdd50194d17d90716",
    }
