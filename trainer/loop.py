"""The loop of a training: epoch after epoch, validated, saved, stopped when a signal came."""

import itertools
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from model import PreparedModel
from trainer.cuda_graphs import Gradients, gradients_of
from trainer.distributed import ALONE, Processes, gather_batch
from trainer.evaluator import evaluate
from trainer.gradient_cache import CachedGradients
from trainer.keeper import LAST, Keeper
from trainer.progress import Progress, Record
from trainer.ranking_step import RankingStep
from trainer.training import Training
from utils.batches import EvaluationData
from utils.config import TrainerConfig
from utils.errors import CheckpointError, ProjectError
from utils.progress import no_bar
from utils.stop import StoppedError, StopSignals

logger = logging.getLogger(__name__)

READ_LOSSES_EVERY = 50  # steps between looks at the device, each of which waits for it

Batch = tuple[Any, ...]
"""The arguments of a step: text, experts, available, and the numbers of the clips; or how and where
they are gathered, a PlannedBatch.
"""


class TrainData(Protocol):
    """The batches of a training."""

    def __len__(self) -> int:
        """Return the number of its clips."""

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches of an epoch."""

    def epoch(
        self,
        epoch: int,
        seed: int,
        *,
        first_batch: int,
        device: torch.device,
        share: tuple[int, int],
        planned: bool,
    ) -> Iterator[Batch]:
        """Yield the share of a process of each batch, a function of (epoch, seed) alone.

        `share` is (rank, number of processes); `planned` asks for PlannedBatches, where possible.
        """


@dataclass(frozen=True)
class Fit:
    """One training's data, settings and places, none of which changes on the way."""

    data: TrainData
    validation: EvaluationData
    settings: TrainerConfig
    seed: int
    device: torch.device
    folder: Path
    """Of the checkpoints."""
    config: Mapping[str, Any]
    """Stored in every checkpoint."""
    stop: StopSignals
    on_epoch: Callable[[Record], None]
    """Receives the record of each finished epoch."""
    processes: Processes = ALONE
    seeds: tuple[int, ...] = ()
    """All seeds of the run, for the time that it will take."""
    most_batches: int | None = None
    """The first ones of an epoch, which alone are taken; None: all."""

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches that are taken in an epoch."""
        count = self.data.batches_per_epoch
        return count if self.most_batches is None else min(self.most_batches, count)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from `first` on, of each the share of this process."""
        batches = self.data.epoch(
            epoch,
            self.seed,
            first_batch=first,
            device=self.device,
            share=(self.processes.rank, self.processes.world_size),
            planned=self.device.type == "cuda",
        )
        return itertools.islice(batches, self.batches_per_epoch - first)

    @property
    def draws_bar(self) -> bool:
        """Whether a bar of the steps is drawn, if there is a terminal."""
        return self.processes.is_writer and self.settings.verbosity >= 2


def fit(training: Training, task: Fit) -> None:
    """Train until the last epoch or until `early_stop`; leave `trained_model.pth`, `last.pth`.

    With several processes only the writer saves, and all of them decide alike.
    Raises ProjectError naming the step when the loss is not finite, StoppedError after saving
    when a signal came, CheckpointError when the restored epoch is not one of this data.
    """
    progress, settings = training.progress, task.settings
    _check_batches(progress, task.batches_per_epoch)
    keeper = Keeper(training, task.folder, settings, task.config, writes=task.processes.is_writer)
    gradients = _gradients(training, task)
    bar = _bar_of(task, progress)
    with task.stop.noted(), bar:
        while progress.epoch < settings.epochs and not _stopped_early(progress, settings):
            started = time.perf_counter()
            if not _prepared(training, task):
                _train_one_epoch(training, gradients, task, keeper, bar)
            record = _finish_epoch(training, time.perf_counter() - started)
            _require_finite_weights(training)
            improved = False
            if _is_validated(progress.epoch, settings):
                record.update(_validate(training, task))
                improved = _note_best(progress, record, settings)
            progress.history.append(record)
            keeper.end_of_epoch(improved=improved)
            task.on_epoch(record)
            _stop_if_asked(task, keeper, progress)
        if _stopped_early(progress, settings):
            logger.info("stopped early: %d validations without improvement", progress.stale)
        keeper.finish()


def _gradients(training: Training, task: Fit) -> Gradients:
    """Return how gradients are computed: part by part, replayed, or as usual."""
    settings, step = task.settings, training.step
    if settings.embed_at_once is not None:
        if not isinstance(step, RankingStep):
            raise TypeError(f"{type(step).__name__} embeds and compares in one")
        return CachedGradients(step, training.optimizer, settings.embed_at_once)
    return gradients_of(
        step,
        training.optimizer,
        replay=settings.cuda_graphs,
        device=task.device,
        alone=task.processes.is_alone,
    )


def _bar_of(task: Fit, progress: Progress) -> tqdm:
    """Return a bar of all batches of all seeds, so that its time is that of the whole run."""
    seeds, batches = task.seeds or (task.seed,), task.batches_per_epoch
    of_seed = task.settings.epochs * batches
    done = seeds.index(task.seed) * of_seed + progress.epoch * batches + len(progress.losses)
    return tqdm(
        total=len(seeds) * of_seed,
        initial=done,
        unit="batch",
        smoothing=0,  # the mean rate: validations take their share of the time
        disable=no_bar(hidden=not task.draws_bar),
    )


def _validate(training: Training, task: Fit) -> dict[str, float]:
    """Return the figures of the validation split, those of the writer in every process."""
    model, data = training.evaluated, task.validation
    scored = evaluate(model, data, device=task.device, processes=task.processes)
    return task.processes.of_writer(flatten("val", scored.metrics), task.device)


