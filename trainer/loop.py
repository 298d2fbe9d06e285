"""Training: epoch after epoch, validated, saved, and continued exactly where it was stopped."""

import copy
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import tqdm

from model.retrieval_model import RetrievalModel
from trainer.checkpoint import (
    Checkpoint,
    Snapshot,
    is_count,
    load_checkpoint,
    load_weights,
    restore_optimizer,
    share_file,
)
from trainer.distributed import ALONE, Processes
from trainer.evaluator import EvaluationData, evaluate
from utils.config import TrainerConfig
from utils.config.kinds import is_finite_number, shown
from utils.errors import CheckpointError, DataError, ProjectError
from utils.seeds import random_state, restore_random_state
from utils.stop import StoppedError, StopSignals

logger = logging.getLogger(__name__)

LAST = "last.pth"
BEST = "trained_model.pth"
READ_LOSSES_EVERY = 20  # steps between looks at the device, each of which waits for it
PERIODIC_KEPT = 3
DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)
"""What using a wrong value of a file raises; torch refuses generators' states as RuntimeError."""

Batch = tuple[torch.Tensor, Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]]
Record = dict[str, Any]


class TrainData(Protocol):
    """What training needs of a data set."""

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches of an epoch."""

    def epoch(
        self, epoch: int, seed: int, *, first_batch: int, device: torch.device
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch, a function of (epoch, seed) alone."""


@dataclass
class Progress:
    """Where a training is, as plain types.

    `epoch` counts finished epochs, `losses` are those of the batches of the next epoch that are
    done already, of `batches` in all; `stale` counts validations since the best one; `history`
    holds one record per finished epoch.
    """

    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    batches: int = 0
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0
    history: list[Record] = field(default_factory=list)

    def check(self) -> None:
        """Raise ValueError naming the first field that holds what no training leaves."""
        for name in ("epoch", "batches", "best_epoch", "stale"):
            self._expect(name, is_count(getattr(self, name)), "a whole number from 0 up")
        are_losses = isinstance(self.losses, list) and all(map(is_finite_number, self.losses))
        self._expect("losses", are_losses, "a list of finite numbers")
        fits = not self.losses or len(self.losses) <= self.batches
        self._expect("batches", fits, f"at least {len(self.losses)}, the batches done")
        self._expect("best", self.best is None or is_finite_number(self.best), "a finite number")
        self._expect("best_epoch", self.best_epoch <= self.epoch, "no epoch to come")
        are_records = isinstance(self.history, list) and all(map(_is_record, self.history))
        self._expect("history", are_records, "a list of records, one for each epoch")
        epochs = [0, *(record["epoch"] for record in self.history), self.epoch + 1]
        self._expect("history", epochs == sorted(set(epochs)), "finished epochs in their order")

    def _expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} is {shown(getattr(self, name))}, expected {expected}")


@dataclass
class Training:
    """Everything that changes while a model is trained."""

    model: RetrievalModel
    step: nn.Module
    """Maps (text, experts, available) to the loss: the model with its ranking loss."""
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.StepLR | None
    progress: Progress = field(default_factory=Progress)

    def snapshot(self, config: Mapping[str, Any], *, with_optimizer: bool = True) -> Snapshot:
        """Return what a checkpoint of this moment holds; tensors are shared, not copied."""
        return Snapshot(
            epoch=self.progress.epoch,
            config=dict(config),
            state_dict=self.model.published_state_dict(),
            optimizer=self.optimizer.state_dict() if with_optimizer else None,
            monitor_best=self.progress.best,
            progress={
                **asdict(self.progress),
                "scheduler": self.scheduler.state_dict() if self.scheduler else None,
                "random": random_state(),
            },
        )

    def restore(self, checkpoint: Checkpoint, config_file: str = "the configuration") -> None:
        """Continue from a checkpoint: exactly from one of ours, as well as can be from others.

        Raises CheckpointError when weights or optimiser belong to another architecture than that
        of `config_file`, and for values that no training leaves.
        """
        load_weights(self.model, checkpoint, config_file)
        restore_optimizer(self.optimizer, self.model, checkpoint)
        epoch, stored = checkpoint.epoch, checkpoint.progress
        if stored is None:
            self.progress = Progress(epoch, best=checkpoint.monitor_best, best_epoch=epoch)
            if self.scheduler is not None:
                self.scheduler.last_epoch = epoch
            return
        try:
            names = asdict(Progress())
            self.progress = Progress(**{name: copy.deepcopy(stored[name]) for name in names})
            self.progress.check()
            if self.progress.epoch != epoch:
                raise ValueError(f"epoch is {self.progress.epoch} in one place, {epoch} in another")
            if self.scheduler is not None:
                _restore_scheduler(self.scheduler, stored["scheduler"], epoch)
            restore_random_state(stored["random"])
        except DAMAGE as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise CheckpointError(
                f"{checkpoint.path}: its training state is damaged or incomplete: {reason}; "
                "continue from another checkpoint, or start a new run from its weights with "
                "--finetune"
            ) from error

    def forget_lost_best(self, restored: Path, folder: Path) -> None:
        """Let the next validated epoch be the best so far, if the file of the best one is lost.

        That is: trained_model.pth is not there, damaged, or not of the epoch this state calls the
        best. The last may be because the state is older than it: then it will come to be again.
        """
        best = folder / BEST
        if restored == best or self.progress.best_epoch == 0:
            return
        try:
            found = load_checkpoint(best).epoch
        except (CheckpointError, DataError) as error:
            logger.warning("%s", error)
            found = None
        if found != self.progress.best_epoch:
            self.progress.best = None


