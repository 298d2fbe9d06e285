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
from model.retrieval_model import RetrievalModel
from trainer.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    previous_of,
    restore_optimizer,
)
from trainer.compare import compare, render
from trainer.device import check_cuda_graphs, choose_device, describe, set_precision
from trainer.distributed import Processes, local_device, processes_of
from trainer.evaluator import EvaluationData, evaluate
from trainer.loop import BEST, LAST, Batch, Record, Training, fit
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
    set_damaged_aside,
)
from utils.config import Config, config_from_dict, load_config, parse_custom_args
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
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
    if names_a_run(args):
        return config_of_run(args, changes)
    return load_config(
        args.config,
        changes,
        custom_args=args.custom_args or "",
        tag="-train-single-epoch" if args.train_single_epoch else "",
    )


def names_a_run(args: argparse.Namespace) -> bool:
    """Say whether --resume names a checkpoint whose run goes on."""
    return args.resume not in (None, "auto") and not args.finetune


def config_of_run(args: argparse.Namespace, changes: dict[str, object]) -> Config:
    """Load the configuration that the run of a checkpoint goes on with, under the run's own name.

    It is --config, or else the config.json beside the checkpoint, or else the checkpoint's own.
    """
    checkpoint = load_named(Path(args.resume))
    stored, beside = checkpoint.config or {}, checkpoint.path.parent / "config.json"
    changes = parse_custom_args(args.custom_args or "") | changes
    if "name" in stored:
        changes["name"] = stored["name"]
    if stored and args.config is None and not beside.is_file():
        return config_from_dict(stored, beside, changes)
    return load_config(args.config or beside, changes)


def load_named(path: Path) -> Checkpoint:
    """Load the checkpoint that --resume names, offering the one before where it is damaged."""
    try:
        return load_checkpoint(path)
    except (CheckpointError, DataError) as error:
        raise CheckpointError(f"{error}{damaged_hint(path)}") from error


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
    trained_on = set(train.clips) & set(test.clips)
    if trained_on:
        logger.warning(
            "%d of the %d test clips are in the training list too, such as %r: the scores will be "
            "better than on unknown sounds",
            len(trained_on),
            len(test),
            min(trained_on),
        )
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


def agree_on_start(job: Job, seed: int) -> Path | None:
    """Let the writer find or fetch what a seed starts from, and tell the other processes."""
    found = None
    if job.processes.is_writer:
        save_dir = Path(job.config.trainer.save_dir)
        found = starting_checkpoint(job.start, save_dir, seed, job.root_url)
    told = json.dumps(None if found is None else str(found))
    place = json.loads(job.processes.text_of_writer(told, job.device))
    return None if place is None else Path(place)


def begin(job: Job, training: Training, seed: int, named: Path | None) -> Path | None:
    """Continue from the checkpoint `named` or else from the newest; start anew without any.

    Returns what it continues from. Nothing that was read is held any longer then: a checkpoint is
    as large as all that a training holds.
    """
    config = job.config
    resume = last_usable(job.run, seed) if named is None else load_checkpoint(named)
    if resume is not None:
        logger.info("continuing after epoch %d of %s", resume.epoch, resume.path)
        check_settings(config, resume)
        training.restore(resume, config.path)
        training.forget_lost_best(resume.path, job.run.folder(seed))
        return resume.path
    start = agree_on_start(job, seed)
    if start is not None:
        logger.info("starting from the weights of %s", start)
        checkpoint = load_checkpoint(start)
        load_weights(training.model, checkpoint, config.path)
        if config.trainer.finetune_optimizer:
            restore_optimizer(training.optimizer, training.model, checkpoint)
    return None


