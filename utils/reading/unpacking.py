"""Unpack an untrusted .tar.gz below a folder, and verify later that all is as it was unpacked.

Files are written beside their place and renamed. The names, sizes and checksums of complete ones
are recorded in `<archive>.unpacked.json`: a run that was killed continues from there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tarfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from utils.errors import DataError, UnsafeFileError
from utils.files import atomic_writer, read_json, remove_leftovers, sha256_of, write_json
from utils.reading.archives import BLOCK, Archive
from utils.shown import shown

MARKER_SECONDS = 2.0  # how often the record is written while unpacking


@dataclass(frozen=True)
class Unpacked:
    """What an archive holds: files (links too) and bytes, and how many files were written now."""

    files: int
    bytes: int
    written: int = 0


def marker_path(archive: Path) -> Path:
    """Return where it is recorded what of `archive` is unpacked."""
    return archive.with_name(archive.name + ".unpacked.json")


def unpack(
    archive: Path,
    root: Path,
    *,
    prefix: str = "data/",
    sha256: str | None = None,
    again: bool = False,
) -> Unpacked:
    """Unpack the members `<prefix>x` of a .tar.gz to `root/x`, and verify those already there.

    `root` may be a symbolic link; below it nothing is written through one. `sha256`: of the
    archive, where the caller has it. `again`: write everything anew.
    Raises UnsafeFileError for an archive that asks for more than files below `prefix`, DataError
    for a damaged one, or a disk that cannot take it.
    """
    root.mkdir(parents=True, exist_ok=True)
    record = _Record.load(archive, root.resolve(), sha256 or sha256_of(archive))
    intact = set() if again else record.intact()
    if record.complete and intact == record.names:
        return record.summary()
    record.keep_only(intact)
    source = Archive(archive, prefix)
    if archive.parent.resolve() == record.root:  # its records are there too: never overwritten
        source.reserved = archive.name
    for member, content in source.members():
        record.make_folders(f"{member.name}/" if member.isdir() else member.name)
        if not member.isdir() and member.name not in intact:
            record.write(member, source.blocks(content))
    record.check_links()
    record.complete = True
    record.save()
    for folder in {(record.root / name).parent for name in record.names}:
        remove_leftovers(folder)  # of runs that were killed
    return record.summary(written=len(record.names - intact))


def verify_unpacked(archive: Path, root: Path) -> Unpacked | None:
    """Compare every file below `root` with its checksum from the time of unpacking.

    `archive` itself may be gone. None when anything is missing or changed, or was never complete.
    """
    record = _Record.load(archive, root.resolve(), None)
    if not record.complete or not root.is_dir() or record.intact() != record.names:
        return None
    return record.summary()


@dataclass
class _Record:
    """What of an archive is below `root`: files name -> (size, sha256), links name -> target."""

    archive: Path
    root: Path  # resolved
    sha256: str | None
    complete: bool = False
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def load(cls, archive: Path, root: Path, sha256: str | None) -> _Record:
        """Read the record of `archive`; an empty one when it is of another content.

        Unreadable ones are taken as absent: all they can cost is unpacking once more.
        """
        try:
            found: Any = read_json(marker_path(archive))
            if sha256 in (None, found["sha256"]):
                files = {str(n): (int(size), str(sha)) for n, (size, sha) in found["files"].items()}
                links = {str(n): str(target) for n, target in found["links"].items()}
                complete = found["complete"] is True
                return cls(archive, root, found["sha256"], complete, files, links)
        except (OSError, DataError, LookupError, TypeError, ValueError, AttributeError):
            pass
        return cls(archive, root, sha256)

    @property
    def names(self) -> set[str]:
        return {*self.files, *self.links}

    def summary(self, written: int = 0) -> Unpacked:
        return Unpacked(len(self.names), sum(size for size, _ in self.files.values()), written)

    def save(self) -> None:
        content = {"sha256": self.sha256, "complete": self.complete}
        write_json(marker_path(self.archive), content | {"files": self.files, "links": self.links})
        self.saved = time.monotonic()

    def keep_only(self, names: set[str]) -> None:
        self.complete = False
        self.files = {name: entry for name, entry in self.files.items() if name in names}
        self.links = {name: target for name, target in self.links.items() if name in names}

    def intact(self) -> set[str]:
        """Return the names whose file or link is on disk exactly as it was unpacked."""
        return {name for name in self.names if self.is_intact(name)}

    def is_intact(self, name: str) -> bool:
        path = self.root / name
        if any(folder.is_symlink() for folder in self.folders_of(name)):
            return False
        if path.is_symlink():
            return str(path.readlink()) == self.links.get(name)
        size, sha256 = self.files.get(name, (None, None))
        return path.is_file() and path.stat().st_size == size and sha256_of(path) == sha256

    def folders_of(self, name: str) -> list[Path]:
        """Return the folders on the way to a name, the highest first."""
        parts = name.split("/")[:-1]
        return [self.root.joinpath(*parts[: depth + 1]) for depth in range(len(parts))]

    def make_folders(self, name: str) -> None:
        """Make the folders on the way to a name, each a real one."""
        for folder in self.folders_of(name):
            if folder.is_symlink():
                raise UnsafeFileError(
                    f"{self.archive}: would write through the symbolic link {folder}; "
                    f"only {self.root} itself and what is above may be links"
                )
            with self.failures_named(folder):
                folder.mkdir(exist_ok=True)

    def write(self, member: tarfile.TarInfo, content: Iterable[bytes]) -> None:
        """Write a file or link whole, with the permissions of any new file."""
        path, digest = self.root / member.name, hashlib.sha256()
        with self.failures_named(path):
            if member.issym():
                beside = path.with_name(f".{path.name}.link.partial")
                beside.unlink(missing_ok=True)
                beside.symlink_to(member.linkname)
                beside.replace(path)
                self.links[member.name] = member.linkname
                return
            if member.size > (free := shutil.disk_usage(self.root).free):
                raise OSError(errno.ENOSPC, f"it needs {member.size} bytes, {free} are free there")
            with contextlib.ExitStack() as stack:
                if member.islnk():
                    copied = stack.enter_context((self.root / member.linkname).open("rb"))
                    content = iter(partial(copied.read, BLOCK), b"")
                file = stack.enter_context(atomic_writer(path))
                for block in content:
                    digest.update(block)
                    file.write(block)
        self.files[member.name] = member.size, digest.hexdigest()
        if time.monotonic() - self.saved > MARKER_SECONDS:
            self.save()

    @contextlib.contextmanager
    def failures_named(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self.archive}: {path} cannot be written: {error.strerror}; mend that and start "
                "again: what is unpacked stays"
            ) from error

    def check_links(self) -> None:
        """Remove and refuse a link that leads out of the folder or in a circle, once all is there.

        The archive alone makes none that leads out, but with links that were here before it could.
        """
        for name in self.links:
            path = self.root / name
            end = Path(os.path.realpath(path))
            if end.is_symlink() or not end.is_relative_to(self.root):  # a circle ends in a link
                path.unlink()
                raise UnsafeFileError(
                    f"{self.archive} is refused: member {shown(name)} is a link that leads out of "
                    f"{self.root} or in a circle"
                )
