"""One call of train.py: its seeds, trained one after another on data loaded once, and tested."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model import RetrievalModel, build_model, count_parameters
from model.loss import build_loss
from trainer.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_loss,
    load_weights,
    previous_of,
)
from trainer.device import describe
from trainer.distributed import ALONE, Processes
from trainer.evaluator import Evaluation, evaluate
from trainer.keeper import BEST, LAST, exact_states
from trainer.loop import TrainData, fit
from trainer.optimizer import build_optimizer, build_scheduler
from trainer.optimizer_state import restore_optimizer
from trainer.progress import Record
from trainer.ranking_step import build_step
from trainer.report import MetricsFile, curves, describe_epoch, doubts_about, epoch_heading
from trainer.runs import Run, last_usable, set_damaged_aside
from trainer.start import check_settings, listed
from trainer.training import Training
from trainer.weight_average import WeightAverage
from utils.batches import EvaluationData
from utils.config import Config
from utils.errors import CheckpointError, DataError, ProjectError
from utils.extraction_record import ExtractionRecord, refuse_other_features, write_run_records
from utils.files import write_json
from utils.seeds import seed_everything
from utils.stop import StoppedError, StopSignals

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """The parts that all seeds of a run share."""

    config: Config
    run: Run
    train: TrainData
    validation: EvaluationData
    test: EvaluationData
    device: torch.device
    processes: Processes
    stop: StopSignals
    start: Callable[[int], Path | None] = lambda seed: None
    """Finds the checkpoint that a seed starts from, None for fresh weights."""
    extractors: Mapping[str, ExtractionRecord | None] = field(default_factory=dict)
    """Which extractor made the features of each expert, where that is known."""
    kept: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that are written beside the checkpoints of every seed, by file name."""
    on_tested: Callable[[int, Evaluation], None] = lambda seed, tested: None
    """Receives, in the writer, each seed and the scores of its best checkpoint."""


def train_seeds(
    job: Job, named: Path | None, seed_of_named: int | None
) -> dict[str, dict[str, Any]]:
    """Train every seed of a run that is not finished yet; return metrics and best epoch of each.

    The seed `seed_of_named` continues from the checkpoint `named`. Raises ProjectError naming the
    seeds that failed, after the others.
    """
    epochs = job.config.trainer.epochs
    _announce(job)
    seeds: dict[str, dict[str, Any]] = {}
    failures: list[str] = []
    for seed in job.run.seeds:
        state = named if seed == seed_of_named else None
        reached = None if state else job.run.result(seed, epochs)
        if reached is not None:
            logger.info("seed %d is finished already", seed)
        else:
            try:
                reached = test_seed(job, seed, train_seed(job, seed, state))
            except StoppedError:
                raise
            except ProjectError as error:
                if len(job.run.seeds) == 1 or not job.processes.is_alone:
                    raise
                logger.error("seed %d failed: %s", seed, error)
                failures.append(f"seed {seed}: {error}")
                continue
            if job.processes.is_writer:
                job.run.save_result(seed, reached, epochs)
                if not job.config.trainer.keep_last:
                    for state in exact_states(job.run.folder(seed)):
                        state.unlink()
        seeds[str(seed)] = reached
    if failures:
        lines = "\n".join(f"  {failure}" for failure in failures)
        raise ProjectError(
            f"{len(failures)} of {len(job.run.seeds)} seeds failed, no results were written:\n"
            f"{lines}"
        )
    return seeds


def warn_of_shared_clips(train: Collection[str], judged: Mapping[str, Collection[str]]) -> None:
    """Warn when a split that judges a model (by name) has clips that are trained on."""
    for split, clips in judged.items():
        if shared := set(train) & set(clips):
            logger.warning(
                "%d of the %d %s clips are in the training list too, such as %r: the scores will "
                "be better than on unknown sounds",
                len(shared),
                len(clips),
                split,
                min(shared),
            )


def parameters_of(config: Config) -> int:
    """Count the trainable parameters of the configured model."""
    with torch.device("meta"):  # no memory for weights that are only counted
        return count_parameters(build_model(config))


def _announce(job: Job) -> None:
    logger.info(
        "%s%s\n%s parameters, %s clips, epochs: %d, seeds: %s\ndevice: %s",
        job.config.name,
        " (--mini_train)" if job.run.mini else "",
        f"{parameters_of(job.config):,}",
        f"{len(job.train):,}",
        job.config.trainer.epochs,
        listed(job.run.seeds),
        describe(job.device),
    )
    logger.info("validation, * the best so far:\n%s", epoch_heading())


