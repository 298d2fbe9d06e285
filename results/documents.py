"""The documents' tables: published rows, what was measured here, names of the experiments.

All are written by `python misc/tables.py --documents`; a run is taken in by its results.json.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from model.metric import METRICS, TASKS, published_key
from results.runs import load_run
from results.tables import Spread, spread
from utils.declared import read_values
from utils.errors import DataError
from utils.fetching.experiments import (
    JOINED,
    Experiment,
    load_experiments,
    published_data_sets,
    published_papers,
    unpublished_configs,
)
from utils.files import read_json, write_text
from utils.kinds import Range, list_of, nullable, real

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "published-results.md"
NAMES = ROOT / "misc" / "exps-names.md"
MEASURED = ROOT / "docs" / "measured-results.json"
NAMED = {"R@1": "R1", "geometric mean": "geom"}
"""Columns of the page of names."""

HEADINGS = {published_key(name): metric.heading for name, metric in METRICS.items()}
Spreads = Annotated[
    dict[
        str,
        Annotated[
            tuple[float | None, ...],
            list_of(nullable(real(Range(-math.inf))), "a list of a mean and a deviation", 2),
        ],
    ],
    "published key of a metric -> mean and deviation",
]


@dataclass(frozen=True)
class Measurement:
    """One measurement."""

    config: Annotated[str, "key of the experiment"]
    data: Annotated[str, "name of the data"]
    published_features: Annotated[bool, "it belongs beside the published row"]
    command: Annotated[str, "that measured it"]
    machine: Annotated[str, "that it was measured on"]
    date: Annotated[str, "of the measurement"]
    seeds: Annotated[int, "number of seeds"]
    t2v: Spreads
    v2t: Spreads

    def of(self, task: str) -> Mapping[str, Sequence[float | None]]:
        """Return the metrics of a direction."""
        return self.t2v if task == "t2v" else self.v2t


@dataclass(frozen=True)
class Source:
    """The origin of a measurement."""

    results: Path
    data: str
    command: str
    machine: str
    published_features: bool
    """On the published features, so that it belongs beside the published row."""


def take_in(source: Source) -> None:
    """Keep a results.json as a measurement, in place of an earlier one of its config and data."""
    new = measured_row(source)
    place = (new.config, new.data)
    kept = [row for row in load_measured() if (row.config, row.data) != place]
    lines = ",\n".join(json.dumps(asdict(row)) for row in [*kept, new])
    write_text(MEASURED, f"[\n{lines}\n]\n")


def write_documents() -> None:
    """Write every document whose tables come from results."""
    write_text(PAGE, render_page())
    write_text(NAMES, render_names())


def load_measured() -> list[Measurement]:
    """Return the measurements made with this project, in the order they were added."""
    rows = read_json(MEASURED)
    if not isinstance(rows, list):
        raise DataError(f"{MEASURED}: expected a list of measurements")
    return [read_values(Measurement, row, f"{MEASURED}: row {n}") for n, row in enumerate(rows, 1)]


def measured_row(source: Source) -> Measurement:
    """Return the row of a results.json."""
    run = load_run(source.results)
    if run.mini or "queried_clips" in run.content["protocol"]:
        raise DataError(
            f"{source.results}: is of a part (--mini_train, --per_class) of an experiment"
        )
    values = {
        task: {
            published_key(metric): tuple(map(_rounded, spread(run.values(task, metric))))
            for metric in run.metrics
        }
        for task in TASKS
    }
    return Measurement(
        config=run.experiment,
        data=source.data,
        published_features=source.published_features,
        command=source.command,
        machine=source.machine,
        date=time.strftime("%Y-%m-%d"),
        seeds=len(run.seeds),
        **values,
    )


def render_page() -> str:
    """Return docs/published-results.md: published rows, and what was measured here, apart."""
    lines = [
        "# Published results, and ours",
        "",
        "Written by `python misc/tables.py --documents` from `configs/experiments.json` (the",
        "published tables) and `docs/measured-results.json` (measured with this code). Mean",
        "(standard deviation) over three seeds. R@k in percent, higher is better; MdR and MnR are",
        "median and mean rank, lower is better; Geom is the geometric mean of R@1, R@5 and R@10.",
        "",
        "`python eval.py` fetches and scores all published checkpoints and prints them beside",
        "these rows. A row is named by its experiment, as in",
        "[misc/exps-names.md](../misc/exps-names.md).",
        "",
        *_papers(),
    ]
    for dataset in published_data_sets():
        experiments = [e for e in _published() if e.dataset == dataset]
        if not experiments:
            continue
        lines += ["", f"## {dataset}"]
        for task, title in TASKS.items():
            keys = _keys_in([(e.published or {})[task] for e in experiments])
            lines += ["", f"### {dataset}, {title}", ""]
            lines += _table(["paper", "model and experts", "parameters", *_headings(keys)])
            for experiment in experiments:
                values = _values((experiment.published or {})[task], keys)
                label = _label(experiment, "../")
                size = f"{experiment.parameters:,}"
                lines.append(_row([experiment.paper, label, size, *values]))
                lines += [
                    _row(["", "*measured here*", "", *_values(row.of(task), keys)])
                    for row in load_measured()
                    if row.published_features and row.config == experiment.key
                ]
        lines += _flags(experiments)
    lines += ["", "## Measured with this code", ""]
    lines += ["Rows of other data than the published are not to be compared with the tables above."]
    for task, title in TASKS.items():
        keys = _keys_in([row.of(task) for row in load_measured()])
        lines += ["", f"### Measured, {title}", ""]
        lines += _table(["data", "config", "seeds", *_headings(keys)])
        for row in load_measured():
            cells = [row.data, f"`{row.config}`", str(row.seeds)]
            lines.append(_row([*cells, *_values(row.of(task), keys)]))
    lines += ["", "### With which commands, where and when", "", *_sources()]
    return "\n".join(lines) + "\n"


def _sources() -> list[str]:
    """Return the command, machine and date of each measurement."""
    return [
        f"* {row.data}, `{row.config}`: `{row.command}`; {row.machine}, {row.date}"
        for row in load_measured()
    ]


def _papers() -> list[str]:
    """Name the papers, and what to know of their rows."""
    return [
        " ".join([f"* {year}: *{paper.title}*.", *(f"{note}." for note in paper.notes)])
        for year, paper in published_papers().items()
    ]


def _flags(experiments: Sequence[Experiment]) -> list[str]:
    """List what to know before comparing with a row."""
    lines = [f"* `{e.key}` ({e.paper}): {flag}." for e in experiments for flag in e.flags]
    return ["", *lines] if lines else []


def _label(experiment: Experiment, root: str = "") -> str:
    """Return the published name of a row, linked to its config; two rows share theirs."""
    started = " (fine-tuned)" if experiment.config.endswith("-finetuned.json") else ""
    joined = f", {JOINED}" if experiment.protocol == JOINED else ""
    return f"[{experiment.label}{started}{joined}]({root}{experiment.config})"


def _published() -> list[Experiment]:
    return [e for e in load_experiments().values() if e.published is not None]


def _keys_in(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the metrics that any row has, in the order of the table of metrics."""
    found = dict.fromkeys(key for row in rows for key in row)
    return [key for key in HEADINGS if key in found] + [key for key in found if key not in HEADINGS]


