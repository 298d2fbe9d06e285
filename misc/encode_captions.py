"""Encode the captions of a data set into text features, by an encoder that queries can use too.

    python misc/encode_captions.py --captions data/Mine/structured-symlinks --feature minilm-tokens
    python misc/encode_captions.py --captions data/Mine/structured-symlinks --feature w2v \
        --encoder WordVectors --args file=vectors.bin

Writes text_embeddings/<feature>.pkl and a record of the encoder beside it. A feature whose encoder
is in model/text_embedding_models.json needs no --encoder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.errors import UsageError, run_main
from utils.log import start_logging

TABLE = ROOT / "model" / "text_embedding_models.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--captions", required=True, type=Path, help="raw-captions.pkl, or its folder"
    )
    parser.add_argument("--feature", required=True, help="the name that configurations use")
    parser.add_argument("--encoder", help="a class of text/build.py; default: the table's")
    parser.add_argument("--args", nargs="*", default=[], metavar="KEY=VALUE", help="of the encoder")
    args = parser.parse_args(argv)
    start_logging()
    return run_main(lambda: encode(args))


def encode(args: argparse.Namespace) -> int:
    """Write the features and report the share of words that were dropped."""
    from data_loader.readers import read_captions
    from text.captions import write_text_features

    source = args.captions
    if source.is_dir():
        nested = source / "structured-symlinks" / "raw-captions.pkl"
        source = nested if nested.exists() else source / "raw-captions.pkl"
    root = source.parent
    root = root.parent if args.captions.is_dir() and root != args.captions else root
    path = root / "text_embeddings" / f"{args.feature}.pkl"
    record = write_text_features(path, read_captions(source), entry(args))
    share = 100 * record.dropped / max(record.words, 1)
    print(f"{path}: {record.words} words, {record.dropped} unknown and dropped ({share:.1f} %)")
    return 0


def entry(args: argparse.Namespace) -> dict[str, Any]:
    """Return the encoder that the command line asks for."""
    from text.captions import entry_of

    if args.encoder is None:
        found = entry_of(args.feature, TABLE)
        if found is None:
            raise UsageError(
                f"--feature {args.feature}: {TABLE.name} names no encoder for it; choose one with "
                "--encoder"
            )
        return found
    return {"type": args.encoder, "args": dict(map(pair, args.args))}


def pair(text: str) -> tuple[str, Any]:
    """Read key=value; numbers and true and false as such."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"--args {text}: expected KEY=VALUE")
    words = {"true": True, "false": False}
    return key, int(value) if value.isdigit() else words.get(value, value)


if __name__ == "__main__":
    sys.exit(main())
