"""Checkpoints scored on their test splits: one by itself, several together, published ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data_loader import BaseDataset, build_dataset, require_files
from model import count_parameters
from results.content import results
from results.ranks import Ranks, query_texts, ranks_of
from text.captions import record_of, refuse_other_encoder
from trainer.checkpoint import config_of, load_checkpoint, load_model
from trainer.device import describe
from trainer.evaluator import Evaluation, evaluate, rank
from utils.batches import EvaluationData
from utils.config import Config, load_config
from utils.errors import DataError, ProjectError
from utils.extraction_record import refuse_other_features
from utils.fetching.experiments import CHECKPOINT, Experiment, Source, sync_command

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """The evaluation of a checkpoint, and its parts."""

    path: Path
    epoch: int
    config: Config
    parameters: int
    data: BaseDataset
    split: EvaluationData
    evaluation: Evaluation

    @property
    def metrics(self) -> dict[str, Any]:
        """The entry of its seed in results.json."""
        return {**self.evaluation.metrics, "best_epoch": self.epoch}

    def ranks(self, only: Sequence[str] | None = None) -> Ranks:
        """Return the rank of every query; `only` as in `evaluate`."""
        average = self.config.arch.args.get("test_caption_mode") == "avg"
        texts = query_texts(self.data, average=average)
        return ranks_of(self.evaluation, self.split.clips, captions=texts, only=only)


class Scorer:
    """Score checkpoints, each on its test split, which is opened once where several share it."""

    def __init__(self, device: torch.device, data_dir: Path, only: list[str] | None = None) -> None:
        self.device = device
        self.data_dir = data_dir
        self.only = only
        """The clips that count as queries; None: all."""
        self._opened: dict[str, tuple[BaseDataset, EvaluationData]] = {}

    def score(
        self, path: Path, config_file: str | Path | None, changes: Mapping[str, object]
    ) -> Scored:
        """Score a checkpoint by its configuration, which `config_of` finds.

        `changes` come over its `eval_settings` too.
        """
        checkpoint = load_checkpoint(path)
        config = config_of(checkpoint, config_file, changes, data_dir=self.data_dir)
        again = {key for key in changes if config.sets_for_evaluation(key)}
        if again:
            changes = {**changes, **{f"eval_settings.{key}": changes[key] for key in again}}
            config = config_of(checkpoint, config_file, changes, data_dir=self.data_dir)
        config = config.for_evaluation()
        model = load_model(config, checkpoint).to(self.device)
        data, split = self._open(config)
        refuse_other_features(path, data.extractors, config.data.data_dir)
        encoder = record_of(data.text_file, config.text.encoder)
        refuse_other_encoder(path.parent, encoder, config.data.data_dir)
        found = evaluate(model, split, device=self.device, only=self.only)
        parameters = count_parameters(model)
        return Scored(path, checkpoint.epoch, config, parameters, data, split, found)

    def score_published(
        self, experiment: Experiment, source: Source
    ) -> tuple[dict[str, Scored], list[str]]:
        """Fetch and score every seed of an experiment; return also which failed, and why.

        Raises DataError when features are missing, before anything is fetched.
        """
        config = load_config(experiment.config, data_dir=self.data_dir).for_evaluation()
        require_files(config, sync_command(experiment.dataset, self.data_dir, source.root_url))
        scored = {}
        failed: dict[str, list[int]] = {}  # reason -> seeds: a missing file often fails all
        for seed in experiment.runs:
            try:
                path = source.fetch(experiment, seed) / CHECKPOINT
                file = experiment.config_file(seed, self.data_dir)
                scored[str(seed)] = self.score(path, file, {"name": experiment.name})
            except ProjectError as error:
                failed.setdefault(str(error), []).append(seed)
            else:
                logger.info("scored %s seed %d", experiment.key, seed)
        return scored, [
            f"{experiment.key} seed{'s' if len(of) > 1 else ''} {', '.join(map(str, of))}: {reason}"
            for reason, of in failed.items()
        ]

    def _open(self, config: Config) -> tuple[BaseDataset, EvaluationData]:
        key = repr((config.data, config.experts, config.text))
        if key not in self._opened:
            data = build_dataset(config, config.data.split_name)
            self._opened[key] = data, data.evaluation()
        return self._opened[key]


def together(alone: Sequence[Scored], only: Sequence[str] | None = None) -> Scored:
    """Score several checkpoints as one, by the mean of their similarities; the rest is the first's.

    Raises DataError unless all were scored on the same captions and clips.
    """
    first, *others = alone
    if not others:
        return first
    for other in others:
        masks = [one.evaluation.query_masks.tolist() for one in (first, other)]
        if first.split.clips != other.split.clips or masks[0] != masks[1]:
            raise DataError(
                f"{first.path} and {other.path} are evaluated on other clips or captions; an "
                "ensemble needs one test split"
            )
    each = [torch.from_numpy(one.evaluation.similarities) for one in alone]
    return replace(
        first,
        parameters=sum(one.parameters for one in alone),
        evaluation=rank(torch.stack(each).mean(dim=0), first.split, only),
    )


def results_of(
    scored: Mapping[str, Scored],
    device: torch.device,
    started: float,
    experiment: Experiment | None = None,
) -> dict[str, Any]:
    """Return the content of results.json of some seeds, scored since `started`."""
    *_, last = scored.values()
    return results(
        config=last.config,
        seeds={seed: one.metrics for seed, one in scored.items()},
        identity=last.data.identity,
        parameters=last.parameters,
        device=describe(device),
        seconds=time.perf_counter() - started,
        experiment=experiment,
    )
