"""Lines for people: to the terminal, coloured only there, and to a file of the run."""

import logging
import sys
from pathlib import Path

from tqdm import tqdm

COLOURS = {logging.WARNING: "\033[33m", logging.ERROR: "\033[31m"}
PLAIN = "\033[0m"


class _AboveBars(logging.Handler):
    """Write each line above a progress bar that may be on the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; warnings and errors in colour on a terminal."""
        line = self.format(record)
        colour = COLOURS.get(record.levelno, "") if sys.stderr.isatty() else ""
        tqdm.write(f"{colour}{line}{PLAIN}" if colour else line, file=sys.stderr)


def start_logging(*, quiet: bool = False, verbose: bool = False) -> None:
    """Send messages to standard error: warnings only when quiet, debugging too when verbose."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _AboveBars):
            root.removeHandler(handler)
    handler = _AboveBars()
    handler.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.INFO)


def add_log_file(path: Path) -> logging.Handler:
    """Append every message to a file as well, with its time; close it by `remove_log_file`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler


def remove_log_file(handler: logging.Handler) -> None:
    """Stop writing to the file of `add_log_file`."""
    logging.getLogger().removeHandler(handler)
    handler.close()
