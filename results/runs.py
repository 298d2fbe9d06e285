"""Runs as they are stored: results.json, the ranks of every seed, the curves of the training.

A run is named by its results.json, by the folder that holds it, by the folder of its checkpoints,
or by a folder of several runs: the members of a group, or results copied from many machines. These
are joined into one run when they are of the same configuration, data and protocol.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from model.metric import TASKS
from results.ranks import RANKS, Ranks, read_ranks
from utils.declared import Mistakes, read_values
from utils.errors import DataError, UsageError
from utils.files import read_json
from utils.kinds import MAPPING, Range

RESULTS = "results.json"
CURVES = "metrics.jsonl"
LONGEST_CURVES = 256 << 20
ALIKE = 1e-6
"""By how much a metric in results.json may differ from that of the ranks beside it."""
PROTOCOL = {"ties": "mean of all orders"}
"""Terms that results.json of earlier versions leaves out."""

Values = Annotated[dict[str, float], Range(-math.inf), "value of each metric"]


@dataclass(frozen=True)
class SeedResults:
    """The metrics of a seed, those its version had."""

    t2v_metrics: Values
    v2t_metrics: Values


@dataclass(frozen=True)
class ResultsFile:
    """The part of results.json that a run is compared by."""

    config: Annotated[str, "name of the run"]
    protocol: Annotated[dict[str, Any], MAPPING, "how queries were made and ranked"]
    seeds: Annotated[dict[str, SeedResults], "of each seed"]
    data: Annotated[dict[str, Any] | None, MAPPING, "identity of the data"] = None
    trainable_parameters: Annotated[int | None, "of the model"] = None

    @staticmethod
    def check(
        seeds: Mapping[str, SeedResults], data: Mapping[str, Any] | None = None, **_: object
    ) -> Mistakes:
        """Yield the problems of seeds without metrics, and of a split list that is none."""
        if not seeds:
            yield "seeds", "holds no seed"
        for seed, found in seeds.items():
            for key, values in vars(found).items():
                if not values or not all(map(str.isprintable, values)):
                    yield f"seeds.{seed}.{key}", "found no metric, or a name that cannot be printed"
        if data and not isinstance(data.get("split_list", {}), dict):
            yield "data.split_list", "is not a section with keys"


@dataclass(frozen=True)
class StoredRun:
    """One run: the results of its seeds, and the places of their ranks and curves."""

    name: str
    files: tuple[Path, ...]
    content: Mapping[str, Any]
    """results.json of the first part."""
    seeds: Mapping[str, Mapping[str, Any]]
    ranks_files: Mapping[str, Path] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)

    @property
    def mini(self) -> bool:
        """Trained on a few batches an epoch."""
        return self.content.get("mini_train") is True

    @property
    def is_part(self) -> bool:
        """Trained on a few batches an epoch, or scored with some of the queries."""
        return self.mini or "queried_clips" in self.content["protocol"]

    @property
    def experiment(self) -> str:
        """The key of its row among the published experiments, if there is one."""
        return str(self.content.get("experiment", self.content["config"]))

    @property
    def metrics(self) -> list[str]:
        """The metrics that all seeds have in both directions."""
        parts = [metrics[f"{task}_metrics"] for metrics in self.seeds.values() for task in TASKS]
        return [name for name in parts[0] if all(name in part for part in parts)]

    def values(self, task: str, metric: str) -> list[float]:
        """Return a metric of every seed, in the order of the seeds."""
        return [metrics[f"{task}_metrics"][metric] for metrics in self.seeds.values()]

    def ranks(self, seed: str) -> Ranks:
        """Read the ranks of a seed; DataError where they were not kept."""
        if seed not in self.ranks_files:
            raise DataError(
                f"{self.files[0]}: the ranks of seed {seed} are not beside it (seed-{seed}/{RANKS})"
                "; score its checkpoint again, which keeps them: python eval.py --resume CKPT"
            )
        ranks = read_ranks(self.ranks_files[seed])
        for task, found in ranks.metrics().items():
            stored = self.seeds[seed][task]
            shared = found.keys() & stored.keys()
            if any(abs(stored[name] - found[name]) > ALIKE for name in shared):
                raise DataError(
                    f"{self.ranks_files[seed]}: its {task} are not those of {self.files[0]}; score "
                    "the checkpoint again: python eval.py --resume CKPT"
                )
        return ranks

    def terms(self) -> dict[str, object]:
        """Return what two runs must share to be compared: split, protocol and list."""
        data = self.content.get("data") or {}
        return {
            "split": self.content.get("split"),
            **{
                f"protocol.{key}": value
                for key, value in (PROTOCOL | self.content["protocol"]).items()
                if key != "queries"  # in words, what the others say
            },
            "sha256 of the split list": data.get("split_list", {}).get("sha256"),
            "mini_train": self.mini,
        }


def load_run(path: str | Path) -> StoredRun:
    """Load a run from any of its names; raises DataError or UsageError naming the missing part."""
    given = Path(path)
    found = _results_files(given)
    parts = [_load_one(file) for file in found]
    return parts[0] if len(parts) == 1 else _joined(given, parts)


def load_runs(paths: Sequence[str | Path]) -> list[StoredRun]:
    """Load several runs, each under a name of its own."""
    runs = [load_run(path) for path in paths]
    shared = Counter(run.name for run in runs)
    letters = [f"{run.name} ({chr(ord('A') + place)})" for place, run in enumerate(runs)]
    return [
        replace(run, name=letter if shared[run.name] > 1 else run.name)
        for run, letter in zip(runs, letters, strict=True)
    ]


def differing_terms(first: StoredRun, second: StoredRun, more: Sequence[str] = ()) -> list[str]:
    """Return in lines how two runs differ in their terms, and `more` keys of their results."""
    one, other = (
        run.terms() | {key: run.content.get(key) for key in more} for run in (first, second)
    )
    return [
        f"{key}: {one.get(key, 'unset')} of {first.name}, "
        f"{other.get(key, 'unset')} of {second.name}"
        for key in one | other
        if one.get(key) != other.get(key)
    ]


def require_same_terms(first: StoredRun, second: StoredRun, advice: str) -> None:
    """Raise UsageError, which lists the differing terms, where two runs do not share them."""
    if lines := differing_terms(first, second):
        listed = "\n".join(f"  {line}" for line in lines)
        raise UsageError(
            f"{first.name} and {second.name} were not scored on the same terms:\n{listed}\n{advice}"
        )


def _results_files(given: Path) -> list[Path]:
    """Return the results.json files of a name."""
    if given.is_file() and given.suffix == ".json":
        return [given]
    folder = given.parent if given.is_file() else given
    if not folder.is_dir():
        raise UsageError(f"{given} is missing; name a run's folder, or its {RESULTS}")
    for place in (folder, _log_folder(folder)):
        if (place / RESULTS).is_file():
            return [place / RESULTS]
        if below := sorted(place.rglob(RESULTS)):
            return below
    raise UsageError(
        f"{given}: no {RESULTS} is in it or below it; train.py writes one when all seeds are "
        "finished (data/saved/log/...), eval.py when it has scored (data/saved/eval/...)"
    )


def _log_folder(models: Path) -> Path:
    """Return the folder of logs that belongs to a folder of checkpoints: models/ becomes log/."""
    parent, found, run = models.absolute().as_posix().rpartition("/models/")
    return Path(parent, "log", run) if found else models


def _load_one(file: Path) -> StoredRun:
    content = read_json(file)
    found = read_values(ResultsFile, content, file, more=True)
    seeds = content["seeds"]
    places = {seed: file.parent / f"seed-{seed}" / RANKS for seed in seeds}
    return StoredRun(
        name=found.config,
        files=(file,),
        content=content,
        seeds=seeds,
        ranks_files={seed: place for seed, place in places.items() if place.is_file()},
        curves=_curves(file.parent / CURVES),
    )


def _joined(given: Path, parts: Sequence[StoredRun]) -> StoredRun:
    """Join runs of different seeds; UsageError where they do not belong together."""
    first = parts[0]
    seeds: dict[str, Mapping[str, Any]] = {}
    for part in parts:
        lines = differing_terms(first, part, more=("config", "trainable_parameters"))
        lines += [f"seed {seed} is in both" for seed in part.seeds if seed in seeds]
        if lines:
            listed = "\n".join(f"  {line}" for line in lines)
            raise UsageError(
                f"{given} holds several runs that are not one: {first.files[0]} and "
                f"{part.files[0]} differ:\n{listed}\nname one of them, or leave one out"
            )
        seeds |= part.seeds
    in_order = sorted(seeds, key=lambda seed: (not seed.isdecimal(), seed.zfill(12)))
    return replace(
        first,
        files=tuple(file for part in parts for file in part.files),
        seeds={seed: seeds[seed] for seed in in_order},
        ranks_files={seed: file for part in parts for seed, file in part.ranks_files.items()},
        curves={seed: curve for part in parts for seed, curve in part.curves.items()},
    )


def _curves(file: Path) -> dict[str, list[dict[str, float]]]:
    """Return the records of every epoch by seed; none where the file is missing or too large."""
    curves: dict[str, list[dict[str, float]]] = {}
    if not file.is_file() or file.stat().st_size > LONGEST_CURVES:
        return curves
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(
            ValueError, LookupError, TypeError, AttributeError, RecursionError
        ):
            record = json.loads(line)
            seed = str(record.pop("seed"))
            numbers = {key: float(value) for key, value in record.items()}
            if "epoch" in numbers and all(map(math.isfinite, numbers.values())):
                curves.setdefault(seed, []).append(numbers)
    return curves
