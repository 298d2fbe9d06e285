"""Write misc/exps-names.md: the names of the published experiments, by data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.errors import run_main
from utils.fetching.experiments import load_experiments, published_data_sets, unpublished_configs
from utils.files import write_text

PAGE = ROOT / "misc" / "exps-names.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE, help="default: misc/exps-names.md")
    args = parser.parse_args(argv)
    return run_main(lambda: write(args.out))


def write(page: Path) -> int:
    """Write the page."""
    write_text(page, render())
    return 0


def render() -> str:
    """Return the page: one table per data set, then the configs without a published run."""
    lines = [
        "# Names of the published experiments",
        "",
        "Written by `python misc/exps_names.py` from `configs/experiments.json`. Score one with",
        "`python eval.py --experiment NAME`; without a name all of them are scored. R@1 and the",
        "geometric mean of R@1, R@5 and R@10 are the published ones, text-to-audio: mean (standard",
        "deviation) over the seeds.",
    ]
    for dataset in published_data_sets():
        experiments = [e for e in load_experiments().values() if e.dataset == dataset]
        if not experiments:
            continue
        lines += [
            "",
            f"## {dataset}",
            "",
            "| name | model and experts | seeds | parameters | R@1 | geometric mean |",
            "|---|---|---|---|---|---|",
        ]
        for experiment in experiments:
            values = ["-", "-"]
            if experiment.published is not None:
                row = experiment.published["t2v"]
                values = [f"{row[m][0]:.1f} ({row[m][1]:.1f})" for m in ("R1", "geom")]
            seeds = ", ".join(map(str, experiment.runs))
            cells = [f"`{experiment.name}`", experiment.label, seeds, f"{experiment.parameters:,}"]
            lines.append(f"| {' | '.join(cells + values)} |")
    lines += ["", "## Configs without a published run", ""]
    lines += [f"- `{config}`" for config in unpublished_configs()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
