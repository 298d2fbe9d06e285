"""Write one self-contained page about one run or several side by side.

python misc/report.py RUN [RUN ...] --out page.html
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from results.comparison import compare_runs
from results.report import read_shown, render_page
from results.runs import load_runs
from results.sounds import addresses
from utils.errors import UsageError, run_main
from utils.files import write_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run's folder or results.json, or a group of runs"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), help="default: %(default)s"
    )
    parser.add_argument("--title", default="", help="default: the names of the runs")
    parser.add_argument(
        "--sounds", type=Path, metavar="DIR", help="recordings named like the clips, to listen to"
    )
    parser.add_argument(
        "--embed", action="store_true", help="copy the sounds into the page instead of linking"
    )
    args = parser.parse_args(argv)
    return run_main(lambda: write(args))


def write(args: argparse.Namespace) -> int:
    """Write the page and print its place."""
    if args.embed and args.sounds is None:
        raise UsageError("--embed needs --sounds DIR, the recordings to copy in")
    shown = [read_shown(run) for run in load_runs(args.runs)]
    complete = all(len(one.ranks) == len(one.run.seeds) for one in shown)
    pairs = compare_runs([one.run for one in shown]) if complete else []
    clips = {clip for one in shown if one.ranks for clip in one.first.clips}
    sounds = {}
    if args.sounds is not None and clips:
        sounds = addresses(args.sounds, sorted(clips), args.out, embed=args.embed)
        if not sounds:
            raise UsageError(f"{args.sounds} has no recording that is named like a clip of the run")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, render_page(shown, pairs=pairs, sounds=sounds, title=args.title))
    print(f"look: {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
