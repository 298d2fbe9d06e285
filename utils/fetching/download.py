"""The one door to the network: a file arrives whole and verified, or not at all.

What arrived is written down in its manifest (`utils/fetching/manifest.py`).
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from tqdm import tqdm

from utils.errors import DownloadError, UnreachableError, UsageError
from utils.fetching.failures import FAILURES, Failure, failure_of
from utils.fetching.manifest import (
    Fetched,
    Wanted,
    accept,
    manifest_path,
    shown,
    verify,
    write_manifest,
)
from utils.fetching.partial import Partial, megabytes, open_partial
from utils.fetching.session import CarefulSession, Pace
from utils.progress import byte_bar

logger = logging.getLogger(__name__)

PASSING_STATUSES = {408, 416, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524}
CHUNK = 1 << 16
OVERLAP = 4096
"""Bytes asked for again where no version says whether the file is still the same."""


@dataclass(frozen=True)
class Policy:
    """How patient to be with a server; times in seconds."""

    tries: int = 6  # in a row without a gain
    first_delay: float = 0.5  # doubled with each failure in a row
    longest_delay: float = 30.0
    timeouts: tuple[float, float] = (15.0, 60.0)  # of the connection, of each read
    slowest: float = 1024.0  # bytes a second, over each window
    window: float = 60.0
    sleep: Callable[[float], None] = time.sleep


POLICY = Policy()


def repair_url(url: str) -> str:
    """Return `url` with the slashes of old registries mended ("http:/host" -> "http://host").

    Raises UsageError for what is no address of http or https.
    """
    mended = re.sub(r"^(https?):/+(?=[^/])", r"\1://", url.strip(), flags=re.IGNORECASE)
    if not re.match(r"https?://[^/?#\s]", mended, flags=re.IGNORECASE):
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
) -> Fetched:
    """Bring the file at `url` to `path`, or verify the one that is already there.

    `sha1`: published checksum, if there is one. `check`: raises one of our errors for content that
    cannot be used; it sees a new file before that gets its final name. `replace_changed`: fetch
    again when the file here, or the one on the server, differs from the manifest; otherwise that is
    an error whose way out is `refresh` (a command).
    Raises DownloadError: the message holds the address, what was tried and what to do by hand.
    """
    url = repair_url(url)
    by_hand = f"rm {shlex.quote(str(path))} {shlex.quote(str(manifest_path(path)))}"
    refresh = refresh or f"{by_hand}, then start again"
    wanted = Wanted(url, path, sha1, check, replace_changed, refresh)
    if path.exists() and (here := verify(wanted)) is not None:
        return here
    with open_partial(url, path) as partial:
        for was_begun in (partial.have > 0, False):
            _Transfer(partial, POLICY).run()
            os.fsync(partial.file.fileno())
            try:
                sha256 = accept(wanted, partial.path)
                break
            except DownloadError:
                partial.begin(None, None)
                if not was_begun:
                    raise
                logger.warning("%s: its parts do not fit together, fetching it anew", path.name)
        partial.path.replace(path)
        write_manifest(wanted, partial.have, sha256)
    logger.info("fetched %s (%s)", path, megabytes(partial.have))
    return Fetched(path, partial.have, sha256, downloaded=True)


class _Transfer:
    """The requests for the rest of a partial file."""

    def __init__(self, partial: Partial, policy: Policy) -> None:
        self.partial, self.policy = partial, policy
        self.pace = Pace(policy.slowest, policy.window)

    def run(self) -> None:
        """Ask until everything is here; raises DownloadError when that is hopeless."""
        partial, policy = self.partial, self.policy
        began = since = time.monotonic()
        asked, failures, most = 0, 0, partial.have
        with (
            CarefulSession(self.pace) as session,
            byte_bar(partial.final.name, partial.total, partial.have) as bar,
        ):
            while partial.have != partial.total:
                asked += 1
                try:
                    self.ask(session, bar)
                    return
                except FAILURES as error:
                    failure = failure_of(error)
                except Failure as error:
                    failure = error
                now = time.monotonic()
                gains = partial.have - most > policy.slowest * (now - since)
                failures = 0 if gains else failures + 1
                most, since = max(most, partial.have), now
                # nobody is there at first: waiting helps where a server answered before
                hopeless = not failure.again or (asked == 1 and not failure.connected)
                if hopeless or failures >= policy.tries:
                    raise self.error(failure, f"asked {asked} time(s) in {now - began:.0f} s")
                delay = max(policy.first_delay * 2 ** (failures - 1), failure.wait)
                delay = min(delay, policy.longest_delay)
                logger.info("%s: %s; again in %.1f s", partial.final.name, failure, delay)
                policy.sleep(delay)

    def ask(self, session: requests.Session, bar: tqdm[Any]) -> None:
        """Make one request and write down what it brings; raises Failure, or one of FAILURES."""
        partial = self.partial
        # without this, proxies may compress what is compressed already and lengths mean nothing
        headers = {"Accept-Encoding": "identity"}
        start = partial.have if partial.validator else max(0, partial.have - OVERLAP)
        if start:
            headers["Range"] = f"bytes={start}-"
        if start and partial.validator:
            headers["If-Range"] = partial.validator
        self.pace.start()
        with session.get(
            partial.url, headers=headers, stream=True, timeout=self.policy.timeouts
        ) as answer:
            if answer.status_code == 200:
                self.begin(answer)
            elif answer.status_code == 206 and "Range" in headers:
                self.go_on(answer, start)
            else:
                self.refuse(answer)
            bar.total, bar.n = partial.total, partial.have
            self.read_body(answer, bar)

    def refuse(self, answer: requests.Response) -> None:
        """Raise the Failure that a status means."""
        if answer.status_code == 416:  # nothing after the bytes that are here
            self.partial.begin(None, None)
        wait = re.fullmatch(r"\d{1,9}", answer.headers.get("Retry-After", ""))
        raise Failure(
            f"status {answer.status_code} {answer.reason}",
            again=answer.status_code in PASSING_STATUSES,
            wait=float(wait[0]) if wait else 0.0,
        )

    def begin(self, answer: requests.Response) -> None:
        """Expect the whole file."""
        headers = answer.headers
        length = re.fullmatch(r"\d{1,18}", headers.get("Content-Length", ""))
        etag = headers.get("ETag", "")
        # a weak ETag promises the same meaning, not the same bytes
        validator = etag if etag.startswith('"') else headers.get("Last-Modified")
        self.partial.begin(int(length[0]) if length else None, validator)

    def go_on(self, answer: requests.Response, start: int) -> None:
        """Expect a part of the same file from `start` on: what is here of it has to be equal."""
        partial, headers = self.partial, answer.headers
        found = headers.get("Content-Range", "no Content-Range")
        part = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", found.strip())
        total = int(part[2]) if part else None
        if not part or int(part[1]) != start or partial.total not in (None, total):
            expected = f"bytes {start}-*/{partial.total or '*'}"
            raise self.start_over(f"asked for {expected}, got {found}")
        versions = {headers.get("ETag"), headers.get("Last-Modified")} - {None}
        known = partial.read_from(start)
        again = answer.raw.read(len(known), decode_content=False)
        is_other = bool(versions) and partial.validator not in (None, *versions)
        if is_other or again != known[: len(again)]:
            raise self.start_over("the file on the server has changed")
        partial.expect(total)

    def read_body(self, answer: requests.Response, bar: tqdm[Any]) -> None:
        """Append the body to the partial file, as sent and as it comes.

        Content encodings stay: a server that declares a .tar.gz as gzip-encoded text would
        otherwise have it unpacked on the way. `read1`: `read` would wait for a whole chunk, and
        lose what has come when the line goes silent before.
        """
        partial = self.partial
        while chunk := answer.raw.read1(CHUNK, decode_content=False):
            partial.write(chunk)
            bar.update(len(chunk))
            self.pace.came += len(chunk)
            if partial.total is not None and partial.have > partial.total:
                raise self.start_over(f"more than the announced {partial.total} bytes came")
        if partial.total not in (None, partial.have):
            raise Failure(f"the connection ended after {partial.have} of {partial.total} bytes")

    def start_over(self, reason: str) -> Failure:
        """Drop what has arrived, and return the reason."""
        self.partial.begin(None, None)
        return Failure(reason)

    def error(self, failure: Failure, tried: str) -> DownloadError:
        """Return an error with the address, what was tried and what to do."""
        partial, address = self.partial, shown(self.partial.url)
        return (DownloadError if failure.connected else UnreachableError)(
            f"could not fetch {address}\n"
            f"  tried: {tried}, {partial.have} bytes are here; the last answer: {failure}\n"
            f"  by hand: curl -L -o {shlex.quote(str(partial.final))} {shlex.quote(address)}\n"
            "  then start again; or name a mirror with --root_url"
        )
