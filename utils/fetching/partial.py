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
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Annotated

from utils.declared import read_file
from utils.errors import DataError, DownloadError
from utils.fetching.manifest import shown
from utils.files import write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """`<name>.partial.json`: what a later run has to know to go on."""

    url: Annotated[str, "where it comes from"]
    total: Annotated[int, "bytes"]
    validator: Annotated[str | None, "the version: its ETag or Last-Modified"] = None


class Partial:
    """The first `have` bytes of the file at `url`, of `total`, of the version `validator`."""

    def __init__(self, url: str, final: Path, file: FileIO) -> None:
        self.url, self.final, self.file = url, final, file
        self.path, self.state_path = _places(final)
        self.total: int | None = None
        self.validator: str | None = None
        self.have = file.seek(0, os.SEEK_END)
        with contextlib.suppress(DataError):
            state = read_file(State, self.state_path)
            if state.url == shown(url) and self.have <= state.total:
                self.total, self.validator = state.total, state.validator
        if self.total is None:
            self.begin(None, None)

    def begin(self, total: int | None, validator: str | None) -> None:
        """Drop what has arrived, and expect `total` bytes; DownloadError without room for them."""
        self.file.truncate(0)
        self.have = self.file.seek(0)
        self.validator = validator
        self.expect(total)
        if total is not None:
            write_json(self.state_path, asdict(State(shown(self.url), total, validator)))

    def read_from(self, start: int) -> bytes:
        """Return the bytes from `start` on; more are appended behind them."""
        self.file.seek(start)
        return self.file.read(self.have - start) or b""

    def expect(self, total: int | None) -> None:
        """Note how long the file is; DownloadError when the disk has no room for the rest."""
        self.total = total
        missing, free = (total or 0) - self.have, shutil.disk_usage(self.path.parent).free
        if missing > free:
            raise DownloadError(
                f"{self.final} needs {megabytes(missing)} more, but only {megabytes(free)} are "
                "free there; make room, or give another place with --data_dir"
            )

    def write(self, chunk: bytes) -> None:
        """Append bytes; an OSError, such as of a full disk, names the file."""
        view = memoryview(chunk)
        try:
            while view:
                written = self.file.write(view) or 0
                self.have += written
                view = view[written:]
        except OSError as error:
            error.filename = str(self.path)
            raise


@contextlib.contextmanager
def open_partial(url: str, final: Path) -> Iterator[Partial]:
    """Open the partial file of `final` for this process alone; one that stays empty is removed.

    So are the folders that were made for it: among the runs, an empty one would be taken for the
    newest.
    """
    path, state_path = _places(final)
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be written: {error.strerror}; "
            "mend that, or give another place with --data_dir"
        ) from error
    with FileIO(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(
                f"{final} is being fetched by another process; start again when that has ended"
            ) from error
        except OSError:  # some network file systems have no locks
            logger.warning("%s cannot be locked; do not fetch it twice at once", path)
        try:
            yield Partial(url, final, file)
        finally:
            # a started one is what the next run goes on with
            if not (path.exists() and path.stat().st_size):
                path.unlink(missing_ok=True)
                state_path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # not empty
                    for folder in made:
                        folder.rmdir()


def megabytes(size: int) -> str:
    """Return a number of bytes for messages."""
    return f"{size / 2**20:,.1f} MiB"


def _places(final: Path) -> tuple[Path, Path]:
    return final.with_name(f"{final.name}.partial"), final.with_name(f"{final.name}.partial.json")
