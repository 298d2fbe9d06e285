"""Train a model from a configuration, over one or several seeds, and test its best checkpoints.

python train.py --config configs/clotho/train-vggish-vggsound.json --seeds 0,1,2
"""

import argparse
import itertools
import json
import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_loader import BaseDataset, build_dataset
from model import build_model, count_parameters
from model.build import RetrievalModel
from trainer.checkpoint import Checkpoint, load_checkpoint, restore_optimizer
from trainer.compare import compare, render
from trainer.device import check_cuda_graphs, choose_device, describe, set_precision
from trainer.distributed import Processes, local_device, processes_of
from trainer.evaluator import EvaluationData, evaluate
from trainer.loop import BEST, Batch, Record, Training, fit
from trainer.optimizer import build_optimizer, build_scheduler
from trainer.ranking_step import build_step
from trainer.report import Board, MetricsFile, describe_epoch, results
from trainer.runs import (
    Run,
    damaged_hint,
    finished_checkpoint,
    last_usable,
    new_run,
    newest_runs,
    open_run,
    purge_runs,
)
from utils.config import Config, load_config
from utils.errors import (
    CheckpointError,
    DataError,
    ProjectError,
    UsageError,
    nearest,
    run_main,
)
from utils.experiments import ROOT_URL, fetch_run, load_experiments
from utils.files import write_json
from utils.log import add_log_file, remove_log_file, start_logging
from utils.seeds import seed_everything
from utils.stop import StoppedError, StopSignals

logger = logging.getLogger("train")

MINI_BATCHES = 5
GROUP_NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
MOST_SEED = 2**32 - 1  # what numpy's generator takes


@dataclass(frozen=True)
class Splits:
    """The data of a run, loaded once for all its seeds."""

    train: BaseDataset
    validation: EvaluationData
    test: EvaluationData
    test_config: Config
    identity: dict[str, Any]


