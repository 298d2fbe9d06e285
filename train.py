"""Train a model from a configuration, over one or several seeds, and test its best checkpoints.

python train.py --config configs/clotho/train-vggish-vggsound.json --seeds 0,1,2
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data_loader import BaseDataset, build_dataset
from model import build_model, count_parameters
from model.loss import build_loss
from trainer.checkpoint import Checkpoint, load_checkpoint, restore_optimizer
from trainer.compare import compare, render
from trainer.device import choose_device, describe, set_precision
from trainer.evaluator import EvaluationData, evaluate
from trainer.loop import BEST, Record, Training, fit
from trainer.optimizer import build_optimizer, build_scheduler
from trainer.ranking_step import RankingStep
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
from utils.errors import CheckpointError, UsageError, run_main
from utils.experiments import find_experiment, load_experiments
from utils.files import write_json
from utils.log import add_log_file, remove_log_file, start_logging
from utils.seeds import seed_everything
from utils.stop import StoppedError, StopSignals

logger = logging.getLogger("train")

MINI_BATCHES = 5


@dataclass(frozen=True)
class Splits:
    """The data of a run, loaded once for all its seeds."""

    train: BaseDataset
    validation: EvaluationData
    test: EvaluationData
    test_config: Config
    identity: dict[str, Any]


class MiniEpochs:
    """The first few batches of every epoch of a data set (`--mini_train`)."""

    def __init__(self, data: BaseDataset) -> None:
        self.data = data
        self.batches_per_epoch = min(MINI_BATCHES, data.batches_per_epoch)

    def epoch(self, epoch: int, seed: int, **options: Any) -> Any:  # noqa: ANN401
        """Yield the first few batches of the data set's epoch."""
        count = self.batches_per_epoch - options.get("first_batch", 0)
        for batch, _ in zip(self.data.epoch(epoch, seed, **options), range(count), strict=False):
            yield batch


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
    if args.group_id is not None and (not args.group_id.isalnum() or args.seeds):
        raise UsageError("--group_id takes letters and digits, and replaces --seeds")
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
        return (args.group_seed,)
    if args.seeds is None:
        return (config.seed,)
    parts = args.seeds.split(",")
    if not all(part.strip().isdecimal() for part in parts) or len(set(parts)) != len(parts):
        raise UsageError(f"--seeds {args.seeds}: expected different whole numbers, such as 0,1,2")
    return tuple(int(part) for part in parts)


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


def starting_checkpoint(args: argparse.Namespace, config: Config, seed: int) -> Path | None:
    """Return the checkpoint whose weights a new run starts from, None for fresh ones."""
    if args.finetune:
        return Path(args.resume)
    start = config.trainer.start_from
    if start is None:
        return None
    if start not in load_experiments():
        return Path(start)
    own = finished_checkpoint(config.trainer.save_dir, start, seed)
    if own is not None:
        return own
    from utils.experiments import fetch_run

    data_dir = Path(config.trainer.save_dir).parent
    return fetch_run(find_experiment(start), seed, data_dir=data_dir) / BEST


def build_training(config: Config, seed: int, device: torch.device) -> Training:
    """Build what is trained, its weights drawn from the seed."""
    seed_everything(seed)
    model = build_model(config).to(device)
    optimizer = build_optimizer(config.optimizer, model.parameters())
    step: torch.nn.Module = RankingStep(
        model, build_loss(config.loss), precision=config.trainer.precision
    )
    if config.trainer.compile or config.trainer.cuda_graphs:
        mode = "reduce-overhead" if config.trainer.cuda_graphs else "default"
        step = torch.compile(step, mode=mode)  # type: ignore[assignment]
    return Training(model, step, optimizer, build_scheduler(config.lr_scheduler, optimizer))


