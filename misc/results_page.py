"""Write docs/published-results.md and README's tables; --add takes in a results.json first."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model.metric import METRICS
from trainer.compare import TASKS, published_key
from utils.errors import DataError, UsageError, run_main
from utils.fetching.experiments import Experiment, load_experiments, published_data_sets
from utils.files import read_json, write_text

PAGE = ROOT / "docs" / "published-results.md"
MEASURED = ROOT / "docs" / "measured-results.json"
README = ROOT / "README.md"
BEGIN = "<!-- These tables are written by: python misc/results_page.py -->\n"
END = "<!-- End of the tables. -->\n"
SHORT = ("R1", "R10", "MedR")
"""Metrics that README's tables have, per task."""

HEADINGS = {published_key(name): metric.heading for name, metric in METRICS.items()}
Row = Mapping[str, Any]
"""One measurement: config, data, published_features, command, machine, date, seeds, and values
as in the registry: task ("t2v", "v2t") -> metric -> [mean, deviation]."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--add", type=Path, metavar="RESULTS", help="a results.json to take in")
    parser.add_argument("--data", help="with --add: in words, which data it was measured on")
    parser.add_argument("--command", help="with --add: the command that measured it")
    parser.add_argument("--machine", help="with --add: in words, the machine")
    parser.add_argument(
        "--published_features",
        action="store_true",
        help="with --add: on the published features, so that it stands beside the published row",
    )
    args = parser.parse_args(argv)
    return run_main(lambda: write(args))


def write(args: argparse.Namespace) -> int:
    """Take in what is to be added, then write both pages."""
    if args.add:
        if not (args.data and args.command and args.machine):
            raise UsageError("--add needs --data, --command and --machine: a figure says them all")
        new = measured_row(args)
        measured = [row for row in load_measured() if not _same(row, new)]
        measured.append(new)
        lines = ",\n".join(json.dumps(row) for row in measured)
        write_text(MEASURED, f"[\n{lines}\n]\n")
    write_text(PAGE, render_page())
    write_text(README, render_readme(README.read_text(encoding="utf-8")))
    return 0


def load_measured() -> list[Row]:
    """Return the measurements made with this project, in the order they were added."""
    rows = read_json(MEASURED)
    if not isinstance(rows, list):
        raise DataError(f"{MEASURED}: expected a list of measurements")
    return rows


def measured_row(args: argparse.Namespace) -> Row:
    """Return the row of a results.json."""
    results = read_json(args.add)
    try:
        if results.get("mini_train") or "queried_clips" in results.get("protocol", {}):
            raise DataError(
                f"{args.add}: is of a part (--mini_train, --per_class) of an experiment"
            )
        return {
            "config": results["config"],
            "data": args.data,
            "published_features": args.published_features,
            "command": args.command,
            "machine": args.machine,
            "date": time.strftime("%Y-%m-%d"),
            "seeds": len(results["seeds"]),
            **{
                task: {
                    published_key(metric): [_rounded(value[part]) for part in ("mean", "std")]
                    for metric, value in results["summary"][f"{task}_metrics"].items()
                }
                for task in TASKS
            },
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{args.add}: is not a results.json of train.py or eval.py: {error}"
        ) from None


def render_page() -> str:
    """Return docs/published-results.md: published rows, and what was measured here, apart."""
    lines = [
        "# Published results, and ours",
        "",
        "Written by `python misc/results_page.py` from `configs/experiments.json` (the published",
        "tables) and `docs/measured-results.json` (measured with this code). Mean (standard",
        "deviation) over three seeds. R@k in percent, higher is better; MdR and MnR are median and",
        "mean rank, lower is better; Geom is the geometric mean of R@1, R@5 and R@10.",
        "",
        "`python eval.py` fetches and scores all published checkpoints and prints them beside",
        "these rows.",
    ]
    for dataset in published_data_sets():
        experiments = [e for e in _published() if e.dataset == dataset]
        if not experiments:
            continue
        lines += ["", f"## {dataset}"]
        for task, title in TASKS.items():
            keys = _keys_in([(e.published or {})[task] for e in experiments])
            lines += ["", f"### {dataset}, {title}", ""]
            lines += _table(["model and experts", "parameters", *_headings(keys)])
            for experiment in experiments:
                assert experiment.published is not None
                values = _values(experiment.published[task], keys)
                label = _label(experiment, "../")
                lines.append(_row([label, f"{experiment.parameters:,}", *values]))
                lines += [
                    _row(["*measured here*", "", *_values(row[task], keys)])
                    for row in load_measured()
                    if row["published_features"] and row["config"] == experiment.name
                ]
    lines += ["", "## Measured with this code", ""]
    lines += ["Rows of other data than the published are not to be compared with the tables above."]
    for task, title in TASKS.items():
        keys = _keys_in([row[task] for row in load_measured()])
        lines += ["", f"### Measured, {title}", ""]
        lines += _table(["data", "config", "seeds", *_headings(keys)])
        for row in load_measured():
            cells = [row["data"], f"`{row['config']}`", str(row["seeds"])]
            lines.append(_row([*cells, *_values(row[task], keys)]))
    lines += ["", "### With which commands, where and when", "", *_sources()]
    return "\n".join(lines) + "\n"


def render_readme(text: str) -> str:
    """Return README with its tables written anew."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"{README}: the marks around the tables are gone")
    return "".join([before, begin, "\n", readme_tables(), "\n", end, after])


