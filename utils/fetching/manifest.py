"""What was fetched: the manifest of a file, and whether the file is still that one.

`<name>.manifest.json` holds size, sha256, date and address of the file beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

from utils.declared import read_file
from utils.errors import DownloadError, ProjectError
from utils.files import digest_of, sha256_of, write_json
from utils.reading.kinds import HEAD, kind_of, unlike


@dataclass(frozen=True)
class Fetched:
    """A verified file; `downloaded` is False when it was here already."""

    path: Path
    size: int
    sha256: str
    downloaded: bool


@dataclass(frozen=True)
class Wanted:
    """A file to be had: where from, where to, and what it has to be."""

    url: str
    path: Path
    sha1: str | None  # published checksum
    check: Callable[[Path], object] | None  # raises one of our errors for unusable content
    replace_changed: bool  # take another file than the manifest records
    refresh: str  # what a user does to have it fetched again


@dataclass(frozen=True)
class Manifest:
    """The part of `<name>.manifest.json` that is compared."""

    sha256: Annotated[str, "of the file"]
    size: Annotated[int, "bytes"]
    date: Annotated[str, "of the download"]


def manifest_path(path: Path) -> Path:
    """Return the path of the manifest of `path`."""
    return path.with_name(path.name + ".manifest.json")


def verify(wanted: Wanted) -> Fetched | None:
    """Compare the file that is here with its manifest; None when it is to be replaced.

    A file without a manifest was put there by hand (or the last run ended a moment too early): it
    has to pass every check of a fetched one, and gets its manifest. Raises DownloadError for any
    other file.
    """
    path = wanted.path
    if not path.is_file():
        raise DownloadError(f"{path} is in the way: expected a file there; move it and start again")
    size, sha256, recorded = path.stat().st_size, sha256_of(path), read_manifest(path)
    try:
        if recorded is None:
            accept(wanted, path)
            write_manifest(wanted, size, sha256, note="found here, not fetched")
        elif (size, sha256) != (recorded.size, recorded.sha256):
            raise DownloadError(
                f"{path} is not the file that was fetched on {recorded.date}: "
                f"sha256 {sha256} ({size} bytes), but {manifest_path(path).name} says "
                f"{recorded.sha256} ({recorded.size} bytes)\n"
                f"  to fetch it again: {wanted.refresh}"
            )
    except DownloadError:
        if wanted.replace_changed:
            return None
        raise
    return Fetched(path, size, sha256, downloaded=False)


def accept(wanted: Wanted, content: Path) -> str:
    """Return the sha256 of the file `content`; DownloadError when it is not what is wanted."""
    source = str(content) if content == wanted.path else shown(wanted.url)
    size = content.stat().st_size
    with content.open("rb") as file:
        if kind_of(file.read(HEAD)) == "page":
            raise DownloadError(f"{source} {unlike('page', 'file')}")
    if wanted.sha1 is not None and (found := digest_of(content, "sha1")) != wanted.sha1:
        raise DownloadError(
            f"{source}: checksum mismatch: expected the published sha1 {wanted.sha1}, "
            f"found {found} ({size} bytes)"
        )
    sha256 = sha256_of(content)
    recorded = None if wanted.replace_changed else read_manifest(wanted.path)
    if recorded is not None and recorded.sha256 != sha256:
        raise DownloadError(
            f"{source}: checksum mismatch: the manifest of the file fetched earlier says "
            f"sha256 {recorded.sha256}, found {sha256} ({size} bytes)\n"
            f"  to take the new file: {wanted.refresh}"
        )
    if wanted.check is not None:
        try:
            wanted.check(content)
        except ProjectError as error:
            raise DownloadError(
                f"{source} holds {size} bytes that cannot be used: {error}"
            ) from error
    return sha256


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest of `path`, None without one; raises DataError for an unreadable one."""
    file = manifest_path(path)
    if not file.exists():
        return None
    return read_file(Manifest, file, more=True, advice="remove it and start again")


def write_manifest(wanted: Wanted, size: int, sha256: str, **more: str) -> None:
    """Write down what has been fetched; `more`: further entries."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    entry = {"file": wanted.path.name, "size": size, "sha256": sha256, "date": date}
    write_json(manifest_path(wanted.path), entry | {"url": shown(wanted.url)} | more)


def shown(url: str) -> str:
    """Return `url` without name and password, for messages and manifests."""
    return re.sub(r"(?<=://)[^/?#]*@", "", url)
