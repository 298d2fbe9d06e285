"""Where a data set's files are, in the published layout: the part that data sets differ in."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import ClassVar, NamedTuple

from utils.config import Config, DataConfig, ExpertConfig
from utils.errors import ConfigError, nearest
from utils.fetching.experiments import sync_command

logger = logging.getLogger(__name__)


class Sources(NamedTuple):
    """The files that a split is made of."""

    split_list: Path
    experts: list[list[Path]]
    text: Path | None
    """None: the model reads word pieces of the captions."""
    captions: Path
    masks: Path | None

    def missing(self) -> list[Path]:
        """Return those that are not there."""
        of_experts = (file for files in self.experts for file in files)
        files = (self.split_list, *of_experts, self.text, self.captions, self.masks)
        return [file for file in files if file is not None and not file.is_file()]


class Layout:
    """The names of a data set's lists, captions, experts and archive."""

    archive: ClassVar[str] = ""
    """Name by which `misc/sync_experts.py` fetches the data set; "" when it is not fetched."""
    older_archive_sha1: ClassVar[str | None] = None
    """Published sha1 of `<archive>-experts.tar.gz`, where there is one."""
    split_lists: ClassVar[dict[str, str]] = {
        "train": "train_list.txt",
        "val": "val_list.txt",
        "test": "test_list.txt",
    }
    chosen_lists: ClassVar[tuple[str, ...]] = ()
    """Those of training_file and testing_file that may name another list, as published. With both,
    a training list train_list_NN.txt brings the validation list of the same ending."""
    lists_elsewhere: ClassVar[dict[str, str]] = {}
    """Split lists that were published apart from the archive -> their sha256."""
    one_caption: ClassVar[bool] = False
    """Every clip has a single caption."""
    captions_file: ClassVar[str] = "raw-captions.pkl"
    text_folder: ClassVar[str] = "text_embeddings"
    expert_files: ClassVar[dict[str, str]] = {
        "audio": "aggregated_audio/vggish-raw.hickle",
        "pann": "aggregated_pann/pann-raw.hickle",
        "speech": "aggregated_speech/w2v_mean.pkl",
        "syncnet": "aggregated_syncnet/syncnet-raw.hickle",
        "vggsound": "aggregated_vggsound/vggsound-raw.hickle",
    }
    """Place of each expert; a file X.pkl takes the place of X.hickle where only X.pkl exists."""

    @classmethod
    def sources(cls, config: Config, split: str) -> Sources:
        """Return the files of a split, there or not; nothing is opened or packed.

        Raises ConfigError when there is no such split, or no place for an expert.
        """
        data = config.data
        masks = data.caption_masks if split == "train" else None
        text = data.root / cls.text_folder / f"{config.text.feature}.pkl"
        return Sources(
            data.root / cls.split_list(data, split),
            [cls._expert_files(data, expert) for expert in config.experts],
            None if config.needs.vocabulary else text,
            cls._captions_file(data),
            data.root / masks if masks else None,
        )

    @classmethod
    def split_list(cls, data: DataConfig, split: str) -> str:
        """Return the file of a split's list below the features' root."""
        if split not in cls.split_lists:
            raise ConfigError(
                f"{cls.__name__} has no split {split!r}{nearest(split, cls.split_lists)} "
                f"(its splits: {', '.join(cls.split_lists)})"
            )
        own = cls.split_lists[split]
        part = re.fullmatch(r"train_list(_\w+)\.txt", data.training_file or "")
        if split == "val" and part and len(cls.chosen_lists) > 1:
            return own.replace(".txt", f"{part[1]}.txt")
        key = {"train": "training_file", "test": "testing_file"}.get(split)
        chosen = getattr(data, key) if key else None
        if chosen is None or chosen == own:
            return own
        if key not in cls.chosen_lists:  # released configs may carry the keys of AudioCaps
            logger.warning("%s %s is ignored: %s has %s alone", key, chosen, cls.__name__, own)
            return own
        return chosen

    @classmethod
    def fetch_hint(cls, data: DataConfig) -> str:
        """Return how to get a missing file."""
        if cls.archive and data.dataset_name == cls.__name__:
            return f"fetch it with: {sync_command(cls.archive, Path(data.data_dir).parent)}"
        return "put it there, or correct data_loader.args.data_dir"

    @classmethod
    def _expert_files(cls, data: DataConfig, expert: ExpertConfig) -> list[Path]:
        if expert.files is not None:
            return [data.root / file for file in expert.files]
        if expert.name not in cls.expert_files:
            raise ConfigError(
                f"{cls.__name__} knows no place for expert {expert.name!r}; give its file in "
                f"data_loader.args.feat_aggregation.{expert.name}.file"
            )
        file = data.root / cls.expert_files[expert.name]
        other = file.with_suffix(".pkl")
        return [other if other.is_file() and not file.is_file() else file]

    @classmethod
    def _captions_file(cls, data: DataConfig) -> Path:
        """Return the captions' place: archives hold them in a second structured-symlinks/."""
        nested = data.root / "structured-symlinks" / cls.captions_file
        plain = data.root / cls.captions_file
        expected_nested = nested.parent.is_dir() and not plain.exists()
        return nested if nested.exists() or expected_nested else plain