def _is_record(value: object) -> bool:
    """Say whether a value of a file is the record of an epoch."""
    return (
        isinstance(value, dict)
        and {"epoch", "loss", "learning_rate", "seconds"} <= value.keys()
        and is_count(value["epoch"])
        and all(isinstance(name, str) for name in value)
        and all(map(is_finite_number, value.values()))
    )


def _restore_scheduler(
    scheduler: torch.optim.lr_scheduler.StepLR, stored: Mapping[str, Any], epoch: int
) -> None:
    """Load the state of this very schedule at `epoch`; raises ValueError for any other."""
    for key, value in (scheduler.state_dict() | {"last_epoch": epoch}).items():
        if key == "_last_lr":
            fits = len(stored[key]) == len(value) and all(map(is_finite_number, stored[key]))
        else:
            fits = is_count(stored[key]) if key == "_step_count" else stored[key] == value
        if not fits:
            raise ValueError(f"scheduler.{key} is {shown(stored[key])}, expected one like {value}")
    scheduler.load_state_dict({key: stored[key] for key in scheduler.state_dict()})


def fit(
    training: Training,
    data: TrainData,
    validation: EvaluationData,
    *,
    settings: TrainerConfig,
    seed: int,
    device: torch.device,
    folder: Path,
    config: Mapping[str, Any],
    stop: StopSignals,
    on_epoch: Callable[[Record], None],
    processes: Processes = ALONE,
) -> None:
    """Train until the last epoch or until `early_stop`; leave `trained_model.pth`, `last.pth`.

    `on_epoch` receives the record of each finished epoch. With several processes only the writer
    saves, and all of them decide alike.
    Raises ProjectError naming the step when the loss is not finite, StoppedError after saving
    when a signal came, CheckpointError when the restored epoch is not one of this data.
    """
    progress = training.progress
    _check_batches(progress, data.batches_per_epoch)
    keeper = _Keeper(training, folder, settings, config, writes=processes.is_writer)
    total = settings.epochs * data.batches_per_epoch
    done = progress.epoch * data.batches_per_epoch + len(progress.losses)
    shown = processes.is_writer and settings.verbosity >= 2
    hidden = None if shown else True  # None: hidden where there is no terminal
    with (
        stop.noted(),
        tqdm(total=total, initial=done, desc=f"seed {seed}", unit="batch", disable=hidden) as bar,
    ):
        while progress.epoch < settings.epochs and not _stopped_early(progress, settings):
            started = time.perf_counter()
            _train_one_epoch(training, data, seed, device, stop, keeper, bar, processes)
            record = _finish_epoch(training, time.perf_counter() - started)
            validated = _is_validated(progress.epoch, settings)
            if validated:
                metrics = evaluate(
                    training.model, validation, device=device, processes=processes
                ).metrics
                measured = flatten("val", metrics)
                record.update(processes.numbers_of_writer(measured, device))
            improved = validated and _note_best(progress, record, settings)
            progress.history.append(record)
            keeper.end_of_epoch(improved=improved)
            on_epoch(record)
            if processes.any(bool(stop.received), device):
                keeper.save_now()
                raise _stopped(folder, progress, stop)
        if _stopped_early(progress, settings):
            logger.info("stopped early: %d validations without improvement", progress.stale)
        keeper.finish()


def _check_batches(progress: Progress, batches: int) -> None:
    """Refuse to go on in the middle of an epoch that has another number of batches now."""
    if progress.losses and progress.batches != batches:
        raise CheckpointError(
            f"the checkpoint stands after {len(progress.losses)} of {progress.batches} batches of "
            f"epoch {progress.epoch + 1}, which has {batches} now; continue with the data set, the "
            "batch size and the flags it was made with, or from another checkpoint"
        )
    progress.batches = batches


