"""Lines for people: to the terminal, coloured only there, and to a file of the run."""

import contextlib
import logging
import sys
from pathlib import Path

from tqdm import tqdm

from utils.errors import ProjectError
from utils.shown import harmless
from utils.streams import is_terminal

COLOURS = {logging.WARNING: "\033[33m", logging.ERROR: "\033[31m"}
PLAIN = "\033[0m"
ROOMS = (
    "audio",
    "data_loader",
    "misc",
    "model",
    "results",
    "search",
    "soundscenes",
    "text",
    "trainer",
    "utils",
)
OURS = ("train", "eval", *ROOMS)
"""The names our loggers begin with; of other libraries only warnings are for people."""


class _Harmless(logging.Formatter):
    """Escape what a terminal would act upon: messages hold names from files."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text."""
        return harmless(super().format(record))


class _AboveBars(logging.Handler):
    """Write each line above a progress bar that may be on the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; warnings and errors in colour on a terminal."""
        if sys.stderr is None:  # a program without a terminal
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
    for handler in list(root.handlers):
        if isinstance(handler, _AboveBars):
            root.removeHandler(handler)
    handler = _AboveBars()
    handler.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    handler.setFormatter(_Harmless("%(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)


class LogFile(logging.FileHandler):
    """The log of a run; when it cannot be written any more, it warns once and stops writing."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  its name in logging
        """Give the file up: a full disk is no reason to lose the work itself."""
        logging.getLogger().removeHandler(self)
        error = sys.exc_info()[1]
        logging.getLogger(__name__).warning("%s is not written any more: %s", self.path, error)

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.baseFilename)

    def note_failure(self, error: BaseException) -> None:
        """Write why the run failed, to this file alone; with its traceback when not ours."""
        ours = isinstance(error, ProjectError)
        record = logging.LogRecord(
            "run",
            logging.ERROR,
            __file__,
            0,
            "%s: %s",
            (type(error).__name__, error),
            None if ours else (type(error), error, error.__traceback__),
        )
        self.handle(record)


def add_log_file(path: Path) -> LogFile:
    """Append every message to a file as well, with its time; close it by `remove_log_file`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = LogFile(path, encoding="utf-8")
    handler.setFormatter(_Harmless("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler


def note_in_files(name: str, text: str) -> None:
    """Write a message to the files of `add_log_file` alone: the terminal has it already."""
    record = logging.LogRecord(name, logging.INFO, __file__, 0, "%s", (text,), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogFile):
            handler.handle(record)


def remove_log_file(handler: LogFile) -> None:
    """Stop writing to the file of `add_log_file`."""
    logging.getLogger().removeHandler(handler)
    with contextlib.suppress(OSError):  # a full disk, which it said already
        handler.close()
