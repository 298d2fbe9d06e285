"""Remove the files that finished runs need only to resume: exact states, periodic checkpoints.

    python misc/prune_runs.py --dry_run            how much would it free?
    python misc/prune_runs.py                      the runs below data/saved
    python misc/prune_runs.py --name audiocaps-train-vggish-vggsound

The best weights (trained_model.pth), results and logs stay. Seeds that are not finished, and runs
that another process holds, are left alone.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trainer.keeper import exact_states
from trainer.runs import Run, newest_runs
from utils.errors import UsageError, run_main

MB = 1e6


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save_dir", type=Path, default=Path("data/saved"))
    parser.add_argument("--name", help="the runs of this experiment alone")
    parser.add_argument("--dry_run", action="store_true", help="list, remove nothing")
    return parser.parse_args(argv)


def removable(run: Run) -> list[Path]:
    """Return the states of a run's finished seeds."""
    folders = [run.folder(seed) for seed in run.seeds if run.result(seed) is not None]
    return [
        path
        for folder in folders
        for path in (*exact_states(folder), *sorted(folder.glob("checkpoint-epoch*.pth")))
    ]


def freed(files: Iterable[Path]) -> int:
    """Return the bytes that go with the last name of each file: some names share one file."""
    removed: Counter[tuple[int, int]] = Counter()
    size = 0
    for status in (path.stat() for path in files):
        inode = (status.st_dev, status.st_ino)
        removed[inode] += 1
        if removed[inode] == status.st_nlink:
            size += status.st_size
    return size


def run(argv: Sequence[str] | None) -> int:
    """Remove, or list, what can go."""
    args = parse_arguments(argv)
    models = args.save_dir / "models"
    if not models.is_dir():
        raise UsageError(f"{models} is no folder; name the place of the runs with --save_dir")
    names = [args.name] if args.name else sorted(p.name for p in models.iterdir() if p.is_dir())
    count = size = 0
    for name, mini in itertools.product(names, (False, True)):
        for found in newest_runs(args.save_dir, name, mini=mini):
            try:
                with found.locked():
                    files = removable(found)
                    count, size = count + len(files), size + freed(files)
                    for path in files:
                        print(path)
                        if not args.dry_run:
                            path.unlink()
            except UsageError as error:  # it is being trained
                print(f"left alone: {error}", file=sys.stderr)
    print(f"{count} files{' would go' if args.dry_run else ' removed'}, {size / MB:.1f} MB")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_main(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