def _headings(keys: Iterable[str]) -> list[str]:
    return [HEADINGS.get(key, key) for key in keys]


def _values(metrics: Mapping[str, Sequence[float | None]], keys: Iterable[str]) -> list[str]:
    """Return "mean (deviation)" of some metrics, with one decimal as published."""
    found = [metrics.get(key, (None, None)) for key in keys]
    return ["-" if mean is None else str(Spread(mean, std)) for mean, std in found]


def _table(heads: Sequence[str]) -> list[str]:
    return [_row(heads), f"|{'---|' * len(heads)}"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def render_names() -> str:
    """Return misc/exps-names.md: one table per data set, then the configs without a run."""
    lines = [
        "# Names of the published experiments",
        "",
        "Written by `python misc/tables.py --documents` from `configs/experiments.json`. Score one",
        "with `python eval.py --experiment NAME`; without a name all of them are scored. Where two",
        "papers use a name, the first one's row has it, and NAME@GROUP is the second one's, or",
        "NAME@PAPER where the checkpoints are the same. R@1 and the geometric mean of R@1, R@5 and",
        "R@10 are the published ones, text-to-audio: mean (standard deviation) over the seeds.",
        "",
        *_papers(),
    ]
    for dataset in published_data_sets():
        experiments = [e for e in load_experiments().values() if e.dataset == dataset]
        if not experiments:
            continue
        lines += ["", f"## {dataset}", ""]
        lines += _table(
            ["name", "paper", "model and experts", "queries", "seeds", "parameters", *NAMED]
        )
        for experiment in experiments:
            values = ["-"] * len(NAMED)
            if experiment.published is not None:
                values = _values(experiment.published["t2v"], NAMED.values())
            seeds = ", ".join(map(str, experiment.runs))
            names = [f"`{experiment.key}`", experiment.paper, experiment.label, experiment.protocol]
            lines.append(_row([*names, seeds, f"{experiment.parameters:,}", *values]))
    lines += ["", "## Configs without a published run", ""]
    lines += [f"- `{config}`" for config in unpublished_configs()]
    return "\n".join(lines) + "\n"
