"""The errors a user can fix, and how a command ends because of one."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from utils.shown import harmless
from utils.streams import usable_streams


class ProjectError(Exception):
    """A failure the user can fix: the message names what was found, expected, and next."""

    exit_status = 1


class UsageError(ProjectError):
    """A command used wrongly: flags or configuration."""

    exit_status = 2


class ConfigError(UsageError):
    """A configuration that cannot be used; one line per mistake."""


class DataError(ProjectError):
    """A file of the data set that is missing, damaged or holds what it should not."""


class UnsafeFileError(DataError):
    """A file that asks for more than data: code, places outside its own, or unbounded memory."""


class CheckpointError(ProjectError):
    """A checkpoint that is missing, damaged, or belongs to another architecture."""


class DownloadError(ProjectError):
    """A file that could not be fetched or verified."""


class UnreachableError(DownloadError):
    """A server to which no connection could be made; asking it for other files is in vain."""


@contextlib.contextmanager
def needed_by(
    purpose: object, requirements: str, kind: type[ProjectError] = ProjectError
) -> Iterator[None]:
    """Raise an error of a `kind` that names `requirements`, where an import inside fails."""
    try:
        yield
    except ImportError as error:
        raise kind(
            f"{purpose} needs {error.name or error}; install it with: pip install -r {requirements}"
        ) from None


DISK_PROBLEMS = {
    errno.ENOSPC: "the disk is full; free some space and start again",
    errno.EDQUOT: "the disk quota is used up; free some space and start again",
    errno.EROFS: "the file system is read-only; choose another location",
    errno.EFBIG: "the file would be larger than files may be here; raise the limit (ulimit -f)",
}
OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory", re.I)  # torch's own words
INTERRUPTED = 130
BROKEN_PIPE = 141


def run_main(main: Callable[[], int]) -> int:
    """Run a command and turn the failures a user can fix into one message and an exit status.

    Anything else is a mistake of the program and keeps its traceback.
    """
    with usable_streams():
        try:
            _require_working_directory()
            return main()
        except SystemExit as stop:  # argparse's own way to end: --help or a wrong flag
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except KeyboardInterrupt:
            _say("interrupted")
            return INTERRUPTED
        except BrokenPipeError:
            # standard output leads nowhere now, so that the flush at exit does not fail once more
            with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            return BROKEN_PIPE
        except Exception as error:
            if not (message := _explain(error)):
                raise
            _say(f"error: {message}")
            return error.exit_status if isinstance(error, ProjectError) else 1


def _explain(error: Exception) -> str:
    """Return a message for what a user can fix, "" for a mistake of the program."""
    if isinstance(error, ProjectError):
        return str(error)
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        reason = str(error).partition("\n")[0][:200]
        return (
            f"there is not enough memory{reason and f' ({reason})'}; make the model or its "
            "batches smaller, or use a machine with more"
        )
    if not isinstance(error, OSError):
        return ""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in DISK_PROBLEMS:
        return f"{where}{DISK_PROBLEMS[error.errno]}"
    reason = (error.strerror or "").lower()
    return f"{where}{reason}; choose another location or fix the problem" if where else ""


def _require_working_directory() -> None:
    """Raise UsageError where it was removed: libraries end the process when they look for it."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError("the working directory was removed; change to another one") from None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the known word closest to `word`, or ""."""
    found = nearest_word(word, known)
    return "" if found is None else f"; did you mean {found!r}?"


def nearest_word(word: str, known: Iterable[str]) -> str | None:
    """Return the known word closest to `word`, whatever its case; None when none is close."""
    lower = {candidate.lower(): candidate for candidate in sorted(known)}
    close = difflib.get_close_matches(word[:100].lower(), lower, n=1)
    return lower[close[0]] if close else None


def _say(message: str) -> None:
    getattr(sys.stdout, "flush", int)()  # objects in their place may lack it
    with contextlib.suppress(OSError):  # a terminal that was closed
        sys.stderr.write(f"{harmless(message)}\n")
