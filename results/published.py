"""Put the results of several seeds beside the published ones and mark those that differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.metric import METRICS, TASKS, heading_of, published_key
from results.tables import MARKDOWN, Spread, count, short, signed, spread
from results.tables import render as render_table
from utils.errors import UsageError
from utils.fetching.experiments import EACH_CAPTION, JOINED, PROTOCOLS, Experiment

SeedMetrics = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Seed -> "t2v_metrics" and "v2t_metrics" -> metric -> value, as in results.json."""

# Published means are printed with one decimal: the mean behind them may be this far away, so that
# an exact repetition never counts as outside. It is all that a deviation printed as 0.0 leaves.
ROUNDING = 0.05
RULE = (
    "Outside (*): further from the published mean than two published deviations and "
    f"{ROUNDING} for its rounding (where the deviation is printed as 0.0, further than {ROUNDING})."
)


@dataclass(frozen=True)
class Cell:
    """One metric of one task; `here` is None where the stored results do not have it."""

    heading: str
    here: Spread | None
    published: Spread | None

    @property
    def difference(self) -> float | None:
        if self.published is None or self.here is None:
            return None
        return self.here.mean - self.published.mean

    @property
    def allowed(self) -> float | None:
        """Return how far from the published mean still counts as the same."""
        return None if self.published is None else 2 * (self.published.std or 0.0) + ROUNDING

    @property
    def outside(self) -> bool:
        if self.difference is None or self.allowed is None:
            return False
        return not abs(self.difference) <= self.allowed + 1e-9


@dataclass(frozen=True)
class Comparison:
    """One experiment: what was measured here, beside what was published (if anything was)."""

    name: str
    queries: str
    """One of PROTOCOLS."""
    experiment: Experiment | None
    seeds: tuple[str, ...]
    parameters: int
    tasks: Mapping[str, Mapping[str, Cell]]  # "t2v", "v2t" -> metric

    @property
    def published_parameters(self) -> int | None:
        return self.experiment.parameters if self.experiment else None

    @property
    def is_published(self) -> bool:
        cells = (cell for cells in self.tasks.values() for cell in cells.values())
        return any(cell.published is not None for cell in cells)


def metrics_in(stored: Iterable[Mapping[str, object]]) -> list[str]:
    """Return the metrics that any of some stored results has, in the order of the table."""
    found = dict.fromkeys(name for metrics in stored for name in metrics)
    return [name for name in METRICS if name in found] + [n for n in found if n not in METRICS]


