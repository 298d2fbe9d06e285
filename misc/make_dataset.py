"""Make a data set of recordings and a table of captions, with a config that trains on it.

    python misc/make_dataset.py --audio FOLDER --csv captions.csv --out data/Mine

The csv has a column `file` (below FOLDER), one or more named caption..., and perhaps `split`
(train, val, test). Without --csv only features are made: sounds to search, not to train on. Run it
again to go on after an interruption. Exit status 3: done, but some files could not be read and are
left out.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from audio.extractors import EXTRACTORS
from audio.listing import Sound, list_sounds
from misc.extract_experts import extract_share, merge, report_skipped, say_what_was_done
from misc.own_data.captions import read_captioned, split_clips
from misc.own_data.dataset import ExpertFile, dataset_config, expert_file, write_captions
from text.captions import entry_of
from utils.config import load_config
from utils.errors import DataError, UsageError, nearest, run_main
from utils.files import read_json, write_json
from utils.log import start_logging

TABLE = REPOSITORY / "model" / "text_embedding_models.json"
DEFAULT_EXPERTS = "logmel,modulation"
DEFAULT_TEXT = "ngrams"
WORD_VECTORS = "w2v"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--audio", type=Path, required=True, help="the folder of the recordings")
    add("--csv", type=Path, help="files, captions and splits")
    add("--out", type=Path, required=True, help="the data set's folder, such as data/Mine")
    add("--config", type=Path, help="where the config goes; default: configs/mine/<name>.json")
    add("--experts", default=DEFAULT_EXPERTS, help="extractors and imported experts; %(default)s")
    add("--captions", default="", help="columns of the captions; default: those named caption...")
    add("--text", help=f"text feature of {TABLE.name} that has an encoder; {DEFAULT_TEXT}")
    add("--word_vectors", type=Path, help="encode words by this word2vec or GloVe file instead")
    add("--seed", type=int, default=0, help="of the splits, where the csv has none; %(default)s")
    add("--device", help="number of a GPU, such as 0; default: the CPU")
    add("--strict", action="store_true", help="stop at the first file that cannot be read")
    add("--weights", action="append", default=[], metavar="NAME=FILE", help="of an extractor")
    add("--quiet", action="store_true", help="print nothing but errors")
    args = parser.parse_args(argv)
    start_logging(quiet=args.quiet)
    return run_main(lambda: make(args))


def make(args: argparse.Namespace) -> int:
    """Make the data set; returns the exit status."""
    names = list(dict.fromkeys(name for name in args.experts.split(",") if name))
    if not names:
        raise UsageError(f"--experts: expected names among {', '.join(EXTRACTORS)}")
    if args.csv is None:
        status, _ = make_experts(args, names, list_sounds(args.audio))
        if not args.quiet:
            print(f"{args.out}: features of {', '.join(names)}; give --csv to train on them")
        return status
    feature, entry = text_feature(args)
    captioned = read_captioned(args.csv, [name for name in args.captions.split(",") if name])
    refuse_missing(args, list(captioned.captions))
    sounds = [Sound(name, args.audio / name) for name in captioned.captions]
    status, experts = make_experts(args, names, sounds)
    usable = {clip for expert in experts for clip in expert.lengths}
    splits = split_clips(captioned, [s.name for s in sounds if s.name in usable], args.seed)
    record = write_captions(args.out, captioned, splits, feature=feature, entry=entry)
    path = args.config or REPOSITORY / "configs" / "mine" / f"{args.out.name}.json"
    config = dataset_config(args.out, captioned, splits, experts, text=record, feature=feature)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, config)
    load_config(path)
    if not args.quiet:
        counts = ", ".join(f"{len(clips)} {split}" for split, clips in splits.items())
        share = 100 * record.dropped / max(1, record.words)
        print(f"{args.out}: {counts}; {record.words} words, {share:.1f} % unknown and dropped")
        print(f"train on it with: python train.py --config {_shown(path)}")
    return status


def make_experts(
    args: argparse.Namespace, names: list[str], sounds: list[Sound]
) -> tuple[int, list[ExpertFile]]:
    """Extract what is to be extracted; return the exit status, and what each expert has."""
    extracted = [name for name in names if name in EXTRACTORS]
    status = 0
    if extracted:
        summary = extract_share(args, extracted, sounds, os.environ)
        if not args.quiet:
            say_what_was_done(summary, None)
        status = report_skipped(merge(args.out, extracted, sounds), args)
    return status, [expert_file(args.out, name) for name in names]


def text_feature(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Return the name of the text feature and the entry of its encoder; UsageError for none."""
    if args.word_vectors is not None:
        if args.text not in (None, WORD_VECTORS):
            raise UsageError(f"--word_vectors makes {WORD_VECTORS!r}; leave --text {args.text} out")
        file = str(args.word_vectors.resolve())
        return WORD_VECTORS, {"type": "WordVectors", "args": {"file": file}}
    feature = args.text or DEFAULT_TEXT
    entry = entry_of(feature, TABLE)
    if entry is None:
        known = [name for name in read_json(TABLE) if entry_of(name, TABLE) is not None]
        raise UsageError(
            f"--text {feature}: has no encoder{nearest(feature, known)} (known: "
            f"{', '.join(known)}); word vectors of a file: --word_vectors FILE"
        )
    return feature, entry


def refuse_missing(args: argparse.Namespace, names: list[str]) -> None:
    """Raise DataError when most files of the table are not in the folder: a wrong folder."""
    missing = [name for name in names if not (args.audio / name).is_file()]
    if 2 * len(missing) > len(names):
        raise DataError(
            f"{args.csv}: {len(missing)} of {len(names)} files are not in {args.audio} (such as "
            f"{missing[0]}); expected paths below the folder of --audio, endings included"
        )


def _shown(path: Path) -> Path:
    """Return a path as one would type it in the repository."""
    absolute = path.resolve()
    inside = absolute.is_relative_to(REPOSITORY)
    return absolute.relative_to(REPOSITORY) if inside else absolute


if __name__ == "__main__":
    sys.exit(main())
