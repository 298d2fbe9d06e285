"""Score checkpoints on the test split: published experiments, or one of your own.

python eval.py --experiment clotho-train-vggish-vggsound
python eval.py --resume RUN
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config import Config, config_from_dict, load_config, parse_custom_args
from utils.errors import DataError, ProjectError, UnreachableError, UsageError, run_main
from utils.extraction_record import ExtractionRecord, refuse_other_features
from utils.fetching.experiments import (
    ROOT_URL,
    Experiment,
    fetch_run,
    find_experiment,
    is_here,
    load_experiments,
    sync_command,
    what_is_here,
)
from utils.files import atomic_writer, read_list, sha256_of, write_json, write_text
from utils.log import start_logging

if TYPE_CHECKING:  # torch is imported when the flags are right: --help answers at once
    import torch

    from model import RetrievalModel
    from results.published import Comparison
    from results.ranks import Ranks
    from text.captions import TextRecord
    from trainer.checkpoint import Checkpoint
    from trainer.evaluator import Evaluation, EvaluationData

logger = logging.getLogger("eval")


@dataclass(frozen=True)
class TestData:
    """A split opened for evaluation: its identity in results.json, makers of features, queries."""

    split: EvaluationData
    identity: dict[str, Any]
    extractors: Mapping[str, ExtractionRecord | None]
    captions: list[list[str]]
    text: TextRecord | None
    """What encoded the captions, where that is known."""


def table_format(form: str) -> str:
    """Return a form of tables; raises UsageError for one that they do not have."""
    from results.published import check_form

    check_form(form)
    return form


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
        "--format", type=table_format, help="of the table: text, markdown, latex or json"
    )
    parser.add_argument("--out", metavar="DIR", help="where results.json goes")
    parser.add_argument("--quiet", action="store_true", help="warnings and the table only")
    parser.add_argument("--verbose", action="store_true", help="more about every step")
    args = parser.parse_args(argv)
    args.format = args.format or "text"
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


def open_test_data(config: Config) -> TestData:
    """Open the split that a configuration is evaluated on."""
    from data_loader import build_dataset
    from results.ranks import query_texts
    from text.captions import record_of
    from trainer.evaluator import EvaluationData

    dataset = build_dataset(config, config.data.split_name)
    captions = query_texts(dataset, average=config.arch.args.get("test_caption_mode") == "avg")
    evaluation = EvaluationData(*dataset.evaluation())
    text = record_of(dataset.text_file, config.text.encoder)
    return TestData(evaluation, dataset.identity, dataset.extractors, captions, text)


def load_model(config: Config, checkpoint: Checkpoint, device: torch.device) -> RetrievalModel:
    """Build the configured model with a checkpoint's weights."""
    from model import build_model
    from trainer.checkpoint import load_weights

    model = build_model(config, released=checkpoint.state_dict)
    load_weights(model, checkpoint, config.path)
    return model.to(device)


def checkpoint_config(args: argparse.Namespace, checkpoint: Checkpoint) -> Config:
    """Return the configuration to evaluate one checkpoint with."""
    beside = checkpoint.path.parent / "config.json"
    data_dir = None if args.data_dir == "data" else args.data_dir
    changes = parse_custom_args(args.custom_args)
    if args.config is None and not beside.is_file() and checkpoint.config is not None:
        config = config_from_dict(checkpoint.config, beside, changes, data_dir=data_dir)
    else:
        config = load_config(args.config or beside, changes, data_dir=data_dir)
    return config.for_evaluation()


def queries(ids_file: str | None) -> tuple[list[str] | None, dict[str, object]]:
    """Return the clips that count as queries (None: all), and their entries in the protocol."""
    if ids_file is None:
        return None, {}
    clips = read_list(ids_file)
    return clips, {"queried_clips": len(clips), "queried_list_sha256": sha256_of(ids_file)}


