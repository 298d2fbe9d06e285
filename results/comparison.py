"""Several runs against each other, or one against published means: tables and plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.metric import TASKS, heading_of, summarise
from results.published import ROUNDING, published_row
from results.runs import StoredRun, require_same_terms
from results.statistics import (
    CONFIDENCE,
    LEVEL,
    ROUNDS,
    Difference,
    Ranking,
    holm,
    paired_differences,
    welch,
)
from results.tables import count, signed, spread
from utils.errors import UsageError
from utils.fetching.experiments import Experiment

FIRST = "R1"
SAME_DATA = "score both checkpoints with the same configuration of the data (eval.py --config)"
ASKED = {"t2v": ("the right clip", "queries"), "v2t": ("one of its own captions", "clips")}


@dataclass(frozen=True)
class Pair:
    """Two runs, the difference of every metric, and its p corrected for their number."""

    first: StoredRun
    second: StoredRun
    differences: Mapping[str, Mapping[str, Difference]]
    """Task ("t2v", "v2t") -> metric -> difference."""
    corrected: Mapping[tuple[str, str], float]
    """(task, metric) -> p, Holm-corrected over everything that is compared in one call."""
    count: int
    """How many p-values were corrected together."""


@dataclass(frozen=True)
class AgainstPublished:
    """One run against the published row of an experiment: p of Welch's test, and corrected."""

    run: StoredRun
    experiment: Experiment
    p: Mapping[tuple[str, str], float]
    corrected: Mapping[tuple[str, str], float]


def compare_runs(runs: Sequence[StoredRun], *, rounds: int = ROUNDS) -> list[Pair]:
    """Compare the first run with each of the others.

    Raises UsageError naming what differs where two runs were not scored on the same terms, and
    DataError where the ranks of a run were not kept.
    """
    found = []
    for other in runs[1:]:
        require_same_terms(runs[0], other, SAME_DATA)
        found.append((other, _differences(runs[0], other, rounds)))
    keys = [
        (place, task, metric)
        for place, (_, differences) in enumerate(found)
        for task, metrics in differences.items()
        for metric in metrics
    ]
    corrected = dict(
        zip(
            keys,
            holm([found[place][1][task][metric].p for place, task, metric in keys]),
            strict=True,
        )
    )
    return [
        Pair(
            runs[0],
            other,
            differences,
            {(task, metric): p for (at, task, metric), p in corrected.items() if at == place},
            len(keys),
        )
        for place, (other, differences) in enumerate(found)
    ]


def compare_with_published(run: StoredRun, experiment: Experiment) -> AgainstPublished:
    """Compare the means of a run with the published row, both over seeds.

    Raises UsageError without a published row, and for runs that cannot be compared with one.
    """
    if experiment.published is None:
        raise UsageError(f"{experiment.name} has no published row to compare with")
    if run.mini or "queried_clips" in run.content["protocol"]:
        raise UsageError(f"{run.name} is of a part (--mini_train, --per_class) of an experiment")
    if len(run.seeds) < 2:
        raise UsageError(
            f"{run.name} has one seed, so no deviation to compare; give a run of several seeds"
        )
    p = {}
    for task in TASKS:
        for metric, row in published_row(experiment, task).items():
            if metric in run.metrics:
                here = spread(run.values(task, metric))
                p[task, metric] = welch(
                    (here.mean, here.std or 0.0, len(run.seeds)),
                    (row.mean, row.std or 0.0, len(experiment.runs)),
                    ROUNDING,
                )
    return AgainstPublished(run, experiment, p, dict(zip(p, holm(list(p.values())), strict=True)))


def rows_of_pair(pair: Pair, task: str) -> list[list[str]]:
    """Return the table of two runs, A and B: heading, then a row a metric."""
    percent = f"{100 * CONFIDENCE:.0f} % interval"
    rows = [["", "A", "B", "A - B", percent, "p", "corrected"]]
    for metric, found in pair.differences[task].items():
        if metric not in pair.first.metrics or metric not in pair.second.metrics:
            continue  # a seed was scored by a version without it
        first, second = pair.first.values(task, metric), pair.second.values(task, metric)
        rows.append(
            [
                heading_of(metric),
                str(spread(first)),
                str(spread(second)),
                signed(found.difference),
                f"{signed(found.low)} to {signed(found.high)}",
                probability(found.p),
                probability(pair.corrected[task, metric])
                + (" *" if pair.corrected[task, metric] <= LEVEL else ""),
            ]
        )
    return rows


