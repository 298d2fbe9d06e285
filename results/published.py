"""Put the results of several seeds beside the published ones and say which differ."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.metric import METRICS, TASKS, heading_of, published_key
from results.tables import LATEX, MARKDOWN, short
from utils.errors import UsageError
from utils.fetching.experiments import Experiment

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
class Value:
    """Mean and standard deviation (ddof 1) over seeds; no deviation for a single seed."""

    mean: float
    std: float | None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.std is None else f" ({self.std:.1f})")


@dataclass(frozen=True)
class Cell:
    """One metric of one task; `here` is None where the stored results do not have it."""

    heading: str
    here: Value | None
    published: Value | None

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
    label: str | None
    seeds: tuple[str, ...]
    parameters: int
    published_parameters: int | None
    tasks: Mapping[str, Mapping[str, Cell]]  # "t2v", "v2t" -> metric

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
        f"{task}_metrics": {name: vars(value) for name, value in _values(seeds, task).items()}
        for task in TASKS
    }


def _values(seeds: SeedMetrics, task: str) -> dict[str, Value]:
    """Return mean and deviation of the metrics that every seed has."""
    stored = [metrics.get(f"{task}_metrics", {}) for metrics in seeds.values()]
    return {
        name: _value([metrics[name] for metrics in stored])
        for name in metrics_in(stored)
        if all(name in metrics for metrics in stored)
    }


def compare(
    seeds: SeedMetrics, *, name: str, parameters: int, experiment: Experiment | None = None
) -> Comparison:
    """Compare the metrics of some seeds with the rows published for `experiment`.

    Raises ValueError without any seed.
    """
    if not seeds:
        raise ValueError(f"{name}: no seed to compare")
    published = (experiment.published if experiment else None) or {}
    tasks = {}
    for task in TASKS:
        here, row = _values(seeds, task), published.get(task, {})
        of_keys = {key: Value(*row[published_key(key)]) for key in METRICS
                   if published_key(key) in row}  # fmt: skip
        tasks[task] = {
            metric: Cell(heading_of(metric), here.get(metric), of_keys.get(metric))
            for metric in metrics_in([here, of_keys])
        }
    return Comparison(
        name=name,
        label=experiment.label if experiment else None,
        seeds=tuple(map(str, seeds)),
        parameters=parameters,
        published_parameters=experiment.parameters if experiment else None,
        tasks=tasks,
    )


def check_form(form: str) -> None:
    """Raise UsageError for a form that tables do not have."""
    if form not in FORMS:
        raise UsageError(f"unknown format {form!r}; known: {', '.join(FORMS)}")


def render(comparisons: Sequence[Comparison], form: str = "text") -> str:
    """Return the tables of some experiments, one per task, as text, markdown, latex or json."""
    check_form(form)
    return FORMS[form](comparisons)


def verdict(comparisons: Sequence[Comparison]) -> list[str]:
    """Say in lines which values lie outside two published deviations, or that none does."""
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
    unpublished = [c.name for c in comparisons if c.label is not None and not c.is_published]
    if unpublished:
        lines.append(f"Without a published row: {', '.join(unpublished)}")
    return lines


def _value(values: Sequence[float]) -> Value:
    with np.errstate(invalid="ignore"):  # a mean rank may be infinite
        mean, std = (
            float(np.mean(values)),
            float(np.std(values, ddof=1)) if len(values) > 1 else None,
        )
    return Value(mean, std)


def _rows(comparisons: Sequence[Comparison], task: str) -> list[list[str]]:
    """Return the rows of one table: heading, then up to three per experiment."""
    metrics = metrics_in(comparison.tasks[task] for comparison in comparisons)
    rows = [["", *map(heading_of, metrics), "params"]]
    for comparison in comparisons:
        known = comparison.tasks[task]
        cells = [known.get(name, Cell(heading_of(name), None, None)) for name in metrics]
        seeds = f"{len(comparison.seeds)} seed{'s' if len(comparison.seeds) > 1 else ''}"
        here = [_cell(cell.here) for cell in cells]
        rows.append([f"{short(comparison.name)}, {seeds}", *here, f"{comparison.parameters:,}"])
        if comparison.is_published:
            size = comparison.published_parameters
            published = [_cell(cell.published) for cell in cells]
            rows.append([f"published: {comparison.label}", *published, f"{size:,}"])
            differences = [
                f"{_signed(cell.difference)}{' *' if cell.outside else ''}" for cell in cells
            ]
            rows.append(["difference", *differences, f"{comparison.parameters - (size or 0):+,}"])
    return rows


def _cell(value: Value | None) -> str:
    return "-" if value is None else str(value)


def _signed(difference: float | None) -> str:
    """Return a difference with one decimal and its sign, but never "-0.0"."""
    return "" if difference is None else f"{round(difference, 1) + 0.0:+.1f}"


def _text(comparisons: Sequence[Comparison]) -> str:
    blocks = []
    for task, title in TASKS.items():
        rows = _rows(comparisons, task)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [title]
        for row in rows:
            indent = "  " if row[0] == "difference" or row[0].startswith("published: ") else ""
            first = f"{indent}{row[0]}".ljust(widths[0] + 2)
            rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            lines.append("  ".join([first, *rest]).rstrip())
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, "\n".join(verdict(comparisons))]).rstrip() + "\n"


def _markdown(comparisons: Sequence[Comparison]) -> str:
    blocks = []
    for task, title in TASKS.items():
        head, *rows = _rows(comparisons, task)
        rules = ["---", *["---:"] * (len(head) - 1)]
        table = [_markdown_row(cells) for cells in (head, rules, *rows)]
        blocks.append("\n".join([f"### {title}", "", *table]))
    blocks.append("\n".join(f"- {line.translate(MARKDOWN)}" for line in verdict(comparisons)))
    return "\n\n".join(blocks).rstrip() + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.translate(MARKDOWN) for cell in cells)} |"


def _latex(comparisons: Sequence[Comparison]) -> str:
    blocks = []
    for task, title in TASKS.items():
        head, *rows = _rows(comparisons, task)
        lines = [f"% {title}", f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", "\\hline"]
        lines += [_latex_row(head), "\\hline", *map(_latex_row, rows), "\\hline", "\\end{tabular}"]
        blocks.append("\n".join(lines))
    blocks.append("\n".join(f"% {line}" for line in verdict(comparisons)))
    return "\n\n".join(blocks).rstrip() + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cell.translate(LATEX) for cell in cells)} \\\\"


def _json(comparisons: Sequence[Comparison]) -> str:
    return json.dumps([as_data(comparison) for comparison in comparisons], indent=1) + "\n"


def as_data(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data; infinite values become None, which JSON can hold."""
    return {
        "experiment": comparison.name,
        "label": comparison.label,
        "seeds": list(comparison.seeds),
        "parameters": comparison.parameters,
        "published_parameters": comparison.published_parameters,
        "tasks": {
            task: {metric: _cell_data(cell) for metric, cell in cells.items()}
            for task, cells in comparison.tasks.items()
        },
    }


def _cell_data(cell: Cell) -> dict[str, Any]:
    here = cell.here or Value(math.nan, None)
    data: dict[str, Any] = {"mean": _finite(here.mean), "std": _finite(here.std)}
    if cell.published is not None:
        data["published"] = {"mean": cell.published.mean, "std": cell.published.std}
        data["difference"] = _finite(cell.difference)
        data["allowed"] = cell.allowed
        data["outside"] = cell.outside
    return data


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


FORMS: dict[str, Callable[[Sequence[Comparison]], str]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "json": _json,
}