def chosen_checkpoint(args: argparse.Namespace, named: str) -> Path:
    """Return the checkpoint that --resume names: a file, the best of a run, of the newest run."""
    from trainer.runs import best_of, newest_best

    if named != "auto":
        return best_of(Path(named))
    name = load_config(args.config).name if args.config else None
    found = newest_best(Path(args.data_dir) / "saved", name)
    logger.info("--resume auto: %s, the newest that is trained", found)
    return found


def score_checkpoint(args: argparse.Namespace, device: torch.device) -> int:
    """Score one checkpoint, or several as an ensemble: the mean of their similarities."""
    import torch

    from results.content import queries_of
    from results.graded import graded_results
    from results.published import compare, render
    from results.ranks import ranks_of, save_ranks
    from trainer.evaluator import rank
    from trainer.runs import seed_of

    started = time.perf_counter()
    only, asked = queries(args.per_class)
    saved = Path(args.save_similarities) if args.save_similarities else None
    if saved and (saved.is_dir() or not saved.parent.is_dir()):
        raise UsageError(f"--save_similarities {saved}: expected a file path in an existing folder")
    alone = [score_alone(args, path, device) for path in args.resume]
    first = alone[0]
    for other in alone[1:]:
        require_same_split(first, other)
    sims = torch.stack([one.similarities for one in alone]).mean(dim=0)
    scored = rank(sims, first.data.split, only, first.weights if len(alone) == 1 else None)
    if saved:
        save_similarities(scored, saved)
    config, name, data = first.config, first.config.name, first.data
    if len(alone) > 1:
        name = f"{name}, mean of {len(alone)}"
        asked = {**asked, "ensemble": [str(path) for path in args.resume]}
    seed = seed_of(first.checkpoint.path)
    reached: dict[str, Any] = {**scored.metrics, "best_epoch": first.checkpoint.epoch}
    seeds = {str(config.seed if seed is None else seed): reached}
    parameters = sum(one.parameters for one in alone)
    asks = queries_of(config)
    comparison = compare(seeds, name=name, parameters=parameters, queries=asks)
    ranks = ranks_of(scored, data.split.clips, captions=data.captions, only=only)
    more: dict[str, object] = {}
    if args.relevances:
        more["graded"] = graded_results(Path(args.relevances), scored, data.split.clips)
    folder = result_folder(args, config.name)
    save_ranks(folder / f"seed-{next(iter(seeds))}", ranks)
    write_results(folder, config, data, seeds, comparison, device, started, asked=asked, more=more)
    print(render([comparison], args.format), end="")
    logger.info("results: %s", folder / "results.json")
    return 0


@dataclass(frozen=True)
class Alone:
    """A checkpoint's similarities (Q, V) of its test split, and the weights of its experts."""

    checkpoint: Checkpoint
    config: Config
    data: TestData
    parameters: int
    similarities: torch.Tensor
    weights: Any


def score_alone(args: argparse.Namespace, path: str, device: torch.device) -> Alone:
    """Compute the similarities of one checkpoint."""
    import torch

    from model import count_parameters
    from text.captions import refuse_other_encoder
    from trainer.checkpoint import load_checkpoint
    from trainer.evaluator import evaluate

    checkpoint = load_checkpoint(chosen_checkpoint(args, path))
    config = checkpoint_config(args, checkpoint)
    model = load_model(config, checkpoint, device)
    data = open_test_data(config)
    refuse_other_features(checkpoint.path, data.extractors, config.data.data_dir)
    refuse_other_encoder(checkpoint.path.parent, data.text, config.data.data_dir)
    found = evaluate(model, data.split, device=device)
    parameters = count_parameters(model)
    return Alone(
        checkpoint, config, data, parameters, torch.from_numpy(found.similarities), found.weights
    )


def require_same_split(first: Alone, other: Alone) -> None:
    """Raise DataError unless two checkpoints were scored on the same clips and captions."""
    ours, theirs = first.data.split, other.data.split
    same = list(ours.clips) == list(theirs.clips) and bool(
        (ours.query_masks.cpu().numpy() == theirs.query_masks.cpu().numpy()).all()
        if ours.query_masks.shape == theirs.query_masks.shape
        else False
    )
    if not same or first.similarities.shape != other.similarities.shape:
        raise DataError(
            f"{first.checkpoint.path} and {other.checkpoint.path} are evaluated on other clips or "
            "captions; an ensemble needs one test split"
        )