def flatten(split: str, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return {"val_t2v_metrics_R1": ...} for {"t2v_metrics": {"R1": ...}, ...}."""
    return {
        f"{split}_{task}_{name}": value
        for task, values in metrics.items()
        for name, value in values.items()
    }


def _train_one_epoch(
    training: Training,
    data: TrainData,
    seed: int,
    device: torch.device,
    stop: StopSignals,
    keeper: "_Keeper",
    bar: tqdm,
    processes: Processes,
) -> None:
    """Take the remaining steps of the epoch, saving now and then where it is long."""
    progress = training.progress
    training.model.train()
    unread: list[torch.Tensor] = []
    batches = data.epoch(progress.epoch + 1, seed, first_batch=len(progress.losses), device=device)
    for text, experts, available in batches:
        training.optimizer.zero_grad(set_to_none=True)
        loss = training.step(text, experts, available)
        loss.backward()
        training.optimizer.step()
        unread.append(loss.detach().clone())  # a replayed graph writes over its own
        bar.update()
        if device.type != "cpu" and len(unread) < READ_LOSSES_EVERY:
            continue
        _read_losses(unread, progress)
        if len(progress.losses) == data.batches_per_epoch:
            break  # the end of the epoch saves
        if processes.any(keeper.is_due(), device):
            keeper.save_now()
        if processes.any(bool(stop.received), device):
            keeper.save_now()
            raise _stopped(keeper.folder, progress, stop)
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


def _stopped(folder: Path, progress: Progress, stop: StopSignals) -> StoppedError:
    return StoppedError(
        f"stopped by a signal in epoch {progress.epoch + 1}, after {len(progress.losses)} of its "
        f"batches; continue with --resume {folder / LAST}",
        stop.received or signal.SIGTERM,  # another process may have received it
    )


class _Keeper:
    """Save the checkpoints of one training: the last state, the best one, periodic ones.

    The best state is always written before or together with a last state that is newer, so a
    kill between two writes only means that work is repeated, with the same outcome.
    """

    def __init__(
        self,
        training: Training,
        folder: Path,
        settings: TrainerConfig,
        config: Mapping[str, Any],
        *,
        writes: bool,
    ) -> None:
        self.training = training
        self.folder = folder
        self.settings = settings
        self.config = config
        self.writes = writes
        self._waiting: Snapshot | None = None  # a best state not yet on disk
        self._saved: tuple[int, int] | None = None  # epoch and batch of the last state on disk
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Say whether a save within the epoch is due."""
        minutes = self.settings.save_every_minutes
        return minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes

    def end_of_epoch(self, *, improved: bool) -> None:
        """Save what the settings ask for after an epoch."""
        progress, settings = self.training.progress, self.settings
        periodic = (
            not settings.save_only_best
            and progress.epoch % settings.save_period == 0
            and progress.epoch >= settings.skip_first_n_saves
        )
        if progress.epoch % settings.save_every_epochs and not periodic:
            if improved and self.writes:
                self._waiting = self._best_snapshot().copied()
            return
        if improved:
            self._waiting = self._best_snapshot()
        self.save_now(periodic=periodic)

    def save_now(self, *, periodic: bool = False) -> None:
        """Write the best state that is waiting, then the last one, if they are not on disk yet."""
        progress = self.training.progress
        here = (progress.epoch, len(progress.losses))
        if self.writes and (self._waiting is not None or self._saved != here):
            self._write(periodic=periodic)
        self._saved = here
        self._saved_at = time.monotonic()

    def finish(self) -> None:
        """Make sure that the end of the training is on disk."""
        if self._waiting is not None or self.training.progress.epoch % (
            self.settings.save_every_epochs
        ):
            self.save_now()

    def _write(self, *, periodic: bool) -> None:
        """Write the best state, the periodic one and the last one, in this order.

        States of the same moment share one file.
        """
        last, written = self.folder / LAST, None
        now = self.training.snapshot(self.config)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.write(self.folder / BEST)
            is_now = waiting.epoch == now.epoch and not self.training.progress.losses
            if is_now and waiting.optimizer is not None:
                written = self.folder / BEST
        if periodic:
            named = self.folder / f"checkpoint-epoch{now.epoch}.pth"
            if written is None:
                now.write(named)
            else:
                share_file(written, named)
            written = named
        if written is None:
            now.write(last, keep_previous=True)
        else:
            share_file(written, last, keep_previous=True)
        if periodic:
            kept = sorted(self.folder.glob("checkpoint-epoch*.pth"), key=_epoch_in_name)
            for path in kept[:-PERIODIC_KEPT]:
                path.unlink()

    def _best_snapshot(self) -> Snapshot:
        return self.training.snapshot(
            self.config, with_optimizer=self.settings.include_optim_in_ckpts
        )


def _epoch_in_name(path: Path) -> int:
    digits = path.stem.removeprefix("checkpoint-epoch")
    return int(digits) if digits.isdecimal() else -1
