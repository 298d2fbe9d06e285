"""Write the tables of any runs in the published form: Markdown, LaTeX, CSV or text.

python misc/tables.py RUN [RUN ...] --format latex --out table.tex
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from results.runs import load_runs
from results.tables import FORMS, render_runs
from utils.errors import run_main
from utils.files import write_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run's folder or results.json, or a group of runs"
    )
    parser.add_argument("--format", choices=list(FORMS), default="markdown")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: the terminal")
    args = parser.parse_args(argv)
    return run_main(lambda: write(args))


def write(args: argparse.Namespace) -> int:
    """Write the tables, one a direction."""
    text = render_runs(load_runs(args.runs), args.format)
    if args.out is None:
        print(text, end="")
    else:
        write_text(args.out, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
