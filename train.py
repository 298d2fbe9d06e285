"""Train a model from a configuration, over one or several seeds, and test its best checkpoints.

python train.py --config configs/clotho/train-vggish-vggsound.json --seeds 0,1,2
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -P and -I leave it out

from utils.errors import UsageError, run_main
from utils.threads import wait_asleep

if TYPE_CHECKING:  # torch is imported when the flags are right: --help answers at once
    import torch

    from data_loader import BaseDataset
    from trainer.distributed import Processes
    from trainer.job import Job
    from trainer.runs import Run
    from trainer.start import Request
    from utils.config import Config

GROUP_NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
MOST_SEED = 2**32 - 1  # the greatest that numpy's generator takes


SWITCHES = {
    "--finetune": "start a new run from the weights of --resume",
    "--mini_train": "5 batches an epoch",
    "--train_single_epoch": "only one epoch",
    "--disable_workers": "prepare batches in the main thread",
    "--purge_exp_dir": "remove this experiment's earlier runs first",
    "--quiet": "warnings and the table only",
    "--verbose": "more about every step",
}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--config", help="configuration, JSON or YAML")
    parser.add_argument("--device", help="a GPU: 0, cuda, cuda:0 or mps; the CPU without it")
    parser.add_argument("--seeds", type=seeds_in, help="such as 0,1,2; default: the config's")
    parser.add_argument("--group_seed", type=seeds_in, help="the seed of this member of a group")
    parser.add_argument("--group_id", help="name of a group of runs, one seed each")
    resume = "continue the run of this checkpoint or in this folder; auto: the newest"
    parser.add_argument("--resume", metavar="CKPT", help=resume)
    parser.add_argument("--root_url", help="a mirror to fetch a published start from")
    custom = "set known keys of the configuration"
    parser.add_argument("--custom_args", default="", metavar="K.K=V+K=V", help=custom)
    for flag, meaning in SWITCHES.items():
        parser.add_argument(flag, action="store_true", help=meaning)
    args = parser.parse_args(argv)
    if (args.group_seed is None) != (args.group_id is None):
        raise UsageError("--group_seed and --group_id belong together; give both or neither")
    if len(args.group_seed or (0,)) > 1:
        raise UsageError("--group_seed takes one seed, that of this member of the group")
    if args.group_id is not None and (not GROUP_NAME.fullmatch(args.group_id) or args.seeds):
        raise UsageError("--group_id takes letters, digits, - and _, and replaces --seeds")
    if args.purge_exp_dir and args.resume is not None:
        raise UsageError("--purge_exp_dir would remove what --resume asks for; give one of them")
    if args.finetune and args.resume in (None, "auto"):
        raise UsageError("--finetune needs --resume CKPT, the checkpoint whose weights it takes")
    if args.config is None and (args.resume in (None, "auto") or args.finetune):
        raise UsageError("--config is needed, such as configs/clotho/train-vggish-vggsound.json")
    args.seeds = args.group_seed or args.seeds
    return args


def seeds_in(text: str) -> tuple[int, ...]:
    """Return the seeds of a flag; ArgumentTypeError where they are none."""
    parts = [part.strip() for part in text.split(",")]
    numbers = all(part.isdecimal() and part.isascii() for part in parts)
    seeds = tuple(int(part) for part in parts) if numbers else ()
    if not seeds or len(set(seeds)) < len(seeds) or max(seeds) > MOST_SEED:
        expected = f"expected different whole numbers from 0 to {MOST_SEED}, such as 0,1,2"
        raise argparse.ArgumentTypeError(f"found {text}, {expected}")
    return seeds


def read_config(args: argparse.Namespace, named: Path | None) -> Config:
    """Load the configuration, of the run of checkpoint `named` if any, with the flags' changes."""
    from trainer.start import config_of_run
    from utils.config import load_config, parse_custom_args

    changes: dict[str, object] = {}
    if args.train_single_epoch:
        changes |= {"trainer.epochs": 1, "trainer.save_period": 1}
    if args.mini_train:
        changes["trainer.tensorboard"] = False
    if args.disable_workers:
        changes["data_loader.args.num_workers"] = 0
    if named is not None:
        return config_of_run(named, args.config, parse_custom_args(args.custom_args) | changes)
    tag = "-train-single-epoch" if args.train_single_epoch else ""
    return load_config(args.config, changes, custom_args=args.custom_args, tag=tag)


def load_splits(config: Config) -> tuple[BaseDataset, BaseDataset, BaseDataset]:
    """Open training, validation and test data."""
    from data_loader import build_dataset

    test = config.for_evaluation()
    return (
        build_dataset(config, "train"),
        build_dataset(config, config.data.split_name),
        build_dataset(test, test.data.split_name),
    )