def score_experiments(args: argparse.Namespace, device: torch.device) -> int:
    """Score one published experiment or all; a failing one does not stop the others."""
    from results.published import render

    experiments = load_experiments()
    chosen = [find_experiment(args.experiment)] if args.experiment else [*experiments.values()]
    comparisons, failures = [], []
    source = Source(args.root_url, Path(args.data_dir))
    for experiment in chosen:
        try:
            comparison, failed = score_experiment(args, experiment, device, source)
            comparisons += [comparison] if comparison else []
            failures += failed
        except ProjectError as error:
            failures.append(f"{experiment.key}: {error}")
    if comparisons:
        print(render(comparisons, args.format), end="")
        if len(chosen) > 1:
            folder = result_folder(args, "all")
            write_summary(folder, comparisons)
            logger.info("summary: %s", folder)
    if failures:
        lines = "\n".join(f"  {failure}" for failure in failures)
        raise ProjectError(f"not everything could be scored:\n{lines}")
    return 0


def require_features(experiment: Experiment, data_dir: Path, root_url: str) -> None:
    """Raise DataError when features are missing, before any checkpoint is fetched."""
    from data_loader import missing_files

    config = load_config(experiment.config, data_dir=data_dir).for_evaluation()
    missing = missing_files(config, config.data.split_name)
    if missing:
        others = f" and {len(missing) - 1} more files are" if len(missing) > 1 else " is"
        command = sync_command(experiment.dataset, data_dir, root_url)
        raise DataError(f"{missing[0]}{others} missing; fetch them with: {command}")
    vocabulary = config.needs.vocabulary
    if vocabulary is not None and not Path(vocabulary).is_file():
        raise DataError(
            f"{vocabulary} is missing; put vocab.txt of bert-base-cased there, which the captions "
            "are split into word pieces by"
        )


class Source:
    """Where published runs come from; a server that cannot be reached is asked once."""

    def __init__(self, root_url: str, data_dir: Path) -> None:
        self._root_url, self._data_dir = root_url, data_dir
        self._failure: UnreachableError | None = None

    def fetch(self, experiment: Experiment, seed: int) -> Path:
        """Return the folder of a seed, fetched or verified; raises as `fetch_run` does."""
        if self._failure is not None and not is_here(experiment, seed, self._data_dir):
            raise self._failure
        try:
            return fetch_run(experiment, seed, root_url=self._root_url, data_dir=self._data_dir)
        except UnreachableError as error:
            self._failure = error
            raise


def score_experiment(
    args: argparse.Namespace, experiment: Experiment, device: torch.device, source: Source
) -> tuple[Comparison | None, list[str]]:
    """Score all seeds of an experiment; return the comparison and the seeds that failed."""
    from model import count_parameters
    from results.published import compare
    from results.ranks import ranks_of, save_ranks
    from trainer.checkpoint import load_checkpoint
    from trainer.evaluator import evaluate

    started = time.perf_counter()
    data_dir = Path(args.data_dir)
    seeds: dict[str, dict[str, Any]] = {}
    ranks: dict[str, Ranks] = {}
    failed: dict[str, list[int]] = {}  # reason -> seeds: a missing file often fails all
    config: Config | None = None
    opened: dict[Any, TestData] = {}
    parameters = 0
    require_features(experiment, data_dir, args.root_url)
    for seed in experiment.runs:
        try:
            folder = source.fetch(experiment, seed)
            file, named = experiment.config_file(seed, data_dir), {"name": experiment.name}
            config = load_config(file, named, data_dir=data_dir).for_evaluation()
            key = repr((config.data, config.experts, config.text))
            if key not in opened:  # seeds share the data
                opened[key] = open_test_data(config)
            data = opened[key]
            checkpoint = load_checkpoint(folder / "trained_model.pth")
            model = load_model(config, checkpoint, device)
            scored = evaluate(model, data.split, device=device)
            ranks[str(seed)] = ranks_of(scored, data.split.clips, captions=data.captions)
        except ProjectError as error:
            failed.setdefault(str(error), []).append(seed)
            continue
        parameters = count_parameters(model)
        seeds[str(seed)] = {**scored.metrics, "best_epoch": checkpoint.epoch}
        logger.info("scored %s seed %d", experiment.key, seed)
    failures = [
        f"{experiment.key} seed{'s' if len(of) > 1 else ''} {', '.join(map(str, of))}: {reason}"
        for reason, of in failed.items()
    ]
    if config is None or not seeds:
        return None, failures
    comparison = compare(
        seeds,
        name=experiment.key,
        parameters=parameters,
        experiment=experiment,
    )
    data = next(iter(opened.values()))
    folder = result_folder(args, experiment.key)
    for name, ranked in ranks.items():
        save_ranks(folder / f"seed-{name}", ranked)
    write_results(folder, config, data, seeds, comparison, device, started, failures)
    return comparison, failures