def readme_tables() -> str:
    """Return README's two tables: the published rows, and what was measured on other data."""
    heads = [f"{task} {HEADINGS[key]}" for task in ("t2a", "a2t") for key in SHORT]
    rows = load_measured()
    lines = _table(["data", "model and experts", *heads, "measured here, same features"])
    for experiment in _published():
        own = [r for r in rows if r["published_features"] and r["config"] == experiment.name]
        here = "; ".join(", ".join(_short(row)) for row in own) or "-"
        assert experiment.published is not None
        values = _short(experiment.published)
        lines.append(_row([experiment.dataset, _label(experiment), *values, here]))
    lines += [
        "",
        "Scored and compared by `python eval.py`. What was measured with this code on other data,",
        "which says nothing about the rows above:",
        "",
        *_table(["data", "config", "seeds", *heads]),
    ]
    for row in rows:
        if not row["published_features"]:
            cells = [row["data"], f"`{row['config']}`", str(row["seeds"])]
            lines.append(_row([*cells, *_short(row)]))
    return "\n".join([*lines, "", *_sources()]) + "\n"


def _sources() -> list[str]:
    """Say of each measurement which command made it, where and when."""
    return [
        f"* {row['data']}, `{row['config']}`: `{row['command']}`; {row['machine']}, {row['date']}"
        for row in load_measured()
    ]


def _label(experiment: Experiment, root: str = "") -> str:
    """Return the published name of a row, linked to its config; two rows share theirs."""
    started = " (fine-tuned)" if "-finetuned" in experiment.config else ""
    return f"[{experiment.label}{started}]({root}{experiment.config})"


def _published() -> list[Experiment]:
    return [e for e in load_experiments().values() if e.published is not None]


def _short(row: Row) -> list[str]:
    return [value for task in TASKS for value in _values(row[task], SHORT)]


def _keys_in(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the metrics that any row has, in the order of the table of metrics."""
    found = dict.fromkeys(key for row in rows for key in row)
    return [key for key in HEADINGS if key in found] + [key for key in found if key not in HEADINGS]


def _headings(keys: Iterable[str]) -> list[str]:
    return [HEADINGS.get(key, key) for key in keys]


def _values(metrics: Mapping[str, Sequence[float | None]], keys: Iterable[str]) -> list[str]:
    """Return "mean (deviation)" of some metrics, with one decimal as published."""
    return [_value(*metrics.get(key, (None, None))) for key in keys]


def _value(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.1f}" + ("" if std is None else f" ({std:.1f})")


def _table(heads: Sequence[str]) -> list[str]:
    return [_row(heads), f"|{'---|' * len(heads)}"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _same(row: Row, other: Row) -> bool:
    """Say whether two rows are of the same config and data."""
    return bool((row["config"], row["data"]) == (other["config"], other["data"]))


if __name__ == "__main__":
    sys.exit(main())
