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
    holm,
    paired_differences,
    welch,
)
from results.tables import count, signed, spread
from utils.errors import UsageError
from utils.fetching.experiments import Experiment

FIRST = "R1"
SAME_DATA = "score both checkpoints with the same configuration of the data (eval.py --config)"
Key = tuple[str, str]
"""A task ("t2v", "v2t") and a metric."""
ASKED = {"t2v": ("the right clip", "queries"), "v2t": ("one of its own captions", "clips")}


@dataclass(frozen=True)
class Pair:
    """Two runs, the difference of every metric, and its p corrected for their number."""

    first: StoredRun
    second: StoredRun
    differences: Mapping[Key, Difference]
    corrected: Mapping[Key, float]
    """Holm-corrected p over everything that is compared in one call."""
    count: int
    """How many p-values were corrected together."""


@dataclass(frozen=True)
class AgainstPublished:
    """One run against the published row of an experiment: p of Welch's test, and corrected."""

    run: StoredRun
    experiment: Experiment
    p: Mapping[Key, float]
    corrected: Mapping[Key, float]


def compare_runs(runs: Sequence[StoredRun], *, rounds: int = ROUNDS) -> list[Pair]:
    """Compare the first run with each of the others.

    Raises UsageError naming what differs where two runs were not scored on the same terms, and
    DataError where the ranks of a run were not kept.
    """
    first, *others = runs
    found = []
    for other in others:
        require_same_terms(first, other, SAME_DATA)
        found.append(_differences(first, other, rounds))
    corrected = holm([difference.p for of in found for difference in of.values()])
    pairs, done = [], 0
    for other, of in zip(others, found, strict=True):
        own = dict(zip(of, corrected[done:], strict=False))
        pairs.append(Pair(first, other, of, own, len(corrected)))
        done += len(of)
    return pairs


def compare_with_published(run: StoredRun, experiment: Experiment) -> AgainstPublished:
    """Compare the means of a run with the published row, both over seeds.

    Raises UsageError without a published row, and for runs that cannot be compared with one.
    """
    if experiment.published is None:
        raise UsageError(f"{experiment.name} has no published row to compare with")
    if run.is_part:
        raise UsageError(f"{run.name} is of a part (--mini_train, --per_class) of an experiment")
    if len(run.seeds) < 2:
        raise UsageError(
            f"{run.name} has one seed, so no deviation to compare; give a run of several seeds"
        )
    p = {
        (task, metric): welch(
            (*spread(run.values(task, metric)), len(run.seeds)),
            (*row, len(experiment.runs)),
            ROUNDING,
        )
        for task in TASKS
        for metric, row in published_row(experiment, task).items()
        if metric in run.metrics
    }
    return AgainstPublished(run, experiment, p, dict(zip(p, holm([*p.values()]), strict=True)))


def rows_of_pair(pair: Pair, task: str) -> list[list[str]]:
    """Return the table of two runs, A and B: heading, then a row a metric."""
    rows = [["", "A", "B", "A - B", f"{100 * CONFIDENCE:.0f} % interval", "p", "corrected"]]
    for (of, metric), found in pair.differences.items():
        # a seed that was scored by another version may lack a metric
        if of == task and metric in pair.first.metrics and metric in pair.second.metrics:
            rows.append(
                [
                    heading_of(metric),
                    *(str(spread(run.values(task, metric))) for run in (pair.first, pair.second)),
                    signed(found.difference),
                    f"{signed(found.low)} to {signed(found.high)}",
                    *_probabilities(found.p, pair.corrected[task, metric]),
                ]
            )
    return rows


def rows_of_published(found: AgainstPublished, task: str) -> list[list[str]]:
    """Return the table of a run and the published row: heading, then a row a metric."""
    rows = [["", "here", "published", "difference", "p", "corrected"]]
    published = published_row(found.experiment, task)
    for (of, metric), p in found.p.items():
        if of == task:
            here, row = spread(found.run.values(task, metric)), published[metric]
            values = [str(here), str(row), signed(here.mean - row.mean)]
            corrected = found.corrected[task, metric]
            rows.append([heading_of(metric), *values, *_probabilities(p, corrected)])
    return rows


