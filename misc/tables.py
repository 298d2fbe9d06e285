"""Write the tables of any runs in the published form, or those of the documents.

python misc/tables.py RUN [RUN ...] --format latex --out table.tex
python misc/tables.py --documents
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from results.documents import take_in, write_documents
from results.runs import load_runs
from results.tables import FORMS, render_runs
from utils.errors import UsageError, run_main
from utils.files import write_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="a run's folder or results.json, or a group of runs"
    )
    parser.add_argument("--format", choices=list(FORMS), default="markdown")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: the terminal")
    documents = parser.add_argument_group("tables of the documents")
    documents.add_argument("--documents", action="store_true", help="write the tables of the pages")
    documents.add_argument("--add", type=Path, metavar="RESULTS", help="take in a results.json")
    documents.add_argument("--data", help="with --add: in words, which data it was measured on")
    documents.add_argument("--command", help="with --add: the command that measured it")
    documents.add_argument("--machine", help="with --add: in words, the machine")
    documents.add_argument(
        "--published_features",
        action="store_true",
        help="with --add: on the published features, so that it belongs beside the published row",
    )
    args = parser.parse_args(argv)
    return run_main(lambda: write(args))


def write(args: argparse.Namespace) -> int:
    """Write what was asked for."""
    if bool(args.runs) == bool(args.documents or args.add):
        raise UsageError("name runs to make a table of, or ask for --documents or --add")
    if args.add:
        if not (args.data and args.command and args.machine):
            raise UsageError("--add needs --data, --command and --machine: a figure names them all")
        take_in(
            args.add,
            data=args.data,
            command=args.command,
            machine=args.machine,
            published_features=args.published_features,
        )
    if not args.runs:
        write_documents()
        return 0
    text = render_runs(load_runs(args.runs), args.format)
    if args.out is None:
        print(text, end="")
    else:
        write_text(args.out, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