def run_job(
    args: argparse.Namespace,
    config: Config,
    request: Request,
    device: torch.device,
    processes: Processes,
) -> None:
    """Find or make the run, train it, and write and print its results.

    What can go wrong before the training does so before the folders of a new run are made.
    """
    from results.ranks import query_texts, ranks_of, save_ranks
    from trainer.device import require_memory
    from trainer.evaluator import Evaluation
    from trainer.job import Job, parameters_of, train_seeds, warn_of_shared_clips
    from trainer.report import MetricsFile
    from trainer.runs import logged
    from trainer.start import choose_run, find_start
    from utils.fetching.experiments import ROOT_URL
    from utils.stop import StopSignals

    started = time.perf_counter()
    with StopSignals() as stop:
        train, validation, test = load_splits(config)
        require_memory(parameters_of(config), device)
        warn_of_shared_clips(train.clips, {"validation": validation.clips, "test": test.clips})
        train.to(device)
        source = args.resume if args.finetune else config.trainer.start_from
        root_url, save_dir = args.root_url or ROOT_URL, Path(config.trainer.save_dir)
        start = partial(find_start, source, root_url, save_dir)
        judged = validation.evaluation(), test.evaluation()
        run, seed_of_named = processes.of_writer(lambda: choose_run(request, config, start), device)
        started -= MetricsFile(run.log).seconds  # of the epochs that earlier calls trained
        texts = query_texts(test, average=config.arch.args.get("test_caption_mode") == "avg")

        def keep(seed: int, tested: Evaluation) -> None:
            save_ranks(run.log_of(seed), ranks_of(tested, test.clips, captions=texts))

        job = Job(
            config,
            run,
            train,
            *judged,
            device,
            processes,
            stop,
            start=start,
            extractors=train.extractors,
            kept=kept_of_captions(config, train, run),
            on_tested=keep,
        )
        with logged(run) if processes.is_writer else nullcontext():
            seeds = train_seeds(job, request.named, seed_of_named)
            if processes.is_writer:
                report(job, seeds, test.identity, started)


def kept_of_captions(config: Config, train: BaseDataset, run: Run) -> dict[str, Any]:
    """Return the file that lets queries be encoded as the captions are, {name: content}.

    Raises DataError when a seed of the run was trained on captions of another encoder.
    """
    from text.captions import RUN_FILE, record_of, refuse_other_encoder

    record = record_of(train.text_file, config.text.encoder)
    for seed in run.seeds:
        refuse_other_encoder(run.folder(seed), record, config.data.data_dir)
    return {} if record is None else {RUN_FILE: asdict(record)}


def report(
    job: Job, seeds: dict[str, dict[str, Any]], identity: dict[str, Any], started: float
) -> None:
    """Write results.json and print the table."""
    from results.content import results
    from results.published import compare, render
    from trainer.device import describe
    from trainer.job import parameters_of
    from utils.files import write_json
    from utils.log import IN_FILES

    config, run = job.config.for_evaluation(), job.run
    content = results(
        config=config,
        seeds=seeds,
        identity=identity,
        parameters=parameters_of(job.config),
        device=describe(job.device),
        seconds=time.perf_counter() - started,
    )
    if run.mini:
        content["mini_train"] = True
    write_json(run.log / "results.json", content)
    visualizer = job.config.raw.get("visualizer")
    if visualizer:
        from results.report import write_page_of_training

        print(f"page:        {write_page_of_training(run.log, visualizer)}")
    name = f"{config.name} (--mini_train)" if run.mini else config.name
    table = render([compare(content, name)])
    places = f"checkpoints: {run.models}\nresults:     {run.log / 'results.json'}"
    logging.getLogger("train").info("\n%s\n%s", table, places, extra=IN_FILES)
    print(f"{table}\n{places}")


def run(argv: Sequence[str] | None) -> int:
    """Do the work of the command line."""
    args = parse_arguments(argv)
    wait_asleep()
    from trainer.device import choose_device, set_precision
    from trainer.distributed import processes_of
    from trainer.start import Request
    from utils.allocator import keep_memory
    from utils.log import start_logging

    request = Request(
        args.seeds, args.group_id, args.resume, args.finetune, args.mini_train, args.purge_exp_dir
    )
    config = read_config(args, request.named)
    device = choose_device(args.device)
    set_precision(config.trainer.precision)
    keep_memory()
    with processes_of(device) as processes:
        quiet = args.quiet or config.trainer.verbosity == 0 or not processes.is_writer
        start_logging(quiet=quiet, verbose=args.verbose)
        run_job(args, config, request, device, processes)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 for a failure, 2 for wrong usage."""
    return run_main(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