def train_seed(
    args: argparse.Namespace,
    config: Config,
    run: Run,
    seed: int,
    data: Splits,
    device: torch.device,
    stop: StopSignals,
    resume: Checkpoint | None,
) -> dict[str, Any]:
    """Train one seed, test its best checkpoint; return metrics by task and the best epoch."""
    training = build_training(config, seed, device)
    start = starting_checkpoint(args, config, seed) if resume is None else None
    if resume is not None:
        logger.info("continuing after epoch %d of %s", resume.epoch, resume.path)
        training.restore(resume)
    elif start is not None:
        logger.info("starting from the weights of %s", start)
        checkpoint = load_checkpoint(start)
        training.model.load_published(checkpoint.state_dict)
        if config.trainer.finetune_optimizer:
            restore_optimizer(training.optimizer, training.model, checkpoint)
    metrics_file = MetricsFile(run.log / "metrics.jsonl")
    board_folder = run.tensorboard(seed) if config.trainer.tensorboard else None
    progress = training.progress
    with Board(board_folder, first_epoch=progress.epoch + 1) as board:

        def on_epoch(record: Record) -> None:
            is_best = training.progress.best_epoch == record["epoch"]
            epochs = config.trainer.epochs
            logger.info("%s", describe_epoch(record, seed=seed, epochs=epochs, is_best=is_best))
            metrics_file.replace(seed, training.progress.history)
            board.add(record)

        fit(
            training,
            MiniEpochs(data.train) if args.mini_train else data.train,
            data.validation,
            settings=config.trainer,
            seed=seed,
            device=device,
            folder=run.folder(seed),
            config=config.raw,
            stop=stop,
            on_epoch=on_epoch,
        )
    best = load_checkpoint(run.folder(seed) / BEST)
    training.model.load_published(best.state_dict)
    tested = evaluate(training.model, data.test, device=device)
    return {**tested.metrics, "best_epoch": best.epoch}


def train_run(
    args: argparse.Namespace,
    config: Config,
    run: Run,
    device: torch.device,
    stop: StopSignals,
    resume: Checkpoint | None,
    resumed_seed: int | None,
) -> None:
    """Train every seed of a run that is not finished yet; write and print its results."""
    started = time.perf_counter()
    data = load_splits(config)
    data.train.to(device)
    write_json(run.models / "config.json", config.raw)
    seeds: dict[str, dict[str, Any]] = {}
    for seed in run.seeds:
        reached = run.result(seed) if seed != resumed_seed else None
        if reached is None:
            checkpoint = resume if seed == resumed_seed else last_usable(run, seed)
            write_json(run.folder(seed) / "config.json", config.raw)
            reached = train_seed(args, config, run, seed, data, device, stop, checkpoint)
            run.save_result(seed, reached)
        seeds[str(seed)] = reached
        if stop.received and seed != run.seeds[-1]:
            raise StoppedError(
                f"stopped by a signal after seed {seed}; continue with --resume auto", stop.received
            )
    parameters = count_parameters(build_model_size(config))
    content = results(
        config=data.test_config,
        seeds=seeds,
        split=data.test_config.data.split_name,
        identity=data.identity,
        parameters=parameters,
        device=describe(device),
        seconds=time.perf_counter() - started,
    )
    write_json(run.log / "results.json", content)
    print(render([compare(seeds, name=config.name, parameters=parameters)]))
    print(f"checkpoints: {run.models}\nresults:     {run.log / 'results.json'}")


def build_model_size(config: Config) -> torch.nn.Module:
    """Return the model without memory for its weights, to be counted."""
    with torch.device("meta"):
        return build_model(config)


def choose_run(
    args: argparse.Namespace, config: Config, seeds: tuple[int, ...]
) -> tuple[Run, Checkpoint | None, int | None]:
    """Return the run to work on, and the state and seed it is continued from, if it is."""
    save_dir = config.trainer.save_dir
    if args.resume == "auto":
        wanted = seeds if args.seeds or args.group_id else None
        for run in newest_runs(save_dir, config.name, wanted):
            if any(run.result(s) or last_usable(run, s) for s in run.seeds):
                logger.info("continuing the run %s", run.models)
                return run, None, None
        logger.info("no run of %s to continue; starting a new one", config.name)
    elif args.resume and not args.finetune:
        path = Path(args.resume)
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}{damaged_hint(path)}") from error
        run, seed = open_run(save_dir, path)
        if seed is None:
            seed = config.seed
            run = replace(run, seeds=(seed,))
        return run, checkpoint, seed
    return new_run(save_dir, config.name, seeds, args.group_id), None, None


def run(argv: Sequence[str] | None) -> int:
    """Do what the command line asks for."""
    args = parse_arguments(argv)
    start_logging(quiet=args.quiet, verbose=args.verbose)
    config = read_config(args)
    device = choose_device(args.device)
    set_precision(config.trainer.precision)
    seeds = choose_seeds(args, config)
    if args.purge_exp_dir and args.resume is None:
        removed = purge_runs(config.trainer.save_dir, config.name)
        logger.info("removed %d earlier runs of %s", removed, config.name)
    with StopSignals() as stop:
        chosen, checkpoint, seed = choose_run(args, config, seeds)
        with chosen.locked():
            handler = add_log_file(chosen.log / "info.log")
            try:
                train_run(args, config, chosen, device, stop, checkpoint, seed)
            except Exception as error:
                logger.debug("the run failed", exc_info=error)
                raise
            finally:
                remove_log_file(handler)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 for a failure, 2 for wrong usage."""
    return run_main(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