def result_folder(args: argparse.Namespace, name: str) -> Path:
    """Make the folder that the results go to."""
    from trainer.runs import stamped_folder

    if args.out:
        alone = args.resume is not None or args.experiment is not None
        folder = Path(args.out) if alone else Path(args.out) / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    return stamped_folder(Path(args.data_dir) / "saved" / "eval" / name)


def write_results(
    folder: Path,
    config: Config,
    data: TestData,
    seeds: dict[str, dict[str, Any]],
    comparison: Comparison,
    device: torch.device,
    started: float,
    failures: Sequence[str] = (),
    *,
    asked: Mapping[str, object] | None = None,
    more: Mapping[str, object] | None = None,
) -> None:
    """Write results.json and the table beside it; `asked` adds to its protocol, `more` to it."""
    from results.content import results
    from trainer.device import describe

    content = results(
        config=config,
        seeds=seeds,
        split=config.data.split_name,
        identity=data.identity,
        parameters=comparison.parameters,
        device=describe(device),
        seconds=time.perf_counter() - started,
    )
    content["protocol"] |= {"queries": comparison.queries, **(asked or {})}
    content |= more or {}
    if comparison.experiment:
        content |= {"experiment": comparison.name, "paper": comparison.experiment.paper}
    if failures:
        content["failed"] = list(failures)
    write_json(folder / "results.json", content)
    write_summary(folder, [comparison])


def write_summary(folder: Path, comparisons: Sequence[Comparison]) -> None:
    """Write the table for people and for programs."""
    from results.published import render

    write_text(folder / "summary.md", render(comparisons, "markdown"))
    write_text(folder / "summary.json", render(comparisons, "json"))


def save_similarities(scored: Evaluation, path: Path) -> None:
    """Write the similarities of the captions that exist: float32 (n_captions, n_clips)."""
    import numpy as np

    with atomic_writer(path) as file:
        np.save(file, scored.existing)


def show_list(data_dir: Path) -> int:
    """Print every experiment and the parts of it that are here."""
    from data_loader import missing_files

    for presence in what_is_here(data_dir):
        experiment = presence.experiment
        here = ", ".join(str(seed) for seed in presence.seeds) or "none"
        config = load_config(experiment.config, data_dir=data_dir).for_evaluation()
        missing = len(missing_files(config, config.data.split_name))
        features = f"{missing} files missing" if missing else "here"
        published = "" if experiment.published else "without a published row"
        place = f"{experiment.key:<50} paper: {experiment.paper}  seeds here: {here:<8}"
        line = f"{place} features: {features:<17} {published}"
        print(line.rstrip())
    return 0


def run(argv: Sequence[str] | None) -> int:
    """Do the work of the command line."""
    args = parse_arguments(argv)
    from trainer.device import choose_device

    start_logging(quiet=args.quiet, verbose=args.verbose)
    if args.list:
        return show_list(Path(args.data_dir))
    device = choose_device(args.device)
    if args.resume is not None:
        return score_checkpoint(args, device)
    return score_experiments(args, device)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 for a failure, 2 for wrong usage."""
    return run_main(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
