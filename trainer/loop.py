"""The loop of a training: epoch after epoch, validated, saved, stopped when a signal came."""

from __future__ import annotations

import itertools
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from tqdm import tqdm

from model import PreparedModel
from trainer.cuda_graphs import Gradients, gradients_of
from trainer.distributed import gather_batch
from trainer.evaluator import evaluate
from trainer.gradient_cache import CachedGradients
from trainer.keeper import LAST, Keeper
from trainer.progress import Progress, Record
from trainer.ranking_step import RankingStep
from trainer.training import Training
from utils.config import TrainerConfig
from utils.errors import CheckpointError, ProjectError
from utils.progress import no_bar
from utils.stop import StoppedError

if TYPE_CHECKING:
    from trainer.job import Job

logger = logging.getLogger(__name__)

MINI_BATCHES = 5
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


def fit(
    training: Training, job: Job, seed: int, on_epoch: Callable[[Record], None] = lambda _: None
) -> None:
    """Train until the last epoch or until `early_stop`; leave `trained_model.pth`, `last.pth`.

    `on_epoch` receives the record of each finished epoch. With several processes only the writer
    saves, and all of them decide alike.
    Raises ProjectError naming the step when the loss is not finite, StoppedError after saving
    when a signal came, CheckpointError when the restored epoch is not one of this data.
    """
    progress, settings = training.progress, job.config.trainer
    _check_batches(progress, batches_per_epoch(job))
    config = {**job.config.raw, "seed": seed}
    folder, writes = job.run.folder(seed), job.processes.is_writer
    keeper = Keeper(training, folder, settings, config, writes=writes)
    gradients, batches = _gradients(training, job), partial(_batches, job, seed)
    bar = _bar_of(job, seed, progress)
    with job.stop.noted(), bar:
        while progress.epoch < settings.epochs and not _stopped_early(progress, settings):
            started = time.perf_counter()
            bar.set_description(
                f"seed {seed} epoch {progress.epoch + 1}/{settings.epochs}", refresh=False
            )
            if not _prepared(training, batches):
                _train_one_epoch(training, gradients, job, batches, keeper, bar)
            record = _finish_epoch(training, time.perf_counter() - started)
            _require_finite_weights(training)
            improved = False
            if progress.epoch % settings.val_freq == 0 or progress.epoch == settings.epochs:
                record.update(_validate(training, job))
                improved = _note_best(progress, record, settings)
            progress.history.append(record)
            keeper.end_of_epoch(improved=improved)
            on_epoch(record)
            _stop_if_asked(job, keeper)
        if _stopped_early(progress, settings):
            logger.info("stopped early: %d validations without improvement", progress.stale)
        keeper.save()


def batches_per_epoch(job: Job) -> int:
    """Return the number of batches that are taken in an epoch."""
    count = job.train.batches_per_epoch
    return min(MINI_BATCHES, count) if job.run.mini else count


def _batches(job: Job, seed: int, epoch: int, first: int = 0) -> Iterator[Batch]:
    """Yield the batches of an epoch from `first` on, of each the share of this process."""
    batches = job.train.epoch(
        epoch,
        seed,
        first_batch=first,
        device=job.device,
        share=(job.processes.rank, job.processes.world_size),
        planned=job.device.type == "cuda",
    )
    return itertools.islice(batches, batches_per_epoch(job) - first)


def _gradients(training: Training, job: Job) -> Gradients:
    """Return how gradients are computed: part by part, replayed, or as usual."""
    settings, step = job.config.trainer, training.step
    if settings.embed_at_once is not None:
        if not isinstance(step, RankingStep):
            raise TypeError(f"{type(step).__name__} embeds and compares in one")
        return CachedGradients(step, training.optimizer, settings.embed_at_once)
    return gradients_of(
        step,
        training.optimizer,
        replay=settings.cuda_graphs,
        device=job.device,
        alone=job.processes.is_alone,
    )


def _bar_of(job: Job, seed: int, progress: Progress) -> tqdm:
    """Return a bar of all batches of all seeds, so that its time is that of the whole run."""
    batches, settings = batches_per_epoch(job), job.config.trainer
    of_seed = settings.epochs * batches
    done = progress.epoch * batches + len(progress.losses)
    return tqdm(
        total=len(job.run.seeds) * of_seed,
        initial=job.run.seeds.index(seed) * of_seed + done,
        unit="batch",
        smoothing=0,  # the mean rate: validations take their share of the time
        disable=no_bar(hidden=settings.verbosity < 2 or not job.processes.is_writer),
    )


def _validate(training: Training, job: Job) -> dict[str, float]:
    """Return the figures of the validation split, those of the writer in every process."""
    scored = evaluate(
        training.evaluated, job.validation, device=job.device, processes=job.processes
    )
    figures = {
        f"val_{task}_{name}": value
        for task, values in scored.metrics.items()
        for name, value in values.items()
    }
    return job.processes.of_writer(lambda: figures, job.device)


def _stop_if_asked(job: Job, keeper: Keeper) -> None:
    """Save and raise StoppedError if any process received a signal."""
    if job.processes.any(bool(job.stop.received), job.device):
        keeper.save()
        progress = keeper.training.progress
        raise StoppedError(
            f"stopped by a signal in epoch {progress.epoch + 1}, after {len(progress.losses)} of "
            f"its batches; continue with --resume {keeper.folder / LAST}",
            job.stop.received or signal.SIGTERM,  # another process may have received it
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


def _prepared(training: Training, batches: Callable[[int], Iterator[Batch]]) -> bool:
    """Let the model compute what the epoch begins with; return whether that was all of the epoch.

    All processes read all clips, and compute the same.
    """
    model, progress = training.model, training.progress
    if not isinstance(model, PreparedModel) or progress.losses:
        return False
    loss = model.prepare(lambda number: map(gather_batch, batches(number)), progress.epoch + 1)
    if loss is None:
        return False
    _read_losses([loss], progress)
    return True


def _train_one_epoch(
    training: Training,
    gradients: Gradients,
    job: Job,
    batches: Callable[[int, int], Iterator[Batch]],
    keeper: Keeper,
    bar: tqdm,
) -> None:
    """Take the remaining steps of the epoch, saving now and then where it is long."""
    progress, device = training.progress, job.device
    training.model.train()
    unread: list[torch.Tensor] = []
    for batch in batches(progress.epoch + 1, len(progress.losses)):
        loss = gradients(batch)
        training.take_step()
        unread.append(loss.clone())  # a replayed graph writes over its own
        bar.update()
        if device.type != "cpu" and len(unread) < READ_LOSSES_EVERY:
            continue
        _read_losses(unread, progress)
        bar.set_postfix_str(f"loss {progress.losses[-1]:.4g}", refresh=False)
        if len(progress.losses) == progress.batches:
            break  # the end of the epoch saves
        if job.processes.any(keeper.is_due() or bool(job.stop.received), device):
            keeper.save()
            _stop_if_asked(job, keeper)
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


def _note_best(progress: Progress, record: Record, settings: TrainerConfig) -> bool:
    """Return whether this epoch is the best so far; a tie goes to the later epoch."""
    if settings.monitor_mode == "off":
        progress.best_epoch = progress.epoch
        return True
    value = record[settings.monitor_metric]
    sign = 1 if settings.monitor_mode == "max" else -1
    if progress.best is not None and sign * value < sign * progress.best:
        progress.stale += 1
        return False
    progress.best, progress.best_epoch, progress.stale = value, progress.epoch, 0
    return True


def _stopped_early(progress: Progress, settings: TrainerConfig) -> bool:
    return settings.early_stop is not None and progress.stale > settings.early_stop