def _stop_if_asked(task: Fit, keeper: Keeper, progress: Progress) -> None:
    """Save and raise StoppedError if any process received a signal."""
    if task.processes.any(bool(task.stop.received), task.device):
        keeper.save_now()
        raise StoppedError(
            f"stopped by a signal in epoch {progress.epoch + 1}, after {len(progress.losses)} of "
            f"its batches; continue with --resume {task.folder / LAST}",
            task.stop.received or signal.SIGTERM,  # another process may have received it
        )


def _check_batches(progress: Progress, batches: int) -> None:
    """Refuse to go on in the middle of an epoch that has another number of batches now."""
    if progress.losses and progress.batches != batches:
        raise CheckpointError(
            f"the checkpoint was saved after {len(progress.losses)} of {progress.batches} batches "
            f"of epoch {progress.epoch + 1}, which has {batches} now; continue with the data set, "
            "the batch size and the flags it was made with, or from another checkpoint"
        )
    progress.batches = batches


def flatten(split: str, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return {"val_t2v_metrics_R1": ...} for {"t2v_metrics": {"R1": ...}, ...}."""
    return {
        f"{split}_{task}_{name}": value
        for task, values in metrics.items()
        for name, value in values.items()
    }


def _prepared(training: Training, task: Fit) -> bool:
    """Let the model compute what the epoch begins with; say whether that was all of the epoch.

    All processes read all clips, and compute the same.
    """
    model, progress = training.model, training.progress
    if not isinstance(model, PreparedModel) or progress.losses:
        return False

    def read(number: int) -> Iterator[Batch]:
        return map(gather_batch, task.batches(number))

    loss = model.prepare(read, progress.epoch + 1)
    if loss is None:
        return False
    _read_losses([loss], progress)
    return True


def _train_one_epoch(
    training: Training, gradients: Gradients, task: Fit, keeper: Keeper, bar: tqdm
) -> None:
    """Take the remaining steps of the epoch, saving now and then where it is long."""
    progress, device = training.progress, task.device
    training.model.train()
    unread: list[torch.Tensor] = []
    bar.set_description(
        f"seed {task.seed} epoch {progress.epoch + 1}/{task.settings.epochs}", refresh=False
    )
    for batch in task.batches(progress.epoch + 1, len(progress.losses)):
        loss = gradients(batch)
        training.take_step()
        unread.append(loss.clone())  # a replayed graph writes over its own
        bar.update()
        if device.type != "cpu" and len(unread) < READ_LOSSES_EVERY:
            continue
        _read_losses(unread, progress)
        bar.set_postfix_str(f"loss {progress.losses[-1]:.4g}", refresh=False)
        if len(progress.losses) == task.batches_per_epoch:
            break  # the end of the epoch saves
        if task.processes.any(keeper.is_due(), device):
            keeper.save_now()
        _stop_if_asked(task, keeper, progress)
    _read_losses(unread, progress)


def _read_losses(unread: list[torch.Tensor], progress: Progress) -> None:
    """Bring losses from the device, refusing the first that is not finite."""
    if not unread:
        return
    for value in torch.stack(unread).tolist():
        if not math.isfinite(value):
            raise ProjectError(
                f"the loss is {value} at step {len(progress.losses) + 1} of epoch "
                f"{progress.epoch + 1}; lower optimizer.args.lr or check the features. No result "
                "was written; the checkpoints before this epoch are intact"
            )
        progress.losses.append(value)
    unread.clear()


def _require_finite_weights(training: Training) -> None:
    """Raise ProjectError naming weights that are not finite: the loss need not show them."""
    state = training.model.state_dict()
    names = [name for name, value in state.items() if value.is_floating_point()]
    finite = torch.stack([state[name].isfinite().all() for name in names]).tolist()
    if not all(finite):
        raise ProjectError(
            f"the weights {names[finite.index(False)]} hold NaN or infinite values after epoch "
            f"{training.progress.epoch}; lower optimizer.args.lr or check the features. The "
            "checkpoints before this epoch are intact"
        )


def _finish_epoch(training: Training, seconds: float) -> Record:
    """Close the epoch: its record has the mean loss and the learning rate as used."""
    progress = training.progress
    record: Record = {
        "epoch": progress.epoch + 1,
        "loss": math.fsum(progress.losses) / len(progress.losses),
        "learning_rate": training.optimizer.param_groups[0]["lr"],
        "seconds": round(seconds, 3),
    }
    progress.epoch += 1
    progress.losses = []
    if training.scheduler is not None:
        training.scheduler.step()
    return record


def _is_validated(epoch: int, settings: TrainerConfig) -> bool:
    return epoch % settings.val_freq == 0 or epoch == settings.epochs


def _note_best(progress: Progress, record: Record, settings: TrainerConfig) -> bool:
    """Say whether this epoch is the best so far; a tie goes to the later epoch."""
    if settings.monitor_mode == "off":
        progress.best_epoch = progress.epoch
        return True
    value = record.get(settings.monitor_metric)
    if value is None:
        known = ", ".join(sorted(key for key in record if key.startswith("val_")))
        raise ProjectError(
            f"trainer.monitor names {settings.monitor_metric!r}, which is not measured; "
            f"measured are {known}"
        )
    sign = 1 if settings.monitor_mode == "max" else -1
    if progress.best is not None and sign * value < sign * progress.best:
        progress.stale += 1
        return False
    progress.best, progress.best_epoch, progress.stale = value, progress.epoch, 0
    return True


def _stopped_early(progress: Progress, settings: TrainerConfig) -> bool:
    return settings.early_stop is not None and progress.stale > settings.early_stop
