"""Tables in the published form: mean (standard deviation) over seeds, one decimal.

A table is its rows, the first one the heading; the forms only lay it out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence, Sized
from typing import NamedTuple

import numpy as np

from model.metric import TASKS, heading_of
from results.runs import StoredRun

Rows = Sequence[Sequence[str]]
LONGEST_NAME = 64
MARKDOWN = str.maketrans({letter: f"\\{letter}" for letter in "\\*_`<>|[]"})
LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "{}$&#%_"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
)


class Spread(NamedTuple):
    """Mean and standard deviation (ddof 1) over seeds; no deviation for one seed."""

    mean: float
    std: float | None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.std is None else f" ({self.std:.1f})")


def spread(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation of the values of the seeds."""
    with np.errstate(invalid="ignore"):  # a mean rank may be infinite
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return Spread(float(np.mean(values)), std)


def short(name: str) -> str:
    """Return a name as tables show it: the middle of a very long one is left out."""
    return name if len(name) <= LONGEST_NAME else f"{name[:40]}...{name[43 - LONGEST_NAME :]}"


def signed(difference: float) -> str:
    """Return a difference with one decimal and its sign, but never "-0.0"."""
    return f"{round(difference, 1) + 0.0:+.1f}"


def count(cases: Sized, noun: str) -> str:
    """Return how many there are in words: "1 clip", "2,000 clips"."""
    return f"{len(cases):,} {noun}{'' if len(cases) == 1 else 's'}"


def rows_of_runs(runs: Sequence[StoredRun], task: str) -> list[list[str]]:
    """Return the table of a task: a row a run, a column a metric that all runs have."""
    metrics = [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]
    rows = [["", "seeds", *map(heading_of, metrics), "params"]]
    for run in runs:
        values = [str(spread(run.values(task, metric))) for metric in metrics]
        name = f"{short(run.name)} (--mini_train)" if run.mini else short(run.name)
        size = run.content.get("trainable_parameters")
        rows.append([name, str(len(run.seeds)), *values, "" if size is None else f"{size:,}"])
    return rows


def render_runs(runs: Sequence[StoredRun], form: str) -> str:
    """Return the tables of some runs, one per task."""
    parts = [render(rows_of_runs(runs, task), form, title) for task, title in TASKS.items()]
    if form == "csv":  # one table: its first column says the task
        return "".join([parts[0], *(part.split("\n", 1)[1] for part in parts[1:])])
    return "\n".join(parts)


def render(rows: Rows, form: str, title: str = "") -> str:
    """Lay out one table: text, markdown, latex or csv."""
    return FORMS[form](rows, title)


def _text(rows: Rows, title: str) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [title] if title else []
    for row in rows:
        first = row[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines) + "\n"


def _markdown(rows: Rows, title: str) -> str:
    head, *body = [[cell.translate(MARKDOWN) for cell in row] for row in rows]
    rules = ["---", *["---:"] * (len(head) - 1)]
    table = [f"| {' | '.join(cells)} |" for cells in (head, rules, *body)]
    return "\n".join([*([f"### {title}", ""] if title else []), *table]) + "\n"


def _latex(rows: Rows, title: str) -> str:
    head, *body = [f"{' & '.join(cell.translate(LATEX) for cell in row)} \\\\" for row in rows]
    lines = [f"% {title}"] if title else []
    lines += [f"\\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}", "\\hline", head, "\\hline"]
    return "\n".join([*lines, *body, "\\hline", "\\end{tabular}"]) + "\n"


def _csv(rows: Rows, title: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", *rows[0]] if title else rows[0])
    writer.writerows([[title, *row] if title else row for row in rows[1:]])
    return text.getvalue()


FORMS: dict[str, Callable[[Rows, str], str]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
}