def summarise(seeds: SeedMetrics) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return mean and standard deviation (ddof 1, None for one seed) of every metric.

    A metric that a seed does not have, because it was finished by another version, is left out.
    """
    return {
        f"{task}_metrics": {name: value._asdict() for name, value in _values(seeds, task).items()}
        for task in TASKS
    }


def _values(seeds: SeedMetrics, task: str) -> dict[str, Spread]:
    """Return mean and deviation of the metrics that every seed has."""
    stored = [metrics.get(f"{task}_metrics", {}) for metrics in seeds.values()]
    return {
        name: spread([metrics[name] for metrics in stored])
        for name in metrics_in(stored)
        if all(name in metrics for metrics in stored)
    }


def published_row(experiment: Experiment | None, task: str) -> dict[str, Spread]:
    """Return the published values of a task by metric, none without a row."""
    row = ((experiment.published if experiment else None) or {}).get(task, {})
    return {
        name: Spread(*row[published_key(name)]) for name in METRICS if published_key(name) in row
    }


def compare(
    seeds: SeedMetrics,
    *,
    name: str,
    parameters: int,
    queries: str = EACH_CAPTION,
    experiment: Experiment | None = None,
) -> Comparison:
    """Compare the metrics of some seeds with the rows published for `experiment`.

    `queries` is one of PROTOCOLS; those of an experiment are known.
    Raises ValueError without any seed.
    """
    if not seeds:
        raise ValueError(f"{name}: no seed to compare")
    tasks = {}
    for task in TASKS:
        here, published = _values(seeds, task), published_row(experiment, task)
        tasks[task] = {
            metric: Cell(heading_of(metric), here.get(metric), published.get(metric))
            for metric in metrics_in([here, published])
        }
    return Comparison(
        name=name,
        queries=experiment.protocol if experiment else queries,
        experiment=experiment,
        seeds=tuple(map(str, seeds)),
        parameters=parameters,
        tasks=tasks,
    )


MARKS: dict[str, tuple[str, Mapping[int, str]]] = {
    "text": ("", {}),
    "markdown": ("- ", MARKDOWN),
    "latex": ("% ", {}),
}
"""Form of tables -> the beginning of each line below them, and the letters that it escapes."""
FORMS = (*MARKS, "json")


def check_form(form: str) -> None:
    """Raise UsageError for a form that tables do not have."""
    if form not in FORMS:
        raise UsageError(f"unknown format {form!r}; known: {', '.join(FORMS)}")


def render(comparisons: Sequence[Comparison], form: str = "text") -> str:
    """Return the tables of some experiments, one per task, as text, markdown, latex or json."""
    check_form(form)
    if form == "json":
        return json.dumps([as_data(comparison) for comparison in comparisons], indent=1) + "\n"
    indent = "  " if form == "text" else ""
    blocks = [
        render_table(_rows(comparisons, task, indent), form, title) for task, title in TASKS.items()
    ]
    mark, letters = MARKS[form]
    blocks.append("\n".join(f"{mark}{line.translate(letters)}" for line in _footer(comparisons)))
    return "\n\n".join(block.rstrip() for block in blocks).rstrip() + "\n"


def verdict(comparisons: Sequence[Comparison]) -> list[str]:
    """Return in lines the values outside two published deviations, or that none is."""
    lines, compared = [], 0
    for comparison in comparisons:
        for task, by_metric in comparison.tasks.items():
            cells = by_metric.values()
            compared += sum(cell.difference is not None for cell in cells)
            outside = ", ".join(
                f"{cell.heading} {cell.here} against {cell.published} ({cell.difference:+.2f})"
                for cell in cells
                if cell.outside
            )
            if outside:
                lines.append(
                    f"OUTSIDE two published deviations: {comparison.name} {task}: {outside}"
                )
        if comparison.published_parameters not in (None, comparison.parameters):
            lines.append(
                f"OTHER SIZE: {comparison.name} has {comparison.parameters:,} trainable "
                f"parameters, published are {comparison.published_parameters:,}"
            )
    count = sum("OUTSIDE" in line for line in lines)
    if compared and not count:
        lines.append(f"All {compared} published values are matched within two deviations.")
    if compared:
        lines.append(RULE)
    unpublished = [c.name for c in comparisons if c.experiment and not c.is_published]
    if unpublished:
        lines.append(f"Without a published row: {', '.join(unpublished)}")
    lines += [
        f"Note on {comparison.name}: {flag}"
        for comparison in comparisons
        if comparison.experiment
        for flag in comparison.experiment.flags
    ]
    return lines


def _footer(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the verdict, and what the queries are: of which experiments where they differ."""
    named = {
        protocol: [c.name for c in comparisons if c.queries == protocol] for protocol in PROTOCOLS
    }
    found = {protocol: names for protocol, names in named.items() if names}
    if len(found) == 1:
        lines = [f"Queries: {protocol}" for protocol in found]
    else:
        lines = [f"Queries, {protocol}: {', '.join(names)}" for protocol, names in found.items()]
    return [*verdict(comparisons), *lines]


def _rows(comparisons: Sequence[Comparison], task: str, indent: str) -> list[list[str]]:
    """Return the rows of one table: heading, then up to three per experiment."""
    metrics = metrics_in(comparison.tasks[task] for comparison in comparisons)
    rows = [["", *map(heading_of, metrics), "params"]]
    for comparison in comparisons:
        known = comparison.tasks[task]
        cells = [known.get(name, Cell(heading_of(name), None, None)) for name in metrics]
        seeds = count(comparison.seeds, "seed")
        here = [_cell(cell.here) for cell in cells]
        joined = f" ({JOINED})" if comparison.queries == JOINED else ""
        name = f"{short(comparison.name)}, {seeds}{joined}"
        rows.append([name, *here, f"{comparison.parameters:,}"])
        if comparison.experiment and comparison.is_published:
            size = comparison.published_parameters
            published = [_cell(cell.published) for cell in cells]
            rows.append(
                [f"{indent}published: {comparison.experiment.row}", *published, f"{size:,}"]
            )
            differences = [
                f"{'' if cell.difference is None else signed(cell.difference)}{' *' * cell.outside}"
                for cell in cells
            ]
            rows.append(
                [f"{indent}difference", *differences, f"{comparison.parameters - (size or 0):+,}"]
            )
    return rows


def _cell(value: Spread | None) -> str:
    return "-" if value is None else str(value)


def as_data(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data; infinite values become None, which JSON can hold."""
    experiment = comparison.experiment
    return {
        "experiment": comparison.name,
        "label": experiment.label if experiment else None,
        "paper": experiment.paper if experiment else None,
        "queries": comparison.queries,
        "flags": list(experiment.flags) if experiment else [],
        "seeds": list(comparison.seeds),
        "parameters": comparison.parameters,
        "published_parameters": comparison.published_parameters,
        "tasks": {
            task: {metric: _cell_data(cell) for metric, cell in cells.items()}
            for task, cells in comparison.tasks.items()
        },
    }


def _cell_data(cell: Cell) -> dict[str, Any]:
    here = cell.here or Spread(math.nan, None)
    data: dict[str, Any] = {"mean": _finite(here.mean), "std": _finite(here.std)}
    if cell.published is not None:
        data["published"] = {"mean": cell.published.mean, "std": cell.published.std}
        data["difference"] = _finite(cell.difference)
        data["allowed"] = cell.allowed
        data["outside"] = cell.outside
    return data


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
