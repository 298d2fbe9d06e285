"""The documents' tables: published rows, what was measured here, names of the experiments.

All are written by `python misc/tables.py --documents`; a run is taken in by its results.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from model.metric import METRICS, TASKS, published_key
from results.runs import load_run
from results.tables import Spread, spread
from utils.errors import DataError
from utils.fetching.experiments import (
    JOINED,
    Experiment,
    load_experiments,
    registry,
)
from utils.files import read_json, write_text

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "published-results.md"
NAMES = ROOT / "misc" / "exps-names.md"
MEASURED = ROOT / "docs" / "measured-results.json"
HEADINGS = {published_key(name): metric.heading for name, metric in METRICS.items()}
NAMED = {"R1": "R@1", "geom": "geometric mean"}
"""Metrics on the page of names, and their headings there."""
ABOUT_RESULTS = """\
# Published results, and ours

Written by `python misc/tables.py --documents` from `configs/experiments.json` (the
published tables) and `docs/measured-results.json` (measured with this code). Mean
(standard deviation) over three seeds. R@k in percent, higher is better; MdR and MnR are
median and mean rank, lower is better; Geom is the geometric mean of R@1, R@5 and R@10.

`python eval.py` fetches and scores all published checkpoints and prints them beside
these rows. A row is named by its experiment, as in
[misc/exps-names.md](../misc/exps-names.md).
"""
ABOUT_NAMES = """\
# Names of the published experiments

