"""Search a folder of recordings with words.

python misc/search.py --run RUN --audio FOLDER "a dog barks while rain falls"
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from search.scoring import Span
from utils.errors import UsageError, run_main

if TYPE_CHECKING:
    from search.retriever import Retriever


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 for a failure, 2 for wrong usage."""
    return run_main(lambda: run(argv))


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("queries", nargs="*", metavar="QUERY", help='such as "a dog barks"')
    add_collection(parser)
    parser.add_argument("--like", type=Path, metavar="FILE", help="find what sounds like this file")
    parser.add_argument("-k", type=int, default=10, help="results a query; default 10")
    parser.add_argument(
        "--filter",
        metavar="NAMES",
        help='only files so named: "birds/*.wav"; without * ? [: any name that contains it',
    )
    parser.add_argument("--json", action="store_true", help="results as JSON, and nothing else")
    return parser


def add_collection(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the index and the run."""
    parser.add_argument(
        "--run", metavar="RUN", help="a trained run's folder, or a checkpoint; default: the shipped"
    )
    parser.add_argument("--audio", type=Path, required=True, metavar="FOLDER", help="recordings")
    parser.add_argument(
        "--index",
        metavar="PLACE",
        help="where the index is kept: a folder, or an engine's URI (default: below data/search)",
    )
    parser.add_argument(
        "--window", type=float, default=Span().window, help="seconds; 0: whole files; default 10"
    )
    parser.add_argument("--hop", type=float, default=Span().hop, help="seconds; default 5")
    parser.add_argument(
        "--word_vectors", type=Path, metavar="FILE", help="word2vec or GloVe, of runs trained on it"
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="EXTRACTOR=FILE",
        help="weights of an extractor, such as vggish=vggish-10086976.pth",
    )


def open_collection(args: argparse.Namespace) -> Retriever:
    """Load the model and bring the folder's index up to date."""
    from search.retriever import Retriever

    weights = {}
    for entry in args.weights:
        name, equals, file = entry.partition("=")
        if not equals or not name or not file:
            raise UsageError(f"--weights {entry}: expected EXTRACTOR=FILE")
        weights[name] = Path(file)
    text = None
    if args.word_vectors:
        text = {"type": "WordVectors", "args": {"file": str(args.word_vectors)}}
    retriever = Retriever.load(
        args.run, window=args.window, hop=args.hop, text=text, weights=weights
    )
    retriever.add(args.audio, index=args.index)
    return retriever


def run(argv: Sequence[str] | None) -> int:
    """Answer the queries."""
    args = parser().parse_args(argv)
    queries = [query.strip() for query in args.queries]
    if args.k < 1:
        raise UsageError(f"-k {args.k}: expected at least 1")
    if not queries and not args.like:
        raise UsageError('nothing to search for; add words such as "a dog barks", or --like FILE')
    if not all(queries):
        raise UsageError('a query is empty; expected words such as "a dog barks"')
    from utils.log import start_logging

    start_logging(quiet=True)
    retriever = open_collection(args)
    answers = list(zip(queries, retriever.search_all(queries, args.k, args.filter), strict=True))
    if args.like:
        answers.append((str(args.like), retriever.like(args.like, args.k, args.filter)))
    if args.json:
        plain = [
            {"query": query, "results": [r.plain() for r in found]} for query, found in answers
        ]
        print(json.dumps(plain, indent=1))
    else:
        print("\n\n".join(f"{query}\n{found!r}" for query, found in answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
