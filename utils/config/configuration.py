"""The configuration as the project sees it: frozen, checked, plain values throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from utils.batches import BatchNeeds
from utils.config.sections import DataArgs, TrainerConfig
from utils.declared import Part
from utils.problems import split_path


@dataclass(frozen=True)
class ExpertConfig:
    """One expert: its files, and the form of its features."""

    name: str
    width: int
    """Of one token, or of the averaged vector (all aggregates together)."""
    tokens: bool
    """True: a sequence of tokens, False: one vector per clip."""
    max_tokens: int | None
    flaky: bool
    """May be missing in training."""
    files: tuple[str, ...] | None
    """Below root_feat_folder, joined side by side; None: the data set has a place for it."""


@dataclass(frozen=True)
class TextConfig:
    """The words of captions: their features, and how many are read."""

    feature: str
    width: int
    aggregate: Literal["vlad", "avg"]
    max_tokens: int
    encoder: dict[str, Any] | None = None
    """Its entry, {"type": ..., "args": ...}, where the configuration names it."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(DataArgs):
    """The same with the keys of other sections that concern the data."""

    layout: str
    training_file: str | None
    testing_file: str | None
    caption_masks: str | None

    @property
    def root(self) -> Path:
        """The folder below which all paths of a data set are."""
        return Path(self.data_dir, self.root_feat_folder)


@dataclass(frozen=True)
class Config:
    """A whole configuration.

    `raw` is the merged configuration as plain JSON types, without `inherit_from`: a run writes it
    as its config.json, and loading that file from anywhere gives an equal Config.
    """

    path: str = field(compare=False)
    name: str
    """"<config folder>-<file name>" and the tags of custom arguments: the name of the run."""
    dataset_folder: str
    """Last part of data_dir: the name by which the data set's archive is fetched."""
    raw: dict[str, Any]
    seed: int
    experts: tuple[ExpertConfig, ...]
    """Sorted by name: the order of every index and column in the model."""
    text: TextConfig
    arch: Part
    """Key in MODELS, and the arguments of the class beside experts and text."""
    data: DataConfig
    optimizer: Part
    lr_scheduler: Part | None
    loss: Part
    trainer: TrainerConfig
    needs: BatchNeeds = field(default_factory=BatchNeeds)
    """The form in which the model takes its batches."""
    evaluation: Config | None = field(default=None, repr=False, compare=False)
    """The same with `eval_settings` merged over; None: there are none."""

    def for_evaluation(self) -> Config:
        """Return the configuration of the test run: `eval_settings` merged over this one."""
        return self if self.evaluation is None else self.evaluation

    def sets_for_evaluation(self, key: str) -> bool:
        """Return whether `eval_settings` give this dotted key a value of its own."""
        section: Any = self.raw.get("eval_settings")
        for name in split_path(key):
            if not isinstance(section, Mapping) or section.get(name) is None:
                return False
            section = section[name]
        return True
