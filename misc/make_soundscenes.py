"""Make the SoundScenes data set: synthetic audio scenes, their captions and their features."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from soundscenes.write import FOLDER, make_soundscenes
from utils.errors import UsageError, run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="default: data")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes; default 0")
    parser.add_argument("--train", type=int, default=1200, help="clips; default 1200")
    parser.add_argument("--val", type=int, default=150, help="clips; default 150")
    parser.add_argument("--test", type=int, default=200, help="clips; default 200")
    parser.add_argument("--refresh", action="store_true", help="make it anew in any case")
    workers = min(4, os.cpu_count() or 1)  # each needs some 250 MB
    parser.add_argument("--workers", type=int, default=workers, help="processes; here %(default)s")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    args = parser.parse_args(argv)
    return run_main(lambda: make(args))


def make(args: argparse.Namespace) -> int:
    """Make the data set and print its place."""
    counts = {split: getattr(args, split) for split in ("train", "val", "test")}
    if min(counts.values()) < 1 or args.seed < 0:
        raise UsageError("--train, --val and --test must be at least 1, --seed at least 0")
    folder = args.data_dir / FOLDER
    started = time.monotonic()
    made = make_soundscenes(
        folder,
        seed=args.seed,
        counts=counts,
        refresh=args.refresh,
        workers=args.workers,
        quiet=args.quiet,
    )
    if not args.quiet:
        clips = f"{sum(counts.values()):,} clips with five captions each"
        took = f"made in {time.monotonic() - started:.0f} s" if made else "already there"
        print(f"{folder}: {clips}, {took}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