Written by `python misc/tables.py --documents` from `configs/experiments.json`. Score one
with `python eval.py --experiment NAME`; without a name all of them are scored. Where two
papers use a name, the first one's row has it, and NAME@GROUP is the second one's, or
NAME@PAPER where the checkpoints are the same. R@1 and the geometric mean of R@1, R@5 and
R@10 are the published ones, text-to-audio: mean (standard deviation) over the seeds.
"""

Spreads = Mapping[str, Sequence[float | None]]
"""Published key of a metric -> mean and deviation."""


@dataclass(frozen=True)
class Measurement:
    """Results measured with this project, as docs/measured-results.json keeps them."""

    config: str
    """The key of the experiment."""
    data: str
    published_features: bool
    """On the published features, so that it belongs beside the published row."""
    command: str
    machine: str
    date: str
    seeds: int
    """How many."""
    t2v: Spreads
    v2t: Spreads

    def of(self, task: str) -> Spreads:
        """Return the metrics of a direction."""
        return self.t2v if task == "t2v" else self.v2t


def take_in(
    results: Path, *, data: str, command: str, machine: str, published_features: bool
) -> None:
    """Keep a results.json as a measurement, in place of an earlier one of its config and data."""
    run = load_run(results)
    if run.is_part:
        raise DataError(f"{results}: is of a part (--mini_train, --per_class) of an experiment")
    spreads = {
        task: {
            published_key(metric): [
                None if value is None else round(value, 4)
                for value in spread(run.values(task, metric))
            ]
            for metric in run.metrics
        }
        for task in TASKS
    }
    new = Measurement(
        config=run.experiment,
        data=data,
        published_features=published_features,
        command=command,
        machine=machine,
        date=time.strftime("%Y-%m-%d"),
        seeds=len(run.seeds),
        **spreads,
    )
    others = [row for row in load_measured() if (row.config, row.data) != (new.config, data)]
    lines = ",\n".join(json.dumps(asdict(row)) for row in [*others, new])
    write_text(MEASURED, f"[\n{lines}\n]\n")


def write_documents() -> None:
    """Write every document whose tables come from results."""
    write_text(PAGE, render_page())
    write_text(NAMES, render_names())


def load_measured() -> list[Measurement]:
    """Return the measurements made with this project, in the order they were added."""
    return [Measurement(**row) for row in read_json(MEASURED)]


def render_page() -> str:
    """Return docs/published-results.md: published rows, and what was measured here, apart."""
    measured = load_measured()
    lines = [ABOUT_RESULTS, *_papers()]
    for dataset, all_experiments in _by_data_set().items():
        experiments = [e for e in all_experiments if e.published]
        if not experiments:
            continue
        lines += ["", f"## {dataset}"]
        for task, title in TASKS.items():
            keys = _keys_in([(e.published or {})[task] for e in experiments])
            lines += ["", f"### {dataset}, {title}", ""]
            lines += _heading("paper", "model and experts", "parameters", *_headings(keys))
            for experiment in experiments:
                values = _values((experiment.published or {})[task], keys)
                size = f"{experiment.parameters:,}"
                lines.append(_row(experiment.paper, _label(experiment), size, *values))
                lines += [
                    _row("", "*measured here*", "", *_values(row.of(task), keys))
                    for row in measured
                    if row.published_features and row.config == experiment.key
                ]
        flags = [f"* `{e.key}` ({e.paper}): {flag}." for e in experiments for flag in e.flags]
        lines += ["", *flags] if flags else []
    lines += ["", "## Measured with this code", ""]
    lines += ["Rows of other data than the published are not to be compared with the tables above."]
    for task, title in TASKS.items():
        keys = _keys_in([row.of(task) for row in measured])
        lines += ["", f"### Measured, {title}", ""]
        lines += _heading("data", "config", "seeds", *_headings(keys))
        lines += [
            _row(row.data, f"`{row.config}`", str(row.seeds), *_values(row.of(task), keys))
            for row in measured
        ]
    lines += ["", "### With which commands, where and when", ""]
    lines += [
        f"* {row.data}, `{row.config}`: `{row.command}`; {row.machine}, {row.date}"
        for row in measured
    ]
    return "\n".join(lines) + "\n"


def render_names() -> str:
    """Return misc/exps-names.md: one table per data set, then the configs without a run."""
    lines = [ABOUT_NAMES, *_papers()]
    heads = ("name", "paper", "model and experts", "queries", "seeds", "parameters")
    for dataset, experiments in _by_data_set().items():
        lines += ["", f"## {dataset}", "", *_heading(*heads, *NAMED.values())]
        for e in experiments:
            values = _values((e.published or {}).get("t2v", {}), NAMED)
            names = (f"`{e.key}`", e.paper, e.label, e.protocol, ", ".join(map(str, e.runs)))
            lines.append(_row(*names, f"{e.parameters:,}", *values))
    lines += ["", "## Configs without a published run", ""]
    lines += [f"- `{config}`" for config in registry()["unpublished"]]
    return "\n".join(lines) + "\n"


def _by_data_set() -> dict[str, list[Experiment]]:
    """Return the experiments of each data set that has any."""
    experiments = load_experiments().values()
    of = {name: [e for e in experiments if e.dataset == name] for name in registry()["datasets"]}
    return {name: found for name, found in of.items() if found}


def _papers() -> list[str]:
    """Name the papers, and what to know of their rows."""
    return [
        " ".join([f"* {year}: *{paper['title']}*.", *(f"{note}." for note in paper["notes"])])
        for year, paper in registry()["papers"].items()
    ]


def _label(experiment: Experiment) -> str:
    """Return the published name of a row, linked to its config; two rows share theirs."""
    started = " (fine-tuned)" if experiment.config.endswith("-finetuned.json") else ""
    joined = f", {JOINED}" if experiment.protocol == JOINED else ""
    return f"[{experiment.label}{started}{joined}](../{experiment.config})"


def _keys_in(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the metrics that any row has, in the order of the table of metrics."""
    found = dict.fromkeys(key for row in rows for key in row)
    return [key for key in HEADINGS if key in found] + [key for key in found if key not in HEADINGS]


def _headings(keys: Iterable[str]) -> list[str]:
    return [HEADINGS.get(key, key) for key in keys]


def _values(metrics: Spreads, keys: Iterable[str]) -> list[str]:
    """Return "mean (deviation)" of some metrics, with one decimal as published."""
    found = [metrics.get(key, (None, None)) for key in keys]
    return ["-" if mean is None else str(Spread(mean, std)) for mean, std in found]


def _heading(*cells: str) -> list[str]:
    return [_row(*cells), f"|{'---|' * len(cells)}"]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
