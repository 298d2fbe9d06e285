"""Compare trained systems: is a difference more than chance?

python misc/compare.py RUN_A RUN_B [RUN_C ...]     the first with each of the others
python misc/compare.py RUN --published [NAME]      a run with a published row
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model.metric import TASKS
from results.comparison import (
    compare_runs,
    compare_with_published,
    legend,
    rows_of_pair,
    rows_of_published,
    sentence_of_published,
    sentences,
)
from results.runs import load_runs
from results.statistics import LEVEL, ROUNDS
from results.tables import FORMS, render
from utils.errors import UsageError, run_main
from utils.fetching.experiments import find_experiment


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run's folder or results.json; a folder of several is joined: a group, or results "
        "of many machines",
    )
    parser.add_argument(
        "--published",
        nargs="?",
        const="",
        metavar="NAME",
        help="compare with the published row of this experiment; default: the run's own",
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="resamples of each test; default %(default)s"
    )
    parser.add_argument("--format", choices=list(FORMS), default="text", help="of the tables")
    args = parser.parse_args(argv)
    return run_main(lambda: compare(args))


def compare(args: argparse.Namespace) -> int:
    """Print the tables and the sentences."""
    if args.rounds < 100:
        raise UsageError(f"--rounds {args.rounds}: expected 100 or more")
    runs = load_runs(args.runs)
    if args.published is not None:
        for run in runs:
            found = compare_with_published(run, find_experiment(args.published or run.experiment))
            for task, title in TASKS.items():
                print(render(rows_of_published(found, task), args.format, title))
            comment([sentence_of_published(found)], args.format)
        return 0
    if len(runs) < 2:
        raise UsageError("name two runs or more, or add --published to compare with the tables")
    for pair in compare_runs(runs, rounds=args.rounds):
        comment(legend(pair), args.format)
        for task, title in TASKS.items():
            print(render(rows_of_pair(pair, task), args.format, title))
        comment([*sentences(pair), f"* p at most {LEVEL} after the correction."], args.format)
    return 0


def comment(lines: Sequence[str], form: str) -> None:
    """Print sentences; as comments where the table is for a program."""
    mark = {"latex": "% ", "csv": "# "}.get(form, "")
    print("\n".join(f"{mark}{line}" for line in lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
