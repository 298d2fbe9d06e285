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
from utils.fetching.experiments import JOINED, PROTOCOLS, Experiment

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

    here: Spread | None = None
    published: Spread | None = None

    @property
    def difference(self) -> float | None:
        if self.published is None or self.here is None:
            return None
        return self.here.mean - self.published.mean

    @property
    def allowed(self) -> float:
        """How far from the published mean still counts as the same; 0 without one."""
        return 0.0 if self.published is None else 2 * (self.published.std or 0.0) + ROUNDING

    @property
    def outside(self) -> bool:
        # a mean that is NaN is outside too
        return self.difference is not None and not abs(self.difference) <= self.allowed + 1e-9


@dataclass(frozen=True)
class Comparison:
    """One experiment: what was measured here, beside what was published (if anything was)."""

    name: str
    queries: str
    """One of PROTOCOLS."""
    experiment: Experiment | None
    seeds: tuple[str, ...]
    parameters: int
    tasks: Mapping[str, Mapping[str, Cell]]
    """"t2v", "v2t" -> metric."""

    @property
    def flags(self) -> Sequence[str]:
        """What to know before comparing with the published row."""
        return self.experiment.flags if self.experiment else ()

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
        f"{task}_metrics": {name: value._asdict() for name, value in _spreads(seeds, task).items()}
        for task in TASKS
    }


def _spreads(seeds: SeedMetrics, task: str) -> dict[str, Spread]:
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
    content: Mapping[str, Any], name: str, experiment: Experiment | None = None
) -> Comparison:
    """Compare the content of a results.json with the rows published for `experiment`."""
    tasks = {}
    for task in TASKS:
        here, published = _spreads(content["seeds"], task), published_row(experiment, task)
        tasks[task] = {
            metric: Cell(here.get(metric), published.get(metric))
            for metric in metrics_in([here, published])
        }
    return Comparison(
        name=name,
        queries=experiment.protocol if experiment else content["protocol"]["queries"],
        experiment=experiment,
        seeds=tuple(map(str, content["seeds"])),
        parameters=content["trainable_parameters"],
        tasks=tasks,
    )


MARKS: dict[str, tuple[str, Mapping[int, str]]] = {
    "text": ("", {}),
    "markdown": ("- ", MARKDOWN),
    "latex": ("% ", {}),
}
"""Form of tables -> the beginning of each line below them, and the letters that it escapes."""


def render(comparisons: Sequence[Comparison], form: str = "text") -> str:
    """Return the tables of some experiments, one per task, as text, markdown, latex or json."""
    if form == "json":
        return json.dumps([as_data(comparison) for comparison in comparisons], indent=1) + "\n"
    indent = "  " if form == "text" else ""
    blocks = [
        render_table(_rows(comparisons, task, indent), form, title) for task, title in TASKS.items()
    ]
    mark, letters = MARKS[form]
    lines = [*verdict(comparisons), *_protocols(comparisons)]
    blocks.append("\n".join(f"{mark}{line.translate(letters)}" for line in lines))
    return "\n\n".join(block.rstrip() for block in blocks).rstrip() + "\n"


def verdict(comparisons: Sequence[Comparison]) -> list[str]:
    """Return in lines the values outside two published deviations, or that none is."""
    lines, compared, inside = [], 0, True
    for one in comparisons:
        for task, cells in one.tasks.items():
            compared += sum(cell.difference is not None for cell in cells.values())
            outside = ", ".join(
                f"{heading_of(metric)} {cell.here} against {cell.published} "
                f"({cell.difference:+.2f})"
                for metric, cell in cells.items()
                if cell.outside
            )
            if outside:
                inside = False
                lines.append(f"OUTSIDE two published deviations: {one.name} {task}: {outside}")
        if one.experiment and one.experiment.parameters != one.parameters:
            lines.append(
                f"OTHER SIZE: {one.name} has {one.parameters:,} trainable parameters, published "
                f"are {one.experiment.parameters:,}"
            )
    if compared and inside:
        lines.append(f"All {compared} published values are matched within two deviations.")
    if compared:
        lines.append(RULE)
    unpublished = [one.name for one in comparisons if one.experiment and not one.is_published]
    if unpublished:
        lines.append(f"Without a published row: {', '.join(unpublished)}")
    return lines + [f"Note on {one.name}: {flag}" for one in comparisons for flag in one.flags]


def _protocols(comparisons: Sequence[Comparison]) -> list[str]:
    """Return in lines what the queries are: of which experiments where they differ."""
    named = {
        protocol: [c.name for c in comparisons if c.queries == protocol] for protocol in PROTOCOLS
    }
    found = {protocol: names for protocol, names in named.items() if names}
    if len(found) == 1:
        return [f"Queries: {protocol}" for protocol in found]
    return [f"Queries, {protocol}: {', '.join(names)}" for protocol, names in found.items()]


def _rows(comparisons: Sequence[Comparison], task: str, indent: str) -> list[list[str]]:
    """Return the rows of one table: heading, then up to three per experiment."""
    metrics = metrics_in(comparison.tasks[task] for comparison in comparisons)
    rows = [["", *map(heading_of, metrics), "params"]]
    for one in comparisons:
        cells = [one.tasks[task].get(name, Cell()) for name in metrics]
        joined = f" ({JOINED})" if one.queries == JOINED else ""
        name = f"{short(one.name)}, {count(one.seeds, 'seed')}{joined}"
        here = [str(cell.here or "-") for cell in cells]
        rows.append([name, *here, f"{one.parameters:,}"])
        if one.experiment and one.is_published:
            size = one.experiment.parameters
            published = [str(cell.published or "-") for cell in cells]
            rows.append([f"{indent}published: {one.experiment.row}", *published, f"{size:,}"])
            differences = [
                f"{'' if cell.difference is None else signed(cell.difference)}{' *' * cell.outside}"
                for cell in cells
            ]
            rows.append([f"{indent}difference", *differences, f"{one.parameters - size:+,}"])
    return rows


def as_data(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data; infinite values become None, which JSON can hold."""
    experiment = comparison.experiment
    return {
        "experiment": comparison.name,
        "label": experiment.label if experiment else None,
        "paper": experiment.paper if experiment else None,
        "queries": comparison.queries,
        "flags": list(comparison.flags),
        "seeds": list(comparison.seeds),
        "parameters": comparison.parameters,
        "published_parameters": experiment.parameters if experiment else None,
        "tasks": {
            task: {metric: _cell_data(cell) for metric, cell in cells.items()}
            for task, cells in comparison.tasks.items()
        },
    }


def _cell_data(cell: Cell) -> dict[str, Any]:
    here = cell.here or Spread(math.nan, None)
    data: dict[str, Any] = {"mean": _finite(here.mean), "std": _finite(here.std)}
    if cell.published is not None:
        data["published"] = cell.published._asdict()
        data["difference"] = _finite(cell.difference)
        data |= {"allowed": cell.allowed, "outside": cell.outside}
    return data


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