def build_training(
    config: Config, seed: int, device: torch.device, processes: Processes = ALONE
) -> Training:
    """Build everything that is trained, its weights drawn from the seed on the CPU."""
    seed_everything(seed)
    model = build_model(config).to(device)
    loss = build_loss(config.loss).to(device)
    optimizer = build_optimizer(config.optimizer, [*model.parameters(), *loss.parameters()])
    step = build_step(config, model, loss, processes)
    scheduler = build_scheduler(config.lr_scheduler, optimizer)
    decay = config.trainer.ema
    average = WeightAverage(model, decay) if decay else None
    return Training(model, loss, step, optimizer, scheduler, average)


def begin(job: Job, training: Training, seed: int, named: Path | None) -> Path | None:
    """Continue from the checkpoint `named` or else from the newest; start anew without any.

    Returns the path it continues from. The checkpoint itself is let go: it is as large as all
    that a training holds.
    """
    config = job.config
    resume = last_usable(job.run, seed) if named is None else load_checkpoint(named)
    if resume is not None:
        logger.info("continuing after epoch %d of %s", resume.epoch, resume.path)
        check_settings(config, resume)
        refuse_other_features(resume.path, job.extractors, config.data.data_dir)
        training.restore(resume, config.path)
        training.forget_lost_best(resume.path, job.run.folder(seed))
        return resume.path
    start = job.processes.of_writer(lambda: job.start(seed), job.device)
    if start is not None:
        logger.info("starting from the weights of %s", start)
        refuse_other_features(start, job.extractors, config.data.data_dir)
        checkpoint = load_checkpoint(start)
        load_weights(training.model, checkpoint, config.path)
        if config.trainer.finetune_optimizer:
            load_loss(training.loss, checkpoint)
            restore_optimizer(training.optimizer, training.model, checkpoint, training.loss)
    return None


def train_seed(job: Job, seed: int, named: Path | None) -> RetrievalModel:
    """Train one seed to its end; return the model, whose optimiser and gradients are let go."""
    config, run = job.config, job.run
    training = build_training(config, seed, job.device, job.processes)
    continued = begin(job, training, seed, named)
    if job.processes.is_writer:
        run.prepare(seed)
        if continued != run.folder(seed) / LAST:
            set_damaged_aside(run.folder(seed))
        write_json(run.models / "config.json", config.raw)
        write_json(run.folder(seed) / "config.json", {**config.raw, "seed": seed})
        write_run_records(run.folder(seed), job.extractors)
        for name, content in job.kept.items():
            write_json(run.folder(seed) / name, content)
    metrics_file = MetricsFile(run.log)
    drawn = config.trainer.tensorboard and job.processes.is_writer
    past = training.progress.history
    with curves(run.log_of(seed) if drawn else None, max(1, len(past))) as draw:
        if past and job.processes.is_writer:  # a kill may have come before its record was written
            metrics_file.replace(seed, past)
            draw(past[-1])

        def on_epoch(record: Record) -> None:
            if not job.processes.is_writer:
                return
            is_best = training.progress.best_epoch == record["epoch"]
            epochs = config.trainer.epochs
            logger.info("%s", describe_epoch(record, seed=seed, epochs=epochs, is_best=is_best))
            metrics_file.replace(seed, training.progress.history)
            draw(record)

        fit(training, job, seed, on_epoch)
    doubts = doubts_about(training.progress.history, training.progress.best_epoch)
    if doubts and job.processes.is_writer:
        logger.warning("seed %d: %s; is optimizer.args.lr too high?", seed, doubts)
    training.optimizer.zero_grad(set_to_none=True)
    return training.model


def test_seed(job: Job, seed: int, model: RetrievalModel) -> dict[str, Any]:
    """Test the best checkpoint of a seed; return metrics by task and the best epoch."""
    job.processes.wait()
    best = _load_best(job.run.folder(seed))
    load_weights(model, best, job.config.path)
    epoch = best.epoch
    del best  # as large as all that training held
    tested = evaluate(model, job.test, device=job.device, processes=job.processes)
    if job.processes.is_writer:
        job.on_tested(seed, tested)
    return {**tested.metrics, "best_epoch": epoch}


def _load_best(folder: Path) -> Checkpoint:
    """Load the best checkpoint of a finished training; where it is lost, name the next steps."""
    try:
        return load_checkpoint(folder / BEST)
    except (CheckpointError, DataError) as error:
        last = folder / LAST
        before = previous_of(last)
        repeat = f"; or repeat the last epochs: train.py --resume {before}"
        raise CheckpointError(
            f"{error}\nall epochs are done, but the best of them is lost; score the last one: "
            f"eval.py --resume {last}{repeat if before.is_file() else ''}"
        ) from error
