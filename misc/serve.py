"""Open a page in the browser that searches a folder of recordings with words.

python misc/serve.py --run RUN --audio FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from misc.search import add_collection, open_collection
from utils.errors import needed_by, run_main

PORT = 8765


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 for a failure, 2 for wrong usage."""
    return run_main(lambda: run(argv))


def run(argv: Sequence[str] | None) -> int:
    """Bring the index up to date and serve until interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    add_collection(parser)
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0: any free one")
    args = parser.parse_args(argv)
    with needed_by("the page", "requirements/search.txt"):
        from search.server import listen, serve
    from utils.log import start_logging

    start_logging()
    with closing(listen(args.port)) as listener:
        retriever = open_collection(args)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
        with suppress(KeyboardInterrupt):  # the way to end it
            serve(retriever, listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
