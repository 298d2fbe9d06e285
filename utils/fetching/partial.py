"""A file on its way: the bytes that are here, for this process alone, and how to go on later.

While it arrives it is called `<name>.partial`, with address, size and version in
`<name>.partial.json`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from utils.errors import DataError, DownloadError
from utils.fetching.manifest import shown
from utils.files import read_json, write_json

logger = logging.getLogger(__name__)


class Partial:
    """The first `have` bytes of the file at `url`, of `total`, of the version `validator`."""

    def __init__(self, url: str, path: Path, file: FileIO) -> None:
        self.url, self.final, self.file = url, path, file
        self.path, self.state = _places(path)
        self.total: int | None = None
        self.validator: str | None = None  # an ETag or Last-Modified
        self.have = file.seek(0, os.SEEK_END)
        self.in_parts = self.have > 0  # did or will come in several answers
        try:
            state = read_json(self.state)
            total, validator, origin = state["total"], state["validator"], state["url"]
        except (DataError, OSError, LookupError, TypeError):
            total = None
        if (
            isinstance(total, int)
            and isinstance(validator, str | None)
            and origin == shown(url)
            and self.have <= total
        ):
            self.total, self.validator = total, validator
        else:
            self.start_over()

    def start_over(self) -> None:
        """Drop what has arrived."""
        self.file.truncate(0)
        self.have = self.file.seek(0)
        self.total = self.validator = None
        self.in_parts = False

    def begin(self, total: int | None, validator: str | None) -> None:
        """Start with an empty file of `total` bytes; DownloadError when the disk is too small."""
        self.start_over()
        self.total, self.validator = total, validator
        if total is not None:
            self.require_space()
            state = {"url": shown(self.url), "total": total, "validator": validator}
            write_json(self.state, state)

    def go_on(self, start: int, total: int) -> bytes:
        """Continue with bytes from `start` on; return those of them that are here."""
        self.total, self.in_parts = total, True
        self.require_space()
        self.file.seek(start)
        known = self.file.read(self.have - start) or b""
        self.file.seek(self.have)
        return known

    def require_space(self) -> None:
        """Raise DownloadError when the disk has no room for the bytes to come."""
        wanted, free = (self.total or 0) - self.have, self._free()
        if wanted > free:
            raise DownloadError(
                f"{self.final} needs {megabytes(wanted)} more, but only {megabytes(free)} are "
                "free there; make room, or give another place with --data_dir"
            )

    def write(self, chunk: bytes) -> None:
        """Append bytes; DownloadError when the disk takes no more."""
        view = memoryview(chunk)
        try:
            while view:
                written = self.file.write(view) or 0
                self.have += written
                view = view[written:]
        except OSError as error:
            total = "an unknown number of bytes" if self.total is None else megabytes(self.total)
            raise DownloadError(
                f"{self.path}: cannot write more than {self.have} bytes: {error.strerror}; "
                f"{total} are needed, {megabytes(self._free())} are free\n"
                "  make room (or give another place with --data_dir) and start again: "
                "what is here will not be fetched twice"
            ) from error

    def forget(self) -> None:
        """Remove the traces of a transfer that ended."""
        self.path.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def _free(self) -> int:
        return shutil.disk_usage(self.path.parent).free


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[FileIO]:
    """Open the partial file of `path` for this process alone."""
    partial, state = _places(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise DownloadError(
            f"{partial} cannot be written: {error.strerror}; "
            "mend that, or give another place with --data_dir"
        ) from error
    with FileIO(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(
                f"{path} is being fetched by another process; start again when that has ended"
            ) from error
        except OSError:  # some network file systems have no locks
            logger.warning("%s cannot be locked; do not fetch it twice at once", partial)
        try:
            yield file
        finally:
            # an empty one helps nobody; a started one is what the next run goes on with
            if partial.exists() and os.fstat(file.fileno()).st_size == 0:
                partial.unlink()
                state.unlink(missing_ok=True)


def megabytes(size: int) -> str:
    """Return a number of bytes for messages."""
    return f"{size / 2**20:,.1f} MiB"


def _places(path: Path) -> tuple[Path, Path]:
    """Return the names of the partial file of `path` and of its state."""
    return path.with_name(f"{path.name}.partial"), path.with_name(f"{path.name}.partial.json")
