"""The one door to the network: a file arrives whole and verified, or not at all.

What arrived is written down in its manifest (`utils/fetching/manifest.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from utils.errors import DownloadError, UnreachableError, UsageError
from utils.fetching.failures import FAILURES, Passing, Unreachable, failure_of
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
from utils.fetching.partial import Partial, megabytes, partial_file
from utils.fetching.session import CarefulSession
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
    with _no_empty_folders(path.parent), partial_file(path) as file:
        here = verify(wanted) if path.exists() and not replace_changed else None
        if here is not None:  # another process was faster
            return here
        partial = Partial(url, path, file)
        for is_last_time in (False, True):
            _Transfer(partial, policy).run()
            os.fsync(file.fileno())
            try:
                sha256 = accept(wanted, partial.path, as_recorded=not replace_changed)
                break
            except DownloadError:
                in_parts = partial.in_parts
                partial.start_over()
                if is_last_time or not in_parts:
                    partial.forget()
                    raise
                logger.warning("%s: its parts do not fit together, fetching it anew", path.name)
        partial.path.replace(path)
        partial.forget()
        write_manifest(wanted, partial.have, sha256)
    logger.info("fetched %s (%s)", path, megabytes(partial.have))
    return Fetched(path, partial.have, sha256, downloaded=True)


@dataclass
class _Transfer:
    """The requests for the rest of a partial file."""

    partial: Partial
    policy: Policy

    def run(self) -> None:
        """Ask until everything is here; raises DownloadError when that is hopeless."""
        partial, policy, began = self.partial, self.policy, time.monotonic()
        failures, most = 0, partial.have
        with (
            CarefulSession(policy.redirects, policy.slowest, policy.rate_window) as session,
            byte_bar(partial.final.name, partial.total, partial.have) as bar,
        ):
            for asked in range(1, policy.most_requests + 1):
                if partial.have == partial.total:
                    return
                asked_at = time.monotonic()
                try:
                    self.ask(session, bar)
                    return
                except Passing as passing:
                    reason = passing
                if asked == 1 and isinstance(reason, Unreachable):
                    break  # nobody is there: waiting helps where a server answered before
                seconds, gained = time.monotonic() - asked_at, partial.have - most
                keeps_pace = seconds < policy.rate_window or gained >= policy.slowest * seconds
                failures = 0 if gained > 0 and keeps_pace else failures + 1
                most = max(most, partial.have)
                if failures >= policy.tries:
                    break
                delay = min(policy.longest_delay, policy.first_delay * 2 ** (failures - 1))
                delay = max(delay, min(reason.wait, policy.longest_delay))
                logger.info("%s: %s; again in %.1f s", partial.final.name, reason, delay)
                policy.sleep(delay)
        error = UnreachableError if isinstance(reason, Unreachable) else DownloadError
        times = f"{asked} time{'s' if asked > 1 else ''} in {time.monotonic() - began:.0f} s"
        have = f"{partial.have} bytes are here"
        raise error(self.explain(f"asked {times}, {have}; the last answer: {reason}"))

    def ask(self, session: requests.Session, bar: tqdm[Any]) -> None:
        """Make one request and write down what it brings."""
        partial = self.partial
        start = partial.have if partial.validator else max(0, partial.have - OVERLAP)
        # without this, proxies may compress what is compressed already and lengths mean nothing
        headers = {"Accept-Encoding": "identity"}
        if start > 0:
            headers["Range"] = f"bytes={start}-"
            if partial.validator:
                headers["If-Range"] = partial.validator
        timeout = (self.policy.connect_timeout, self.policy.read_timeout)
        try:
            with session.get(partial.url, headers=headers, stream=True, timeout=timeout) as answer:
                known = self.read_head(answer, start)
                bar.total, bar.n = partial.total, partial.have
                self.read_body(answer, known, bar)
        except FAILURES as error:
            failure = failure_of(error, partial.url)
            if isinstance(failure, Passing):
                raise failure from error
            raise DownloadError(self.explain(f"gave up: {failure}")) from error

    def read_head(self, answer: requests.Response, start: int) -> bytes:
        """Judge status and headers; return the bytes we have that the body begins with."""
        status, headers = answer.status_code, answer.headers
        if status in PASSING_STATUSES:
            wait = headers.get("Retry-After", "")
            seconds = float(wait) if wait.isascii() and wait.isdigit() else 0.0
            raise Passing(f"status {status} {answer.reason}", seconds)
        if status == 416 and start > 0:
            raise self.start_over(f"the server has nothing after {start} bytes")
        if status == 206 and start > 0:
            return self.continued(headers, start)
        if status != 200:
            raise DownloadError(self.explain(f"status {status} {answer.reason}"))
        length = headers.get("Content-Length", "")
        chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        counts = length.isascii() and length.isdigit() and not chunked
        if counts and len(length) > MOST_DIGITS:
            raise DownloadError(self.explain(f"gave up: a Content-Length of {len(length)} digits"))
        etag = headers.get("ETag", "")
        # a weak ETag promises the same meaning, not the same bytes
        validator = etag if etag.startswith('"') else headers.get("Last-Modified")
        self.partial.begin(int(length) if counts else None, validator)
        return b""

    def continued(self, headers: Mapping[str, str], start: int) -> bytes:
        """Check that a part goes on exactly where we stopped, in the same file."""
        total, validator = self.partial.total, self.partial.validator
        found = headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", found.strip())
        if not match or int(match[1]) != start or int(match[2]) != (total or int(match[2])):
            expected = f"bytes {start}-*/{total or '*'}"
            raise self.start_over(f"asked for {expected}, got {found or 'no Content-Range'}")
        versions = {headers.get("ETag"), headers.get("Last-Modified")} - {None}
        if validator and versions and validator not in versions:
            raise self.start_over("the file on the server has changed")
        return self.partial.go_on(start, int(match[2]))

    def read_body(self, answer: requests.Response, known: bytes, bar: tqdm[Any]) -> None:
        """Append the body to the partial file, whose end is its beginning, `known`."""
        partial = self.partial
        for chunk in _chunks(answer, self.policy.chunk):
            same = min(len(known), len(chunk))
            if chunk[:same] != known[:same]:
                raise self.start_over("the file on the server has changed")
            known, new = known[same:], chunk[same:]
            if partial.have == 0 and len(new) >= SNIFFED:
                try:
                    check_first_bytes(new, partial.final.name, shown(partial.url))
                except DownloadError as error:
                    raise DownloadError(self.explain(str(error))) from error
            partial.write(new)
            bar.update(len(new))
            if partial.total is not None and partial.have > partial.total:
                raise self.start_over(f"more than the announced {partial.total} bytes came")
        if partial.total is not None and partial.have < partial.total:
            raise Passing(f"the connection ended after {partial.have} of {partial.total} bytes")

    def start_over(self, reason: str) -> Passing:
        """Drop what has arrived, and return the reason."""
        self.partial.start_over()
        return Passing(reason)

    def explain(self, tried: str) -> str:
        """Return a message with the address, what was tried and what to do."""
        address, path = shown(self.partial.url), shlex.quote(str(self.partial.final))
        return (
            f"could not fetch {address}\n"
            f"  tried: {printable(tried, LONGEST_ATTEMPT)}\n"
            f"  by hand: curl -L -o {path} {shlex.quote(address)}\n"
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