def rows_of_published(found: AgainstPublished, task: str) -> list[list[str]]:
    """Return the table of a run and the published row: heading, then a row a metric."""
    rows = [["", "here", "published", "difference", "p", "corrected"]]
    for metric, row in published_row(found.experiment, task).items():
        if (task, metric) not in found.p:
            continue
        here = spread(found.run.values(task, metric))
        corrected = found.corrected[task, metric]
        rows.append(
            [
                heading_of(metric),
                str(here),
                str(row),
                signed(here.mean - row.mean),
                probability(found.p[task, metric]),
                probability(corrected) + (" *" if corrected <= LEVEL else ""),
            ]
        )
    return rows


def legend(pair: Pair) -> list[str]:
    """Return the names of runs A and B."""
    runs = {"A": pair.first, "B": pair.second}
    return [f"{letter}: {run.name}, {count(run.seeds, 'seed')}" for letter, run in runs.items()]


def sentences(pair: Pair) -> list[str]:
    """Return in plain words how often each system is right, and whether that could be chance."""
    lines = []
    for task, (wanted, asked) in ASKED.items():
        found = pair.differences[task].get(FIRST)
        if found is None:
            continue
        gap, p = found.difference, pair.corrected[task, FIRST]
        better, other = pair.first.name, pair.second.name
        if gap < 0:
            better, other = other, better
        shown = f"{abs(gap):.1f}"
        order = (
            f"{better} and {other} find {wanted} first equally often"
            if shown == "0.0"
            else f"{better} finds {wanted} first for {shown} points more {asked} than {other}"
        )
        verdict = "this is more than chance" if p <= LEVEL else "this could be chance"
        lines.append(
            f"{TASKS[task]}: {order}; {verdict}, p = {probability(found.p)}, and {probability(p)} "
            f"corrected for {pair.count} comparisons."
        )
    return [*lines, _scope(pair)]


def sentence_of_published(found: AgainstPublished) -> str:
    """Return in plain words whether a run differs from the published row."""
    outside = [
        f"{TASKS[task]} {heading_of(metric)}"
        for (task, metric), p in found.corrected.items()
        if p <= LEVEL
    ]
    least = min(found.corrected.values())
    verdict = (
        f"differs from the published {found.experiment.row} in {', '.join(outside)}"
        if outside
        else f"differs from the published {found.experiment.row} by no more than chance"
    )
    return (
        f"{found.run.name} {verdict}; the least p is {probability(least)} (Welch's test over "
        f"{len(found.run.seeds)} seeds here and {len(found.experiment.runs)} published ones, "
        f"corrected for {len(found.p)} metrics; the clips are the same)."
    )


def probability(p: float) -> str:
    """Return a p-value with two significant digits."""
    if p < 0.001:
        return "<0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _scope(pair: Pair) -> str:
    """Return the scope of the p-values."""
    one, other = len(pair.first.seeds), len(pair.second.seeds)
    if any(found.seeds for found in pair.differences["t2v"].values()):
        return (
            f"The intervals and p speak of other clips and of other trainings ({one} and {other} "
            "seeds were compared)."
        )
    return (
        "The intervals and p speak of these two trained models on other clips; one seed each says "
        "nothing about other trainings of the same systems."
    )


def _differences(
    first: StoredRun, second: StoredRun, rounds: int
) -> dict[str, dict[str, Difference]]:
    rankings = {}
    for run in (first, second):
        stored = [run.ranks(name) for name in run.seeds]
        for ranks in stored[1:]:
            if ranks.identity() != stored[0].identity():
                raise UsageError(f"the seeds of {run.name} answered different queries")
        rankings[run.name] = stored
    one, other = rankings[first.name], rankings[second.name]
    if one[0].identity() != other[0].identity():
        raise UsageError(
            f"{first.name} and {second.name} answered different queries: "
            f"{_first_difference(one[0].clips, other[0].clips)}"
        )
    return {
        task: paired_differences(
            Ranking(np.stack([ranks.of(task)[0] for ranks in one]), one[0].of(task)[1]),
            Ranking(np.stack([ranks.of(task)[0] for ranks in other]), one[0].of(task)[1]),
            summarise,
            rounds=rounds,
        )
        for task in TASKS
    }


def _first_difference(one: Sequence[str], other: Sequence[str]) -> str:
    """Return the first difference of two lists of clips."""
    if len(one) != len(other):
        return f"{len(one)} clips against {len(other)}"
    for place, (here, there) in enumerate(zip(one, other, strict=True), start=1):
        if here != there:
            return f"clip {place} is {here!r} in one and {there!r} in the other"
    return "other captions of the same clips"
