"""Files that appear whole or not at all, and plain files (JSON, lists) read without trust."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import math
import mmap
import os
import secrets
import stat
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from utils.errors import DataError

logger = logging.getLogger(__name__)

MIB = 1 << 20
DEEPEST_JSON = 100
LARGEST_LIST = 64 * MIB
NO_MAPS = {errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EACCES, errno.EPERM}
"""Errors of file systems without such maps."""
LEFTOVER_SUFFIX = ".part"
LEFTOVER_AGE = 60.0  # seconds: younger ones may belong to a writer that is just starting


@contextlib.contextmanager
def atomic_writer(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes its name `path` only once it is whole and on disk.

    It is written under a name of its own beside `path`, flushed to the disk, then renamed; on an
    error it is removed and the file at `path` stays. What was written can be read back. An OSError
    names `path`.
    """
    final = Path(path)
    beside = final.with_name(_beside(final.name))
    try:
        # Not tempfile: its files are readable by their owner alone, whatever the umask is.
        handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(handle, "w+b") as file:
                with contextlib.suppress(OSError):  # some network file systems have no locks
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield file
                file.flush()
                os.fsync(handle)
                beside.replace(final)  # still locked: `remove_leftovers` may take it for old
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        _sync_folder(final.parent)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(beside), beside):
            error.filename = str(final)
        raise


def restore_folder(folder: Path) -> bool:
    """Make a folder again that vanished while in use, with a warning; return whether it had."""
    if folder.is_dir():
        return False
    folder.mkdir(parents=True, exist_ok=True)
    logger.warning("%s has vanished; made again, what was in it is lost", folder)
    return True


def remove_leftovers(folder: Path, age: float = LEFTOVER_AGE) -> None:
    """Remove what writers that were killed left unfinished in `folder`.

    A writer at work holds a lock on its file; one younger than `age` seconds is left alone. Where
    no other process can be writing, `age` is 0.
    """
    for beside in folder.glob(f".*{LEFTOVER_SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - beside.stat().st_mtime < age:
                continue
            handle = os.open(beside, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                beside.unlink()
            finally:
                os.close(handle)


def write_text(path: str | Path, text: str, errors: str = "strict") -> None:
    """Write a text file (UTF-8) atomically."""
    with atomic_writer(path) as file:
        file.write(text.encode(errors=errors))


def write_json(path: str | Path, value: object) -> None:
    """Write a JSON file atomically; NaN and infinity are a ValueError, `read_json` refuses them."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    # names that are no valid Unicode become \udcff and so on, as JSON escapes them
    write_text(path, text + "\n", errors="backslashreplace")


def read_json(path: str | Path, max_bytes: int = 64 * MIB) -> Any:  # noqa: ANN401
    """Read a JSON file strictly.

    Duplicate keys, numbers that are not finite, nesting deeper than 100, a byte order mark and
    anything but UTF-8 raise DataError.
    """
    text = read_text(path, max_bytes)
    if text.startswith("\ufeff"):
        raise DataError(f"{path}: begins with a byte order mark; save it as plain UTF-8")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_finite,
            parse_float=_finite,
        )
        too_deep = _depth(value) > DEEPEST_JSON
    except RecursionError:
        too_deep = True
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    if too_deep:
        raise DataError(f"{path}: is nested deeper than {DEEPEST_JSON} levels")
    return value


def read_list(path: str | Path) -> list[str]:
    r"""Read a list of names, one a line, kept exactly.

    Lines end in "\n" or "\r\n"; a byte order mark is left out, blank lines too, with a warning
    where one is between names. An empty list, a name that comes twice, NUL and stray carriage
    returns raise DataError.
    """
    text = read_text(path, LARGEST_LIST).removeprefix("\ufeff")
    names: dict[str, int] = {}  # -> its line
    blank: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        name = line.removesuffix("\r")
        if "\0" in name or "\r" in name:
            what = "a NUL character" if "\0" in name else "a carriage return inside"
            raise DataError(f"{path}: line {number} holds {what}; lines end in \\n or \\r\\n")
        if not name.strip():
            blank.append(number)
        elif name in names:
            raise DataError(f"{path}: line {number}: {name[:200]!r} comes a second time")
        else:
            names[name] = number
    if not names:
        raise DataError(f"{path}: holds no names")
    if blank and blank[0] < max(names.values()):
        logger.warning("%s: line %d is blank; left out", path, blank[0])
    return list(names)


def sha256_of(path: str | Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal."""
    return digest_of(path, "sha256")


def digest_of(path: str | Path, algorithm: str) -> str:
    """Return a digest of a file's content, in hexadecimal."""
    with open_regular(path) as file:
        digest = hashlib.new(algorithm, usedforsecurity=False)
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading; raises DataError when it is missing, no plain file or not readable.

    A pipe or a device would block or never end.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{str(path)!r} cannot be read: {reason}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DataError(f"{path} is not a file")
    return os.fdopen(handle, "rb")


def map_file(file: BinaryIO) -> mmap.mmap:
    """Map an open file for reading; DataError when it is empty.

    Reading it after another program cut the file short ends the process: what is read must stay as
    it is meanwhile. Where a file system has no shared maps, the map is private; where it has none,
    the file is read into memory, with a warning.
    """
    if not (size := os.fstat(file.fileno()).st_size):
        raise DataError("is empty")
    for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
        try:
            return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)
        except OSError as error:
            if error.errno not in NO_MAPS:
                raise
    logger.warning("files cannot be mapped here; reading %.1f MiB instead: slower", size / MIB)
    content = mmap.mmap(-1, size)
    file.seek(0)
    if file.readinto(content) != size:  # type: ignore[attr-defined]
        raise DataError("was cut short while it was read")
    return content


def _beside(name: str) -> str:
    """Return a new hidden name for the unfinished `name`, within the 255 bytes of file systems."""
    short = name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
    return f".{short}.{os.getpid()}-{secrets.token_hex(4)}{LEFTOVER_SUFFIX}"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without it
            raise
    finally:
        os.close(handle)


def read_text(path: str | Path, max_bytes: int) -> str:
    """Read a text file (UTF-8) of at most so many bytes; DataError for any other."""
    with open_regular(path) as file:
        # of the size that it has: under a limit of memory the largest one allowed may not be had
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, max_bytes) + 1)
    if len(content) > max_bytes:
        raise DataError(f"{path}: is larger than {max_bytes} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 (byte {error.start}); save it as plain text in UTF-8"
        ) from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        [(name, _), *_] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {name[:200]!r} comes twice in one object")
    return members


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"holds {digits[:40]}, which is not a finite number")
    return number


def _depth(value: object) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0) if isinstance(inner, list) else 0