def check_settings(config: Config, checkpoint: Checkpoint) -> None:
    """Refuse to continue on other terms than the stored state was trained on.

    Optimiser and schedule bring their own settings along, so that changed ones would be told but
    not used; with another loss or other batches the run's records would be of its end alone.
    """
    if checkpoint.config is None:
        return
    before = settings_of(config_from_dict(checkpoint.config, checkpoint.path))
    now = settings_of(config)
    changed = [
        f"  {key}: {before.get(key, 'unset')} there, {now.get(key, 'unset')} now"
        for key in before | now
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise UsageError(
            "\n".join(
                [
                    f"{checkpoint.path} was trained with other settings than {config.path} has:",
                    *changed,
                    "continue with those it was trained with, or start a new run from its weights: "
                    f"--resume {checkpoint.path} --finetune",
                ]
            )
        )


def settings_of(config: Config) -> dict[str, object]:
    """Return what decides on the steps of a training, by its keys in the configuration."""
    schedule = {} if config.lr_scheduler is None else vars(config.lr_scheduler)
    return {
        "optimizer.type": config.optimizer.type,
        **{f"optimizer.args.{key}": value for key, value in config.optimizer.args.items()},
        **{f"lr_scheduler.args.{key}": value for key, value in schedule.items()},
        "loss.type": config.loss.type,
        **{f"loss.args.{key}": value for key, value in config.loss.args.items()},
        "data_loader.args.dataset_name": config.data.dataset_name,
        "data_loader.args.batch_size": config.data.batch_size,
    }


def train_seed(job: Job, seed: int, named: Path | None) -> RetrievalModel:
    """Train one seed to its end; return the model, whose optimiser and gradients are let go."""
    config, run = job.config, job.run
    training = build_training(job, seed)
    continued = begin(job, training, seed, named)
    own_config = {**config.raw, "seed": seed}
    if job.processes.is_writer:
        run.prepare(seed)
        if continued != run.folder(seed) / LAST:
            set_damaged_aside(run.folder(seed))
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
    best = load_best(job.run.folder(seed))
    load_weights(model, best, job.config.path)
    epoch = best.epoch
    del best  # as large as all that training held
    tested = evaluate(model, job.data.test, device=job.device, processes=job.processes)
    return {**tested.metrics, "best_epoch": epoch}


def load_best(folder: Path) -> Checkpoint:
    """Load the best checkpoint of a finished training, saying how to go on where it is lost."""
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


def train_run(job: Job, named: Path | None, seed_of_named: int | None) -> None:
    """Train every seed of a run that is not finished yet; write and print its results.

    The seed `seed_of_named` continues from the checkpoint `named`.
    """
    config, run, data = job.config, job.run, job.data
    earlier = MetricsFile(run.log / "metrics.jsonl").seconds  # of epochs that others have done
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
        state = named if seed == seed_of_named else None
        reached = None if state else run.result(seed, config.trainer.epochs)
        if reached is None:
            try:
                reached = test_seed(job, seed, train_seed(job, seed, state))
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
        else:
            logger.info("seed %d is finished already", seed)
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
        seconds=earlier + time.perf_counter() - job.started,
    )
    if run.mini:
        content["mini_train"] = True
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
        wanted = seeds if chosen else None
        for run in newest_runs(save_dir, config.name, wanted, args.group_id, mini=args.mini_train):
            if any(run.result(seed) or last_usable(run, seed) for seed in run.seeds):
                logger.info("continuing the run %s", run.models)
                return run, None
        logger.info("no run of %s to continue; starting a new one", config.name)
    elif names_a_run(args):
        run, seed = open_run(save_dir, Path(args.resume), config.seed)
        if chosen and run.seeds != seeds:
            raise UsageError(
                f"{args.resume} belongs to a run of the seeds {_listed(run.seeds)}, not "
                f"{_listed(seeds)}; leave the seeds out"
            )
        if run.mini != args.mini_train:
            found = "with" if run.mini else "without"
            raise UsageError(
                f"{args.resume} was trained {found} --mini_train; continue it likewise"
            )
        return run, seed
    return new_run(save_dir, config.name, seeds, args.group_id, mini=args.mini_train), None


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
    return Run(Path(models), Path(log), tuple(seeds), args.mini_train), seed


def purge(config: Config, processes: Processes) -> None:
    """Remove the earlier runs of this experiment."""
    if processes.is_writer:
        removed = purge_runs(config.trainer.save_dir, config.name)
        logger.info("removed %d earlier runs of %s", removed, config.name)
    processes.wait()  # until then, another one might start from a run that goes away


def run_job(
    args: argparse.Namespace, config: Config, device: torch.device, processes: Processes
) -> None:
    """Find or make the run, train it, and keep its log.

    What can go wrong before the training does so before the folders of a new run are made.
    """
    started = time.perf_counter()
    with StopSignals() as stop:
        data = load_splits(config)
        data.train.to(device)
        if args.purge_exp_dir:
            purge(config, processes)
        start = args.resume if args.finetune else config.trainer.start_from
        if processes.is_writer and (args.resume is None or args.finetune):
            for seed in choose_seeds(args, config):
                starting_checkpoint(start, Path(config.trainer.save_dir), seed, args.root_url)
        run, seed_of_named = agree_on_run(args, config, processes, device)
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
                train_run(job, Path(args.resume) if names_a_run(args) else None, seed_of_named)
            except BaseException as error:
                if handler is not None:
                    handler.note_failure(error)
                raise
            finally:
                if handler is not None:
                    remove_log_file(handler)


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
        run_job(args, config, device, processes)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 for a failure, 2 for wrong usage."""
    return run_main(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
