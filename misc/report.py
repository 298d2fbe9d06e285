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
from results.report import Shown, read_shown, render_page
from results.runs import load_runs
from results.sounds import copy_of, find_sounds, is_played, link_to
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
    pairs = []
    if len(shown) > 1 and complete:
        pairs = compare_runs([one.run for one in shown])
    sounds = addresses(shown, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, render_page(shown, pairs=pairs, sounds=sounds, title=args.title))
    print(f"look: {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")
    return 0


def addresses(shown: Sequence[Shown], args: argparse.Namespace) -> dict[str, str]:
    """Return the address of the sound of every clip that has one."""
    clips = {clip for one in shown if one.ranks for clip in one.first.clips}
    if args.sounds is None or not clips:
        return {}
    found = find_sounds(args.sounds, sorted(clips))
    if not found:
        raise UsageError(f"{args.sounds} has no recording that is named like a clip of the run")
    if args.embed:
        return {clip: copy_of(path) for clip, path in found.items()}
    return {clip: link_to(path, args.out) for clip, path in found.items() if is_played(path)}


if __name__ == "__main__":
    sys.exit(main())
