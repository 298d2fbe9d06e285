"""Lines for people: to the terminal, coloured only there, and to a file of the run."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from utils.errors import ProjectError
from utils.shown import harmless
from utils.streams import is_terminal

COLOURS = {logging.WARNING: "\033[33m", logging.ERROR: "\033[31m"}
PLAIN = "\033[0m"
ROOMS = ("audio", "data_loader", "model", "results", "search", "soundscenes", "text", "trainer")
OURS = ("train", "eval", "misc", "utils", *ROOMS)
"""The names our loggers begin with; of other libraries only warnings are for people."""
IN_FILES = {"in_files": True}
"""`extra` of messages for the files of runs alone: the terminal has them already."""

logger = logging.getLogger(__name__)


class _Harmless(logging.Formatter):
    """Escape what a terminal would act upon: messages hold names from files."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text."""
        return harmless(super().format(record))


class _AboveBars(logging.Handler):
    """Write each line above a progress bar that may be on the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; warnings and errors in colour on a terminal."""
        if sys.stderr is None or hasattr(record, "in_files"):  # None: without a terminal
            return
        line = self.format(record)
        colour = COLOURS.get(record.levelno, "") if is_terminal(sys.stderr) else ""
        with contextlib.suppress(OSError):  # such as a full disk behind 2> file
            tqdm.write(f"{colour}{line}{PLAIN}" if colour else line, file=sys.stderr)


def start_logging(*, quiet: bool = False, verbose: bool = False) -> None:
    """Send messages to standard error: warnings only when quiet, debugging too when verbose.

    Less than warnings comes from this project alone: h5py explains every conversion it tries.
    """
    root = logging.getLogger()
    root.handlers[:] = [one for one in root.handlers if not isinstance(one, _AboveBars)]
    handler = _AboveBars()
    handler.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    handler.setFormatter(_Harmless("%(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)


class _LogFile(logging.FileHandler):
    """The log of a run; when it cannot be written any more, it warns once and stops writing."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  its name in logging
        """Give the file up: a full disk is no reason to lose the work itself."""
        logging.getLogger().removeHandler(self)
        logger.warning("%s is not written any more: %s", self.baseFilename, sys.exc_info()[1])


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append every message within to a file as well, with its time, and why the work failed.

    A failure that is a mistake of the program has its traceback there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(_Harmless("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    except BaseException as error:
        trace = None if isinstance(error, ProjectError) else error
        logger.error("%s: %s", type(error).__name__, error, exc_info=trace, extra=IN_FILES)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk, which it said already
            handler.close()
