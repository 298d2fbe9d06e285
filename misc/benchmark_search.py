"""Measure the index on this machine: open it, ask it one query and many, with made-up clips.

python misc/benchmark_search.py --clips 1000000 --width 1536
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from tqdm import tqdm

from search.index import Index, IndexedFile, Stamp
from search.scoring import Clips, Queries, present
from utils.errors import UsageError, run_main

EXPERTS = 2
AT_ONCE = 10_000
MANY = 64
REPEATS = 15


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=1536, help="of a vector; default: %(default)s")
    parser.add_argument("--folder", type=Path, help="to make it in; default: a temporary one")
    args = parser.parse_args(argv)
    return run_main(lambda: measure(args))


def measure(args: argparse.Namespace) -> int:
    """Make the index and print what was measured."""
    if args.clips < AT_ONCE or args.width % EXPERTS:
        raise UsageError(f"expected at least {AT_ONCE} clips, and a width that {EXPERTS} divides")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        started = time.perf_counter()
        fill(Index(folder, args.width, {}), args.clips)
        show("made in", time.perf_counter() - started)
        started = time.perf_counter()
        index = Index(folder, args.width, {})
        show("opened in", time.perf_counter() - started)
        gigabytes = 4e-9 * args.width * args.clips
        print(f"{len(index):,} clips of {args.width} numbers, {gigabytes:.2f} GB")
        index.search(made_up_queries(1, args.width), 10)  # reads the file into memory once
        for count in (1, MANY):
            seconds = []
            for _ in range(REPEATS if count == 1 else 3):
                queries = made_up_queries(count, args.width)
                started = time.perf_counter()
                index.search(queries, 10)
                seconds.append(time.perf_counter() - started)
            show(f"{count} queries, top 10: median", float(np.median(seconds)))
            show(f"{count} queries, top 10: slowest", max(seconds))
        print(f"memory of its own: {own_memory():.0f} MB")
        index.close()
    return 0


def fill(index: Index, clips: int) -> None:
    """Add files of one clip each, one in eight without its first expert."""
    draw = np.random.default_rng(0)
    half = index.width // EXPERTS
    with tqdm(total=clips, disable=None) as bar:
        for first in range(0, clips, AT_ONCE):
            count = min(AT_ONCE, clips - first)
            vectors = draw.standard_normal((count, index.width), dtype=np.float32)
            patterns = np.where(np.arange(count) % 8, 3, 2)
            vectors *= np.repeat(present(patterns, EXPERTS), half, axis=1) / half**0.5
            moment = np.array([[0.0, 10.0]])
            index.add(
                [
                    IndexedFile(
                        f"clip{first + row}.wav",
                        Stamp(1, 1),
                        10.0,
                        Clips(vectors[row : row + 1], patterns[row : row + 1]),
                        moment,
                    )
                    for row in range(count)
                ]
            )
            bar.update(count)
    index.close()


def made_up_queries(count: int, width: int) -> Queries:
    """Draw queries with weights."""
    draw = np.random.default_rng()
    weights = draw.dirichlet(np.ones(EXPERTS), count).astype(np.float32)
    vectors = draw.standard_normal((count, width), dtype=np.float32) / width**0.5
    return Queries(vectors * np.repeat(weights, width // EXPERTS, axis=1), weights)


def own_memory() -> float:
    """Return the memory that is not the mapped file's, in MB (Linux; elsewhere NaN)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def show(what: str, seconds: float) -> None:
    """Print one duration."""
    print(f"{what} {seconds:.3f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