def legend(pair: Pair) -> list[str]:
    """Return the names of runs A and B."""
    runs = {"A": pair.first, "B": pair.second}
    return [f"{letter}: {run.name}, {count(run.seeds, 'seed')}" for letter, run in runs.items()]


def sentences(pair: Pair) -> list[str]:
    """Return in plain words how often each system is right, and whether that could be chance.

    The last sentence is the scope of the p-values.
    """
    lines = []
    for task, (wanted, asked) in ASKED.items():
        found, p = pair.differences[task, FIRST], pair.corrected[task, FIRST]
        better, other = pair.first.name, pair.second.name
        if found.difference < 0:
            better, other = other, better
        gap = f"{abs(found.difference):.1f}"
        order = f"{better} finds {wanted} first for {gap} points more {asked} than {other}"
        if gap == "0.0":
            order = f"{better} and {other} find {wanted} first equally often"
        verdict = "this is more than chance" if p <= LEVEL else "this could be chance"
        lines.append(
            f"{TASKS[task]}: {order}; {verdict}, p = {probability(found.p)}, and {probability(p)} "
            f"corrected for {pair.count} comparisons."
        )
    if any(found.seeds for found in pair.differences.values()):
        seeds = f"{len(pair.first.seeds)} and {len(pair.second.seeds)} seeds were compared"
        return [
            *lines,
            f"The intervals and p speak of other clips and of other trainings ({seeds}).",
        ]
    return [
        *lines,
        "The intervals and p speak of these two trained models on other clips; one seed each says "
        "nothing about other trainings of the same systems.",
    ]


def sentence_of_published(found: AgainstPublished) -> str:
    """Return in plain words whether a run differs from the published row."""
    outside = [
        f"{TASKS[task]} {heading_of(metric)}"
        for (task, metric), p in found.corrected.items()
        if p <= LEVEL
    ]
    verdict = f"in {', '.join(outside)}" if outside else "by no more than chance"
    return (
        f"{found.run.name} differs from the published {found.experiment.row} {verdict}; the least "
        f"p is {probability(min(found.corrected.values()))} (Welch's test over "
        f"{len(found.run.seeds)} seeds here and {len(found.experiment.runs)} published ones, "
        f"corrected for {len(found.p)} metrics; the clips are the same)."
    )


def probability(p: float) -> str:
    """Return a p-value with two significant digits."""
    if p < 0.001:
        return "<0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _probabilities(p: float, corrected: float) -> list[str]:
    """Return the last two cells of a row: p, and the corrected one with its mark."""
    return [probability(p), probability(corrected) + (" *" if corrected <= LEVEL else "")]


def _differences(first: StoredRun, second: StoredRun, rounds: int) -> dict[Key, Difference]:
    one, other = ([run.ranks(seed) for seed in run.seeds] for run in (first, second))
    for run, stored in ((first, one), (second, other)):
        if any(ranks.identity() != stored[0].identity() for ranks in stored[1:]):
            raise UsageError(f"the seeds of {run.name} answered different queries")
    if one[0].identity() != other[0].identity():
        raise UsageError(
            f"{first.name} and {second.name} answered different queries: "
            f"{_first_difference(one[0].clips, other[0].clips)}"
        )
    found = {}
    for task in TASKS:
        ours, theirs = (np.stack([ranks.of(task)[0] for ranks in run]) for run in (one, other))
        _, clips = one[0].of(task)
        by_metric = paired_differences(ours, theirs, clips, summarise, rounds=rounds)
        found.update({(task, metric): value for metric, value in by_metric.items()})
    return found


def _first_difference(one: Sequence[str], other: Sequence[str]) -> str:
    """Return the first difference of two lists of clips."""
    if len(one) != len(other):
        return f"{len(one)} clips against {len(other)}"
    for place, (here, there) in enumerate(zip(one, other, strict=True), start=1):
        if here != there:
            return f"clip {place} is {here!r} in one and {there!r} in the other"
    return "other captions of the same clips"