class Epochs:
    """The batches that one process takes: its share of each, only the first few if `mini`."""

    def __init__(self, data: BaseDataset, processes: Processes, *, mini: bool) -> None:
        self.data = data
        self.processes = processes
        count = data.batches_per_epoch
        self.batches_per_epoch = min(MINI_BATCHES, count) if mini else count

    def epoch(
        self, epoch: int, seed: int, *, first_batch: int, device: torch.device
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch from `first_batch` on."""
        batches = self.data.epoch(
            epoch,
            seed,
            first_batch=first_batch,
            device=device,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
        )
        return itertools.islice(batches, self.batches_per_epoch - first_batch)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", help="configuration, JSON or YAML")
    parser.add_argument("--device", help="number of a GPU; the CPU without it")
    parser.add_argument("--seeds", help="comma-separated, such as 0,1,2; default: the config's")
    parser.add_argument("--group_seed", type=int, help="the one seed of this member of a group")
    parser.add_argument("--group_id", help="name of a group of runs, one seed each")
    parser.add_argument(
        "--resume", metavar="CKPT", help="continue the run of this checkpoint; auto: the newest"
    )
    parser.add_argument(
        "--finetune", action="store_true", help="start a new run from the weights of --resume"
    )
    parser.add_argument(
        "--root_url", default=ROOT_URL, help="a mirror to fetch a published start from"
    )
    parser.add_argument(
        "--custom_args", metavar="K.K@V+K@V", help="set known keys of the configuration"
    )
    parser.add_argument("--mini_train", action="store_true", help="5 batches an epoch")
    parser.add_argument("--train_single_epoch", action="store_true", help="only one epoch")
    parser.add_argument(
        "--disable_workers", action="store_true", help="prepare batches in the main thread"
    )
    parser.add_argument(
        "--purge_exp_dir", action="store_true", help="remove this experiment's earlier runs first"
    )
    parser.add_argument("--quiet", action="store_true", help="warnings and the table only")
    parser.add_argument("--verbose", action="store_true", help="more about what is going on")
    args = parser.parse_args(argv)
    if (args.group_seed is None) != (args.group_id is None):
        raise UsageError("--group_seed and --group_id belong together; give both or neither")
    if args.group_id is not None and (not GROUP_NAME.fullmatch(args.group_id) or args.seeds):
        raise UsageError("--group_id takes letters, digits, - and _, and replaces --seeds")
    if args.purge_exp_dir and args.resume is not None:
        raise UsageError("--purge_exp_dir would remove what --resume asks for; give one of them")
    if args.finetune and args.resume in (None, "auto"):
        raise UsageError("--finetune needs --resume CKPT, the checkpoint whose weights it takes")
    if args.config is None and (args.resume in (None, "auto") or args.finetune):
        raise UsageError("--config is needed, such as configs/clotho/train-vggish-vggsound.json")
    return args


def read_config(args: argparse.Namespace) -> Config:
    """Load the configuration with what the flags change of it."""
    changes: dict[str, object] = {}
    if args.train_single_epoch:
        changes |= {"trainer.epochs": 1, "trainer.save_period": 1}
    if args.mini_train:
        changes["trainer.tensorboard"] = False
    if args.disable_workers:
        changes["data_loader.args.num_workers"] = 0
    return load_config(
        args.config or Path(args.resume).parent / "config.json",
        changes,
        custom_args=args.custom_args or "",
        tag="-train-single-epoch" if args.train_single_epoch else "",
    )


def choose_seeds(args: argparse.Namespace, config: Config) -> tuple[int, ...]:
    """Return the seeds that the flags ask for, the config's one by default."""
    if args.group_seed is not None:
        seeds: tuple[int, ...] = (args.group_seed,)
    elif args.seeds is None:
        seeds = (config.seed,)
    else:
        parts = [part.strip() for part in args.seeds.split(",")]
        numbers = all(part.isdecimal() and part.isascii() for part in parts)
        seeds = tuple(int(part) for part in parts) if numbers else ()
        if not seeds or len(set(seeds)) < len(seeds):
            raise UsageError(
                f"--seeds {args.seeds}: expected different whole numbers, such as 0,1,2"
            )
    for seed in seeds:
        if not 0 <= seed <= MOST_SEED:
            raise UsageError(f"seed {seed}: expected a number from 0 to {MOST_SEED}")
    return seeds


def load_splits(config: Config) -> Splits:
    """Open training, validation and test data."""
    test_config = config.for_evaluation()
    train = build_dataset(config, "train")
    validation = build_dataset(config, config.data.split_name)
    test = build_dataset(test_config, test_config.data.split_name)
    return Splits(
        train,
        EvaluationData(*validation.evaluation()),
        EvaluationData(*test.evaluation()),
        test_config,
        test.identity,
    )


@dataclass(frozen=True)
class Job:
    """What stays the same for all seeds of a run."""

    config: Config
    run: Run
    data: Splits
    device: torch.device
    processes: Processes
    stop: StopSignals
    start: str | None
    """An experiment or a checkpoint whose weights the seeds start from."""
    root_url: str
    mini: bool
    started: float


def starting_checkpoint(start: str | None, save_dir: Path, seed: int, root_url: str) -> Path | None:
    """Return the checkpoint whose weights a seed starts from, None for fresh ones.

    `start` is a file, or an experiment: trained here, or published and then fetched.
    """
    if start is None:
        return None
    if Path(start).is_file():
        return Path(start)
    own = finished_checkpoint(save_dir, start, seed)
    if own is not None:
        return own
    experiments = load_experiments()
    if start in experiments:
        folder = fetch_run(experiments[start], seed, root_url=root_url, data_dir=save_dir.parent)
        return folder / BEST
    raise UsageError(
        f"{start} is neither a checkpoint nor an experiment with a finished seed {seed}"
        f"{nearest(start, experiments)}"
    )


def build_training(job: Job, seed: int) -> Training:
    """Build what is trained, its weights drawn from the seed."""
    config = job.config
    seed_everything(seed)
    model = build_model(config).to(job.device)
    optimizer = build_optimizer(config.optimizer, model.parameters())
    step = build_step(config, model, job.processes)
    return Training(model, step, optimizer, build_scheduler(config.lr_scheduler, optimizer))


def train_seed(job: Job, seed: int, resume: Checkpoint | None) -> RetrievalModel:
    """Train one seed to its end; return the model, whose optimiser and gradients are let go."""
    config, run = job.config, job.run
    training = build_training(job, seed)
    start = None
    if resume is None:
        save_dir = Path(config.trainer.save_dir)
        start = starting_checkpoint(job.start, save_dir, seed, job.root_url)
    if resume is not None:
        logger.info("continuing after epoch %d of %s", resume.epoch, resume.path)
        training.restore(resume)
        training.forget_lost_best(resume.path, run.folder(seed))
    elif start is not None:
        logger.info("starting from the weights of %s", start)
        checkpoint = load_checkpoint(start)
        training.model.load_published(checkpoint.state_dict)
        if config.trainer.finetune_optimizer:
            restore_optimizer(training.optimizer, training.model, checkpoint)
    own_config = {**config.raw, "seed": seed}
    if job.processes.is_writer:
        run.prepare(seed)
        write_json(run.models / "config.json", config.raw)
        write_json(run.folder(seed) / "config.json", own_config)
    metrics_file = MetricsFile(run.log / "metrics.jsonl")
    drawn = config.trainer.tensorboard and job.processes.is_writer
    past = training.progress.history
    with Board(run.tensorboard(seed) if drawn else None, max(1, len(past))) as board:
        if past and job.processes.is_writer:  # a kill may have come before its record was written
            metrics_file.replace(seed, past)
            board.add(past[-1])

        def on_epoch(record: Record) -> None:
            if not job.processes.is_writer:
                return
            is_best = training.progress.best_epoch == record["epoch"]
            epochs = config.trainer.epochs
            logger.info("%s", describe_epoch(record, seed=seed, epochs=epochs, is_best=is_best))
            metrics_file.replace(seed, training.progress.history)
            board.add(record)

        fit(
            training,
            Epochs(job.data.train, job.processes, mini=job.mini),
            job.data.validation,
            settings=config.trainer,
            seed=seed,
            device=job.device,
            folder=run.folder(seed),
            config=own_config,
            stop=job.stop,
            on_epoch=on_epoch,
            processes=job.processes,
        )
    training.optimizer.zero_grad(set_to_none=True)
    return training.model


def test_seed(job: Job, seed: int, model: RetrievalModel) -> dict[str, Any]:
    """Test the best checkpoint of a seed; return metrics by task and the best epoch."""
    job.processes.wait()
    best = load_checkpoint(job.run.folder(seed) / BEST)
    model.load_published(best.state_dict)
    epoch = best.epoch
    del best  # as large as all that training held
    tested = evaluate(model, job.data.test, device=job.device, processes=job.processes)
    return {**tested.metrics, "best_epoch": epoch}


def train_run(job: Job, checkpoint: Checkpoint | None, seed_of_checkpoint: int | None) -> None:
    """Train every seed of a run that is not finished yet; write and print its results."""
    config, run, data = job.config, job.run, job.data
    with torch.device("meta"):  # no memory for weights that are only counted
        parameters = count_parameters(build_model(config))
    logger.info(
        "%s: %s parameters, %s clips, epochs: %d, seeds: %s, device: %s",
        config.name,
        f"{parameters:,}",
        f"{len(data.train):,}",
        config.trainer.epochs,
        _listed(run.seeds),
        describe(job.device),
    )
    logger.info(
        "validation of text-to-audio (t2a) and audio-to-text (a2t): R@1 R@5 R@10 and median rank; "
        "* the best so far"
    )
    seeds: dict[str, dict[str, Any]] = {}
    failures: list[str] = []
    for seed in run.seeds:
        named = seed == seed_of_checkpoint
        reached = None if named else run.result(seed, config.trainer.epochs)
        if reached is None:
            resume = checkpoint if named else last_usable(run, seed)
            try:
                reached = test_seed(job, seed, train_seed(job, seed, resume))
            except StoppedError:
                raise
            except ProjectError as error:
                if len(run.seeds) == 1 or not job.processes.is_alone:
                    raise
                logger.error("seed %d failed: %s", seed, error)
                failures.append(f"seed {seed}: {error}")
                continue
            if job.processes.is_writer:
                run.save_result(seed, reached, config.trainer.epochs)
        seeds[str(seed)] = reached
    if failures:
        lines = "\n".join(f"  {failure}" for failure in failures)
        raise ProjectError(
            f"{len(failures)} of {len(run.seeds)} seeds failed, no results were written:\n{lines}"
        )
    if not job.processes.is_writer:
        return
    content = results(
        config=data.test_config,
        seeds=seeds,
        split=data.test_config.data.split_name,
        identity=data.identity,
        parameters=parameters,
        device=describe(job.device),
        seconds=time.perf_counter() - job.started,
    )
    write_json(run.log / "results.json", content)
    print(render([compare(seeds, name=config.name, parameters=parameters)]))
    print(f"checkpoints: {run.models}\nresults:     {run.log / 'results.json'}")


def choose_run(
    args: argparse.Namespace, config: Config, seeds: tuple[int, ...]
) -> tuple[Run, int | None]:
    """Return the run to work on, and the seed of the checkpoint that --resume names."""
    save_dir = config.trainer.save_dir
    chosen = args.seeds or args.group_id
    if args.resume == "auto":
        for run in newest_runs(save_dir, config.name, seeds if chosen else None, args.group_id):
            if any(run.result(seed) or last_usable(run, seed) for seed in run.seeds):
                logger.info("continuing the run %s", run.models)
                return run, None
        logger.info("no run of %s to continue; starting a new one", config.name)
    elif args.resume and not args.finetune:
        run, seed = open_run(save_dir, Path(args.resume), config.seed)
        if chosen and run.seeds != seeds:
            raise UsageError(
                f"{args.resume} belongs to a run of the seeds {_listed(run.seeds)}, not "
                f"{_listed(seeds)}; leave the seeds out"
            )
        return run, seed
    return new_run(save_dir, config.name, seeds, args.group_id), None


def _listed(seeds: Sequence[int]) -> str:
    return ",".join(map(str, seeds))


def agree_on_run(
    args: argparse.Namespace, config: Config, processes: Processes, device: torch.device
) -> tuple[Run, int | None]:
    """Let the writer choose or make the run, and tell the other processes."""
    told = ""
    if processes.is_writer:
        run, seed = choose_run(args, config, choose_seeds(args, config))
        told = json.dumps([str(run.models), str(run.log), run.seeds, seed])
    models, log, seeds, seed = json.loads(processes.text_of_writer(told, device))
    return Run(Path(models), Path(log), tuple(seeds)), seed


def run_job(
    args: argparse.Namespace, config: Config, device: torch.device, processes: Processes
) -> None:
    """Find or make the run, train it, and keep its log.

    What can go wrong before the training does so before the folders of a new run are made.
    """
    started = time.perf_counter()
    with StopSignals() as stop:
        named = args.resume not in (None, "auto") and not args.finetune
        checkpoint = load_named(Path(args.resume)) if named else None
        start = args.resume if args.finetune else config.trainer.start_from
        if args.resume is None or args.finetune:
            for seed in choose_seeds(args, config):
                starting_checkpoint(start, Path(config.trainer.save_dir), seed, args.root_url)
        data = load_splits(config)
        data.train.to(device)
        run, seed_of_checkpoint = agree_on_run(args, config, processes, device)
        job = Job(
            config=config,
            run=run,
            data=data,
            device=device,
            processes=processes,
            stop=stop,
            start=start,
            root_url=args.root_url,
            mini=args.mini_train,
            started=started,
        )
        with run.locked() if processes.is_writer else nullcontext():
            handler = add_log_file(run.log / "info.log") if processes.is_writer else None
            try:
                train_run(job, checkpoint, seed_of_checkpoint)
            except BaseException as error:
                if handler is not None:
                    handler.note_failure(error)
                raise
            finally:
                if handler is not None:
                    remove_log_file(handler)


def load_named(path: Path) -> Checkpoint:
    """Load the checkpoint that --resume names, offering the one before where it is damaged."""
    try:
        return load_checkpoint(path)
    except (CheckpointError, DataError) as error:
        raise CheckpointError(f"{error}{damaged_hint(path)}") from error


def run(argv: Sequence[str] | None) -> int:
    """Do what the command line asks for."""
    args = parse_arguments(argv)
    config = read_config(args)
    choose_seeds(args, config)  # a wrong flag is told before anything is made
    device = choose_device(local_device(args.device))
    set_precision(config.trainer.precision)
    with processes_of(device) as processes:
        if config.trainer.cuda_graphs:
            check_cuda_graphs(device, processes.world_size)
        quiet = args.quiet or config.trainer.verbosity == 0 or not processes.is_writer
        start_logging(quiet=quiet, verbose=args.verbose)
        if args.purge_exp_dir and processes.is_writer:
            removed = purge_runs(config.trainer.save_dir, config.name)
            logger.info("removed %d earlier runs of %s", removed, config.name)
        run_job(args, config, device, processes)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 for a failure, 2 for wrong usage."""
    return run_main(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
