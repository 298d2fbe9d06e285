"""The one door to the network: a file arrives whole and verified, or not at all.

While it arrives it is called `<name>.partial`, with what is needed to go on later in
`<name>.partial.json`; what arrived is written down in its manifest.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from utils.errors import DataError, DownloadError, UnreachableError, UsageError
from utils.fetching.failures import FAILURES, Passing, TooSlow, Unreachable, failure_of
from utils.fetching.manifest import (
    SNIFFED,
    Fetched,
    Wanted,
    accept,
    check_first_bytes,
    manifest_path,
    shown,
    verify,
    write_manifest,
)
from utils.fetching.session import CarefulSession
from utils.files import read_json, write_json
from utils.progress import byte_bar
from utils.shown import printable

logger = logging.getLogger(__name__)

PASSING_STATUSES = {408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524}
# A server that names no version of its file (ETag, Last-Modified) is asked again for the last bytes
# we have: when they differ, the file has changed and the parts do not belong together.
OVERLAP = 4096
LONGEST_ATTEMPT = 1000
MOST_DIGITS = 18
"""Of a length that a server announces; a million terabytes have 19."""


@dataclass(frozen=True)
class Policy:
    """How patient to be with a server; times in seconds."""

    tries: int = 6  # in a row without a single new byte
    most_requests: int = 2000  # in all, however slowly bytes arrive
    first_delay: float = 0.5  # doubled with each failure in a row
    longest_delay: float = 30.0
    connect_timeout: float = 15.0
    read_timeout: float = 60.0
    slowest: float = 1024.0  # bytes a second, over each rate_window
    rate_window: float = 60.0
    redirects: int = 5
    chunk: int = 1 << 16
    sleep: Callable[[float], None] = time.sleep


DEFAULT_POLICY = Policy()


def repair_url(url: str) -> str:
    """Return `url` with the slashes of old registries mended ("http:/host" -> "http://host").

    Raises UsageError for anything but a plain http or https address.
    """
    mended = re.sub(r"^(https?):/+(?=[^/])", r"\1://", url.strip(), flags=re.IGNORECASE)
    if any(ord(letter) <= 0x20 or ord(letter) == 0x7F for letter in mended):
        raise UsageError(f"{url!r} holds blanks or control characters; write them as %20 and so on")
    try:
        parts = urlsplit(mended)
        usable = parts.scheme.lower() in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets or a port that are none
        usable = False
    if not usable:
        raise UsageError(f"{url!r} is not an address; expected http://host/... or https://host/...")
    return mended


def fetch(
    url: str,
    path: Path,
    *,
    sha1: str | None = None,
    check: Callable[[Path], object] | None = None,
    replace_changed: bool = False,
    refresh: str | None = None,
    policy: Policy | None = None,
) -> Fetched:
    """Bring the file at `url` to `path`, or verify the one that is already there.

    `sha1`: published checksum, if there is one. `check`: raises one of our errors for content that
    cannot be used; it sees a new file before that gets its final name. `replace_changed`: fetch
    again when the file here, or the one on the server, differs from the manifest; otherwise that is
    an error whose way out is `refresh` (a command).
    Raises DownloadError: the message holds the address, what was tried and what to do by hand.
    """
    url, policy = repair_url(url), policy or DEFAULT_POLICY
    by_hand = f"rm {shlex.quote(str(path))} {shlex.quote(str(manifest_path(path)))}"
    wanted = Wanted(url, path, sha1, check, refresh or f"{by_hand}, then start again")
    here = verify(wanted, may_differ=replace_changed) if path.exists() else None
    if here is not None:
        return here
    with _no_empty_folders(path.parent), _partial_file(path) as partial:
        here = verify(wanted) if path.exists() and not replace_changed else None
        if here is not None:  # another process was faster
            return here
        transfer = _Transfer(url, path, partial, policy)
        for is_last_time in (False, True):
            transfer.run()
            os.fsync(partial.fileno())
            try:
                sha256 = accept(wanted, transfer.partial, as_recorded=not replace_changed)
                break
            except DownloadError:
                in_parts = transfer.in_parts
                transfer.start_over()
                if is_last_time or not in_parts:
                    transfer.forget()
                    raise
                logger.warning("%s: its parts do not fit together, fetching it anew", path.name)
        size = transfer.have
        transfer.partial.replace(path)
        transfer.forget()
        write_manifest(wanted, size, sha256)
    logger.info("fetched %s (%s)", path, _megabytes(size))
    return Fetched(path, size, sha256, downloaded=True)


@dataclass
class _Transfer:
    """One file on its way: `have` bytes of `total` lie in the partial file."""

    url: str
    path: Path
    file: FileIO
    policy: Policy
    total: int | None = None
    validator: str | None = None
    have: int = field(init=False, default=0)
    in_parts: bool = field(init=False, default=False)  # came in several answers

    def __post_init__(self) -> None:
        self.partial = _partial_path(self.path)
        self.have = self.file.seek(0, os.SEEK_END)
        state = _read_leniently(_state_path(self.partial))
        total, validator = state.get("total"), state.get("validator")
        if (
            state.get("url") == shown(self.url)
            and isinstance(total, int)
            and isinstance(validator, str | None)
            and self.have <= total
        ):
            self.total, self.validator, self.in_parts = total, validator, self.have > 0
        else:
            self.start_over()

    def start_over(self) -> None:
        """Drop what has arrived."""
        self.file.truncate(0)
        self.have = self.file.seek(0)
        self.total = self.validator = None
        self.in_parts = False

    def forget(self) -> None:
        """Remove the traces of a transfer that ended."""
        self.partial.unlink(missing_ok=True)
        _state_path(self.partial).unlink(missing_ok=True)

    def run(self) -> None:
        """Ask until everything is here; raises DownloadError when that is hopeless."""
        policy, began = self.policy, time.monotonic()
        failures, most = 0, self.have
        with (
            CarefulSession(policy.redirects, policy.slowest, policy.rate_window) as session,
            byte_bar(self.path.name, self.total, self.have) as bar,
        ):
            for asked in range(1, policy.most_requests + 1):
                if self.total is not None and self.have == self.total:
                    return
                try:
                    self._ask(session, bar)
                    return
                except Passing as passing:
                    reason = passing
                if asked == 1 and isinstance(reason, Unreachable):
                    break  # nobody is there: waiting helps where a server answered before
                is_progress = self.have > most and not isinstance(reason, TooSlow)
                failures = 0 if is_progress else failures + 1
                most = max(most, self.have)
                if failures >= policy.tries:
                    break
                delay = min(policy.longest_delay, policy.first_delay * 2 ** (failures - 1))
                delay = max(delay, min(reason.wait, policy.longest_delay))
                logger.info("%s: %s; again in %.1f s", self.path.name, reason, delay)
                policy.sleep(delay)
        seconds = time.monotonic() - began
        error = UnreachableError if isinstance(reason, Unreachable) else DownloadError
        raise error(
            self._explain(
                f"asked {asked} time{'s' if asked > 1 else ''} in {seconds:.0f} s, "
                f"{self.have} bytes are here; the last answer: {reason}"
            )
        )

    def _ask(self, session: requests.Session, bar: tqdm[Any]) -> None:
        """Make one request and write down what it brings."""
        start = self.have if self.validator else max(0, self.have - OVERLAP)
        # without this, proxies may compress what is compressed already and lengths mean nothing
        headers = {"Accept-Encoding": "identity"}
        if start > 0:
            headers["Range"] = f"bytes={start}-"
            if self.validator:
                headers["If-Range"] = self.validator
        timeout = (self.policy.connect_timeout, self.policy.read_timeout)
        try:
            with session.get(self.url, headers=headers, stream=True, timeout=timeout) as response:
                overlap = self._read_head(response, start)
                bar.total, bar.n = self.total, self.have
                self._read_body(response, overlap, bar)
        except FAILURES as error:
            failure = failure_of(error, self.url)
            if isinstance(failure, Passing):
                raise failure from error
            raise DownloadError(self._explain(f"gave up: {failure}")) from error

    def _read_head(self, response: requests.Response, start: int) -> bytes:
        """Judge status and headers; returns the bytes we have that the body begins with."""
        status, headers = response.status_code, response.headers
        if status in PASSING_STATUSES:
            wait = headers.get("Retry-After", "")
            seconds = float(wait) if wait.isascii() and wait.isdigit() else 0.0
            raise Passing(f"status {status} {response.reason}", seconds)
        if status == 416 and start > 0:
            reason = f"the server announced {self.total} bytes, but has none after {start}"
            self.start_over()
            raise Passing(reason)
        if status == 206 and start > 0:
            return self._continue(response, start)
        if status != 200:
            raise DownloadError(self._explain(f"status {status} {response.reason}"))
        self.start_over()
        length = headers.get("Content-Length", "")
        chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        counts = length.isascii() and length.isdigit() and not chunked
        if counts and len(length) > MOST_DIGITS:
            raise DownloadError(self._explain(f"gave up: a Content-Length of {len(length)} digits"))
        self.total = int(length) if counts else None
        etag = headers.get("ETag", "")
        # a weak ETag promises the same meaning, not the same bytes
        self.validator = etag if etag.startswith('"') else headers.get("Last-Modified")
        if self.total is not None:
            self._require_space(self.total)
            state = {"url": shown(self.url), "total": self.total, "validator": self.validator}
            write_json(_state_path(self.partial), state)
        return b""

    def _continue(self, response: requests.Response, start: int) -> bytes:
        """Check that a 206 answer goes on exactly where we stopped, in the same file."""
        found = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", found.strip())
        expected = f"bytes {start}-*/{self.total or '*'}"
        newer = response.headers.get("ETag") or response.headers.get("Last-Modified")
        changed = (
            self.validator
            and newer
            and self.validator
            not in (
                response.headers.get("ETag"),
                response.headers.get("Last-Modified"),
            )
        )
        total = int(match[3]) if match else None
        if not match or int(match[1]) != start or total != (self.total or total) or changed:
            self.start_over()
            raise Passing(
                f"asked for {expected}, got {found or 'no Content-Range'}"
                + (" of another version of the file" if changed else "")
            )
        self.total, self.in_parts = int(match[3]), True
        self._require_space(self.total - self.have)
        self.file.seek(start)
        overlap = self.file.read(self.have - start) or b""
        self.file.seek(self.have)
        return overlap

    def _read_body(self, response: requests.Response, overlap: bytes, bar: tqdm[Any]) -> None:
        """Append the body to the partial file, `overlap` bytes of it being there already."""
        for chunk in _chunks(response, self.policy.chunk):
            if overlap:
                known = min(len(overlap), len(chunk))
                if chunk[:known] != overlap[:known]:
                    self.start_over()
                    raise Passing("the file on the server has changed")
                overlap, chunk = overlap[known:], chunk[known:]
            if self.have == 0 and len(chunk) >= SNIFFED:
                try:
                    check_first_bytes(chunk, self.path.name, shown(self.url))
                except DownloadError as error:
                    raise DownloadError(self._explain(str(error))) from error
            self._write(chunk)
            bar.update(len(chunk))
            if self.total is not None and self.have > self.total:
                reason = f"more than the announced {self.total} bytes came"
                self.start_over()
                raise Passing(reason)
        if self.total is not None and self.have < self.total:
            raise Passing(f"the connection ended after {self.have} of {self.total} bytes")

    def _write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        try:
            while view:
                written = self.file.write(view) or 0
                self.have += written
                view = view[written:]
        except OSError as error:
            raise DownloadError(
                f"{self.partial}: cannot write more than {self.have} bytes: {error.strerror}; "
                f"{_wanted(self.total)} are needed, {_megabytes(_free(self.partial))} are free\n"
                f"  make room (or give another place with --data_dir) and start again: "
                "what is here will not be fetched twice"
            ) from error

    def _require_space(self, wanted: int) -> None:
        free = _free(self.partial)
        if wanted > free:
            raise DownloadError(
                f"{self.path} needs {_megabytes(wanted)} more, but only {_megabytes(free)} are "
                "free there; make room, or give another place with --data_dir"
            )

    def _explain(self, tried: str) -> str:
        return (
            f"could not fetch {shown(self.url)}\n"
            f"  tried: {printable(tried, LONGEST_ATTEMPT)}\n"
            f"  by hand: curl -L -o {shlex.quote(str(self.path))} {shlex.quote(shown(self.url))}\n"
            "  then start again; or name a mirror with --root_url"
        )


def _chunks(response: requests.Response, size: int) -> Iterator[bytes]:
    """Yield the body as sent, in pieces that are handed on as they come.

    Content encodings stay: a server that declares a .tar.gz as gzip-encoded text would otherwise
    have it unpacked on the way. `read1`: `read` would wait for `size` bytes, and lose what has come
    when the line goes silent before.
    """
    if getattr(response.raw, "chunked", False):
        yield from response.raw.stream(size, decode_content=False)
        return
    while chunk := response.raw.read1(size, decode_content=False):
        yield chunk


@contextlib.contextmanager
def _partial_file(path: Path) -> Iterator[FileIO]:
    """Open the partial file of `path` for this process alone."""
    partial = _partial_path(path)
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
                _state_path(partial).unlink(missing_ok=True)


@contextlib.contextmanager
def _no_empty_folders(folder: Path) -> Iterator[None]:
    """Remove, after a failure, `folder` and those above it if they were made within and are empty.

    An empty folder among the runs would be taken for the newest one.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty
            for place in made:
                place.rmdir()
        raise


def _partial_path(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _state_path(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _read_leniently(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (DataError, OSError):
        return {}
    return content if isinstance(content, dict) else {}


def _free(path: Path) -> int:
    return shutil.disk_usage(path.parent).free


def _wanted(total: int | None) -> str:
    return "an unknown number of bytes" if total is None else _megabytes(total)


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
