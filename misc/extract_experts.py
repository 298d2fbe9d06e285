"""Make experts of recordings: features of every sound below a folder, or named by a csv.

Run it again to go on after an interruption, or after files were added or changed. Exit status 0:
all is done; 3: done, but some files could not be read and are listed; 1 or 2: it failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tqdm import tqdm

from audio.extraction import FeatureFiles, Ledger, Summary, extract
from audio.extractors import EXTRACTORS, build_extractors
from audio.listing import Sound, list_sounds
from audio.shards import Shard, find_shard
from data_loader.readers import read_features
from trainer.device import choose_device
from utils.errors import UsageError, nearest, run_main
from utils.files import write_json
from utils.log import start_logging
from utils.progress import no_bar
from utils.reading.hickle import write_hickle

FILES = FeatureFiles(read_features, write_hickle)
SOME_SKIPPED = 3
SHOWN = 20
"""Skipped files that are listed on the terminal; skipped.json has all of them."""
EVERY = 30.0
"""Seconds between lines of progress where there is no terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--audio", type=Path, required=True, help="a folder, or a .csv with a column `file`")
    add("--experts", required=True, help=f"names with commas between: {', '.join(EXTRACTORS)}")
    add("--out", type=Path, required=True, help="folder of the data set, such as data/Mine")
    add("--device", help="number of a GPU, such as 0; default: the CPU")
    add("--shard", help="i/n: do share i (from 0) of n, without merging")
    add("--merge", action="store_true", help="only join what the shares have extracted")
    add("--strict", action="store_true", help="stop at the first file that cannot be read")
    add(
        "--weights",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="weights of an extractor, instead of the published ones; may be repeated",
    )
    add("--quiet", action="store_true", help="print nothing but errors")
    args = parser.parse_args(argv)
    start_logging(quiet=args.quiet)
    return run_main(lambda: run(args, os.environ))


def run(args: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Extract what is missing, and merge unless this is one share of several."""
    names = [name for name in args.experts.split(",") if name]
    unknown = [name for name in names if name not in EXTRACTORS]
    if unknown or not names:
        raise UsageError(
            f"--experts {args.experts}: expected names among {', '.join(EXTRACTORS)}"
            + (nearest(unknown[0], EXTRACTORS) if unknown else "")
        )
    sounds = list_sounds(args.audio)
    if args.merge:
        return report_skipped(merge(args.out, names, sounds), args)
    shard = find_shard(args.shard, environment)
    summary = extract_share(args, names, sounds if shard is None else shard.of(sounds), environment)
    if not args.quiet:
        say_what_was_done(summary, shard)
    if shard is not None:
        return report_skipped(summary.skipped, args)
    return report_skipped(merge(args.out, names, sounds), args)


def extract_share(
    args: argparse.Namespace,
    names: list[str],
    sounds: list[Sound],
    environment: Mapping[str, str],
) -> Summary:
    """Extract the sounds that are not extracted yet."""
    local = environment.get("LOCAL_RANK") if args.device not in (None, "cpu") else None
    device = choose_device(local or args.device)
    extractors = build_extractors(names, parse_weights(args.weights), device)
    with Progress(len(sounds), quiet=args.quiet) as progress:
        return extract(sounds, extractors, args.out, strict=args.strict, progress=progress.advance)


def merge(out: Path, names: list[str], sounds: list[Sound]) -> dict[str, str]:
    """Join the parts of each extractor; return what was skipped and why."""
    skipped: dict[str, str] = {}
    for name in names:
        skipped.update(Ledger(out, EXTRACTORS[name]).merge(sounds, FILES))
    write_json(out / "extraction" / "skipped.json", skipped)
    return skipped


def parse_weights(flags: Sequence[str]) -> dict[str, Path | None]:
    """Return the files of `--weights NAME=FILE`; without "=FILE" the published ones (None)."""
    weights: dict[str, Path | None] = {}
    for flag in flags:
        name, equals, file = flag.partition("=")
        if not name or (equals and not file):
            raise UsageError(f"--weights {flag}: expected NAME=FILE")
        weights[name] = Path(file).expanduser() if equals else None
    return weights


def report_skipped(skipped: Mapping[str, str], args: argparse.Namespace) -> int:
    """Name the files without features on standard error; return the exit status."""
    for _, reason in list(skipped.items())[:SHOWN]:
        print(f"skipped {reason}", file=sys.stderr)
    if len(skipped) > SHOWN:
        place = args.out / "extraction" / "skipped.json"
        print(f"and {len(skipped) - SHOWN} more, all in {place}", file=sys.stderr)
    return SOME_SKIPPED if skipped else 0


def say_what_was_done(summary: Summary, shard: Shard | None) -> None:
    """Print one line of counts and speed."""
    speed = summary.sound_seconds / summary.seconds if summary.seconds else 0.0
    share = f"share {shard.index}/{shard.count}: " if shard else ""
    print(
        f"{share}{summary.extracted} sounds extracted ({summary.sound_seconds:,.0f} s of sound in "
        f"{summary.seconds:.1f} s, {speed:.0f} times real time), {summary.already} were there, "
        f"{len(summary.skipped)} skipped"
    )


class Progress:
    """A bar with the time left on a terminal, a line now and then elsewhere."""

    def __init__(self, files: int, *, quiet: bool) -> None:
        self.quiet = quiet
        self.bar = tqdm(
            total=files, desc="sounds", unit="file", smoothing=0.1, disable=no_bar(hidden=quiet)
        )
        self.files, self.total, self.seconds = 0, files, 0.0
        self.there = 0
        self.began = self.logged = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def advance(self, files: int, seconds: float) -> None:
        """Count files that are done, and their seconds of sound."""
        self.files += files
        self.seconds += seconds
        now = time.monotonic()
        if not seconds:  # those that were there already, or cannot be read, take no time
            self.there += files
        speed = self.seconds / max(now - self.began, 1e-9)
        self.bar.update(files)
        self.bar.set_postfix_str(f"{speed:.0f}x real time")
        if self.bar.disable and not self.quiet and now - self.logged >= EVERY:
            self.logged = now
            done = max(1, self.files - self.there)
            left = (now - self.began) / done * (self.total - self.files)
            print(
                f"{self.files} of {self.total} files, {speed:.0f} times real time, about "
                f"{left / 60:.0f} min left",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
