"""Score checkpoints on the test split: published experiments, or one of your own.

python eval.py --experiment clotho-train-vggish-vggsound
python eval.py --resume RUN
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -P and -I leave it out

from utils.config import load_config, parse_custom_args
from utils.errors import ProjectError, UsageError, run_main
from utils.fetching.experiments import (
    ROOT_URL,
    Experiment,
    Source,
    find_experiment,
    load_experiments,
)
from utils.files import atomic_writer, read_list, sha256_of
from utils.log import start_logging
from utils.threads import wait_asleep

if TYPE_CHECKING:  # torch is imported when the flags are right: --help answers at once
    import torch

    from results.published import Comparison

logger = logging.getLogger("eval")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    published = parser.add_argument_group("published experiments")
    published.add_argument(
        "--experiment",
        metavar="NAME",
        help="one of --list, default: all; NAME@GROUP chooses where two papers have the name, "
        "which is the first one's by itself",
    )
    published.add_argument("--list", action="store_true", help="show experiments and what is here")
    published.add_argument("--root_url", default=ROOT_URL, help="fetch from a mirror")
    own = parser.add_argument_group("your own checkpoint")
    own.add_argument("--config", help="default: config.json beside the checkpoint")
    own.add_argument(
        "--resume",
        metavar="CKPT",
        nargs="+",
        help="checkpoint or run's folder to score, auto: the newest; several are an ensemble, the "
        "mean of their similarities",
    )
    own.add_argument(
        "--per_class", metavar="IDS_FILE", help="only these clips, one a line, count as queries"
    )
    own.add_argument(
        "--custom_args", default="", metavar="K.K=V+K=V", help="set known keys of the configuration"
    )
    own.add_argument(
        "--relevances", metavar="F.json", help="grades of clips for captions: adds mAP and nDCG"
    )
    own.add_argument("--save_similarities", metavar="F.npy", help="captions x clips, float32")
    parser.add_argument("--data_dir", default="data", help="takes the place of data everywhere")
    parser.add_argument("--device", help="a GPU: 0, cuda, cuda:0 or mps; the CPU without it")
    parser.add_argument(
        "--format", choices=["text", "markdown", "latex", "json"], default="text", help="of tables"
    )
    parser.add_argument("--out", metavar="DIR", help="where results.json goes")
    parser.add_argument("--quiet", action="store_true", help="warnings and the table only")
    parser.add_argument("--verbose", action="store_true", help="more about every step")
    args = parser.parse_args(argv)
    if args.resume is None:
        for flag in ("config", "per_class", "relevances", "save_similarities", "custom_args"):
            if getattr(args, flag):
                raise UsageError(f"--{flag} belongs to one checkpoint; name it with --resume CKPT")
    elif args.experiment is not None or args.list:
        raise UsageError("--resume scores one checkpoint; leave --experiment and --list out")
    elif len(args.resume) > 1 and args.config is not None:
        raise UsageError("--config belongs to one checkpoint; each of several brings its own")
    if args.list and args.format != "text":
        raise UsageError("--format is for tables of scores; --list has none")
    return args


def checkpoint_named(args: argparse.Namespace, named: str) -> Path:
    """Return the checkpoint that --resume names: a file, the best of a run, of the newest run."""
    from trainer.runs import best_of, newest_best

    if named != "auto":
        return best_of(Path(named))
    name = load_config(args.config).name if args.config else None
    found = newest_best(Path(args.data_dir) / "saved", name)
    logger.info("--resume auto: %s, the newest that is trained", found)
    return found


def score_checkpoints(args: argparse.Namespace, device: torch.device) -> int:
    """Score one checkpoint, or several as an ensemble: the mean of their similarities."""
    import numpy as np

    from results.content import write_results
    from results.graded import graded_results
    from results.published import compare, render
    from results.scoring import Scorer, results_of, together
    from trainer.runs import seed_of

    started = time.perf_counter()
    only = read_list(args.per_class) if args.per_class else None
    saved = Path(args.save_similarities) if args.save_similarities else None
    if saved and (saved.is_dir() or not saved.parent.is_dir()):
        raise UsageError(f"--save_similarities {saved}: expected a file path in an existing folder")
    scorer, changes = Scorer(device, Path(args.data_dir), only), parse_custom_args(args.custom_args)
    paths = [checkpoint_named(args, named) for named in args.resume]
    scored = together([scorer.score(path, args.config, changes) for path in paths], only)
    if saved:
        with atomic_writer(saved) as file:
            np.save(file, scored.evaluation.existing)
    config, of_folder = scored.config, seed_of(scored.path)
    seed = str(config.seed if of_folder is None else of_folder)
    content = results_of({seed: scored}, device, started)
    name = config.name
    if only is not None:
        asked = {"queried_clips": len(only), "queried_list_sha256": sha256_of(args.per_class)}
        content["protocol"] |= asked
    if len(paths) > 1:
        name = f"{name}, mean of {len(paths)}"
        content["protocol"]["ensemble"] = args.resume
    if args.relevances:
        grades = graded_results(Path(args.relevances), scored.evaluation, scored.split.clips)
        content["graded"] = grades
    row = compare(content, name)
    print(render([row], args.format), end="")
    folder = result_folder(args, config.name)
    write_results(folder, content, {seed: scored.ranks(only)}, row)
    logger.info("results: %s", folder / "results.json")
    return 0


def score_experiments(args: argparse.Namespace, device: torch.device) -> int:
    """Score one published experiment or all; a failing one does not stop the others."""
    from results.content import write_summary
    from results.published import render

    experiments = load_experiments()
    chosen = [find_experiment(args.experiment)] if args.experiment else [*experiments.values()]
    rows, failures = [], []
    source = Source(args.root_url, Path(args.data_dir))
    for experiment in chosen:
        try:
            row, failed = score_experiment(args, experiment, device, source)
            rows += [row] if row else []
            failures += failed
        except ProjectError as error:
            failures.append(f"{experiment.key}: {error}")
    if rows:
        print(render(rows, args.format), end="")
        if len(chosen) > 1:
            folder = result_folder(args, "all")
            write_summary(folder, rows)
            logger.info("summary: %s", folder)
    if failures:
        lines = "\n".join(f"  {failure}" for failure in failures)
        raise ProjectError(f"not everything could be scored:\n{lines}")
    return 0


def score_experiment(
    args: argparse.Namespace, experiment: Experiment, device: torch.device, source: Source
) -> tuple[Comparison | None, list[str]]:
    """Score all seeds of an experiment; return its row of the table and the seeds that failed."""
    from results.content import write_results
    from results.published import compare
    from results.scoring import Scorer, results_of

    started = time.perf_counter()
    scored, failures = Scorer(device, source.data_dir).score_published(experiment, source)
    if not scored:
        return None, failures
    content = results_of(scored, device, started, experiment)
    if failures:
        content["failed"] = failures
    row = compare(content, experiment.key, experiment)
    ranks = {seed: one.ranks() for seed, one in scored.items()}
    write_results(result_folder(args, experiment.key), content, ranks, row)
    return row, failures


def result_folder(args: argparse.Namespace, name: str) -> Path:
    """Make the folder that the results go to."""
    from trainer.runs import stamped_folder

    if args.out:
        alone = args.resume is not None or args.experiment is not None
        folder = Path(args.out) if alone else Path(args.out) / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    return stamped_folder(Path(args.data_dir) / "saved" / "eval" / name)


def show_list(data_dir: Path) -> int:
    """Print every experiment and the parts of it that are here."""
    from data_loader import missing_files

    for experiment in load_experiments().values():
        here = ", ".join(map(str, experiment.seeds_here(data_dir))) or "none"
        config = load_config(experiment.config, data_dir=data_dir).for_evaluation()
        missing = len(missing_files(config, config.data.split_name))
        features = f"{missing} files missing" if missing else "here"
        published = "" if experiment.published else "without a published row"
        place = f"{experiment.key:<50} paper: {experiment.paper}  seeds here: {here:<8}"
        print(f"{place} features: {features:<17} {published}".rstrip())
    return 0


def run(argv: Sequence[str] | None) -> int:
    """Do the work of the command line."""
    args = parse_arguments(argv)
    wait_asleep()
    from trainer.device import choose_device

    start_logging(quiet=args.quiet, verbose=args.verbose)
    if args.list:
        return show_list(Path(args.data_dir))
    device = choose_device(args.device)
    if args.resume is not None:
        return score_checkpoints(args, device)
    return score_experiments(args, device)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 for a failure, 2 for wrong usage."""
    return run_main(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
