"""Unpack an untrusted .tar.gz: only plain files and inner links, only below one folder.

The archive is read as a stream; each member passes tarfile's data filter and a check of our own
(the filter of older Pythons has known holes). Files are written beside their place and renamed. The
names, sizes and checksums of complete ones are recorded in `<archive>.unpacked.json`: a run that
was killed continues from there, and later runs verify against it.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import logging
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

from tqdm import tqdm

from utils.errors import DataError, UnsafeFileError
from utils.files import atomic_writer, read_json, remove_leftovers, sha256_of, write_json
from utils.progress import byte_bar
from utils.reading.kinds import other_kind
from utils.shown import printable, shown

logger = logging.getLogger(__name__)

BLOCK = 1 << 20
GZIP_START = b"\x1f\x8b"
MARKER_SECONDS = 2.0  # how often the marker is written while unpacking
END = 1024
"""Zero bytes at the end of every tar archive."""
RATIO_MATTERS_FROM = 64 << 20  # bytes: small archives of constant features compress very well
LEFT_OUT = ("__MACOSX", ".DS_Store")
"""Members that macOS adds, besides those that begin with `._`."""


@dataclass(frozen=True)
class Limits:
    """What an archive may ask for; far above the published ones (6 GB, some hundred files)."""

    max_bytes: int = 256 << 30
    max_members: int = 10_000
    max_ratio: float = 100.0
    max_name_bytes: int = 1024
    max_depth: int = 32


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Unpacked:
    """What an archive holds: files (links too) and bytes, and how many files were written now."""

    files: int
    bytes: int
    written: int = 0


def marker_path(archive: Path) -> Path:
    """Return where it is written down what of `archive` is unpacked."""
    return archive.with_name(archive.name + ".unpacked.json")


def unpack(
    archive: Path,
    root: Path,
    *,
    prefix: str = "data/",
    limits: Limits = DEFAULT_LIMITS,
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
    place = _Place(root.resolve(), archive)
    marker = _Marker.load(archive, sha256 or sha256_of(archive))
    intact = set() if again else marker.intact(place)
    if marker.complete and intact == marker.names:
        return marker.summary(written=0)
    marker.keep_only(intact)
    # beside the archive are the records of what was fetched and unpacked: never overwritten
    reserved = archive.name if archive.parent.resolve() == place.root else ""
    written = 0
    try:
        for member in _members(archive, prefix, limits, reserved):
            place.make_folders(member)
            if member.kind == "folder" or member.name in intact:
                continue
            if member.kind == "link":
                place.write_link(member)
                marker.links[member.name] = member.target
            else:
                marker.files[member.name] = place.write_file(member)
            written += 1
            marker.save_now_and_then()
        for name in marker.links:
            place.check_link(name)
        marker.complete = True
    except BaseException:
        with contextlib.suppress(OSError):  # what stopped us matters more
            marker.save()
        raise
    marker.save()
    for folder in {(place.root / name).parent for name in marker.names}:
        remove_leftovers(folder)  # of runs that were killed
    return marker.summary(written)


def check_archive(
    archive: Path, *, prefix: str = "data/", limits: Limits = DEFAULT_LIMITS
) -> Unpacked:
    """Read and judge an archive to its end as `unpack` would, but write nothing."""
    files = size = 0
    for member in _members(archive, prefix, limits):
        files += member.kind != "folder"
        size += sum(len(block) for block in member.blocks())
    return Unpacked(files, size)


def verify_unpacked(archive: Path, root: Path) -> Unpacked | None:
    """Compare every file below `root` with its checksum from the time of unpacking.

    `archive` itself may be gone. None when anything is missing or changed, or was never complete.
    """
    marker = _Marker.load(archive, None)
    if not marker.complete or not root.is_dir():
        return None
    if marker.intact(_Place(root.resolve(), archive)) != marker.names:
        return None
    return marker.summary(written=0)


@dataclass
class _Marker:
    """What of one archive is unpacked: files name -> (size, sha256), links name -> target."""

    path: Path
    sha256: str | None
    complete: bool = False
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def load(cls, archive: Path, sha256: str | None) -> _Marker:
        """Read the marker of `archive`; an empty one when it belongs to another content.

        Unreadable ones are taken as absent: all they can cost is unpacking once more.
        """
        path = marker_path(archive)
        try:
            content: Any = read_json(path)
            if sha256 is not None and content["sha256"] != sha256:
                return cls(path, sha256)
            files = {
                str(name): (int(size), str(digest))
                for name, (size, digest) in content["files"].items()
            }
            links = {str(name): str(target) for name, target in content["links"].items()}
            return cls(path, content["sha256"], content["complete"] is True, files, links)
        except (OSError, DataError, LookupError, TypeError, ValueError, AttributeError):
            return cls(path, sha256)

    @property
    def names(self) -> set[str]:
        return {*self.files, *self.links}

    def intact(self, place: _Place) -> set[str]:
        """Return the names whose file or link is on disk exactly as it was unpacked."""
        links = {n for n, target in self.links.items() if place.read_link(n) == target}
        return links | {n for n, expected in self.files.items() if place.is_intact(n, *expected)}

    def keep_only(self, names: set[str]) -> None:
        self.complete = False
        self.files = {name: entry for name, entry in self.files.items() if name in names}
        self.links = {name: target for name, target in self.links.items() if name in names}

    def save_now_and_then(self) -> None:
        if time.monotonic() - self.saved > MARKER_SECONDS:
            self.save()

    def save(self) -> None:
        content = {"sha256": self.sha256, "complete": self.complete}
        write_json(self.path, content | {"files": self.files, "links": self.links})
        self.saved = time.monotonic()

    def summary(self, written: int) -> Unpacked:
        size = sum(size for size, _ in self.files.values())
        return Unpacked(len(self.files) + len(self.links), size, written)


@dataclass(frozen=True)
class _Member:
    """One allowed member; `target` of links: as written there, of copies: an earlier file."""

    name: str  # below the prefix, normalised
    kind: str  # "folder", "file", "copy" (a hard link) or "link"
    size: int
    target: str
    content: IO[bytes] | None
    archive: Path

    def blocks(self) -> Iterator[bytes]:
        """Yield the content of a file, once."""
        left = self.size
        with _damage_named(self.archive):
            while self.content is not None and (block := self.content.read(BLOCK)):
                left -= len(block)
                yield block
            if self.content is not None and left:
                raise EOFError(f"{left} bytes of {self.name} are missing")


@dataclass(frozen=True)
class _Place:
    """The folder that an archive may fill; nothing is written through a link below it."""

    root: Path  # resolved
    archive: Path

    def _folders_of(self, name: str) -> Iterator[Path]:
        parts = name.split("/")
        return (self.root.joinpath(*parts[:depth]) for depth in range(1, len(parts)))

    def _is_reached_plainly(self, name: str) -> bool:
        return not any(folder.is_symlink() for folder in self._folders_of(name))

    def is_intact(self, name: str, size: int, sha256: str) -> bool:
        path = self.root / name
        if not self._is_reached_plainly(name) or path.is_symlink() or not path.is_file():
            return False
        return path.stat().st_size == size and sha256_of(path) == sha256

    def read_link(self, name: str) -> str | None:
        path = self.root / name
        return (
            str(path.readlink()) if self._is_reached_plainly(name) and path.is_symlink() else None
        )

    def make_folders(self, member: _Member) -> None:
        """Make the folders on the way to a member (and itself), each a real one."""
        name = f"{member.name}/" if member.kind == "folder" else member.name
        for folder in self._folders_of(name):
            if folder.is_symlink():
                raise UnsafeFileError(
                    f"{self.archive}: would write through the symbolic link {folder}; "
                    f"only {self.root} itself and what is above may be links"
                )
            with self._writing(folder):
                folder.mkdir(exist_ok=True)

    def write_file(self, member: _Member) -> tuple[int, str]:
        """Write a file whole, with the permissions of any new file; returns (size, sha256)."""
        path = self.root / member.name
        if member.size > (free := shutil.disk_usage(self.root).free):
            raise DataError(
                f"{self.archive}: {path} needs {member.size} bytes, {free} are free there; "
                "make room and start again: what is unpacked stays"
            )
        digest, size = hashlib.sha256(), 0
        with self._writing(path), atomic_writer(path) as file:
            for block in self._copied(member) if member.kind == "copy" else member.blocks():
                digest.update(block)
                size += len(block)
                file.write(block)
        return size, digest.hexdigest()

    def _copied(self, member: _Member) -> Iterator[bytes]:
        with (self.root / member.target).open("rb") as file:
            while block := file.read(BLOCK):
                yield block

    def write_link(self, member: _Member) -> None:
        path = self.root / member.name
        beside = path.with_name(f".{os.getpid()}.link.partial")
        with self._writing(path):
            beside.unlink(missing_ok=True)
            beside.symlink_to(member.target)
            try:
                beside.replace(path)
            except OSError:
                beside.unlink()
                raise

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (IsADirectoryError, FileExistsError, NotADirectoryError) as error:
            raise DataError(
                f"{self.archive}: {path} cannot be unpacked, something else is in its place; "
                "move that away and start again"
            ) from error
        except OSError as error:
            raise DataError(
                f"{self.archive}: {path} cannot be written: {error.strerror}; fix that and start "
                "again: what is unpacked stays"
            ) from error

    def check_link(self, name: str) -> None:
        """Remove and refuse a link that leads out of the folder or in a circle, once all is there.

        The archive alone cannot make one that leads out (see `_Judge.link_target`), but together
        with links that were here before it could.
        """
        path = self.root / name
        try:
            path.stat()
        except OSError as error:  # one that leads nowhere does no harm
            if error.errno == errno.ELOOP:
                path.unlink()
                raise self._unsafe(name, "is a link in a circle") from error
        target = path.resolve()
        if target != self.root and self.root not in target.parents:
            path.unlink()
            raise self._unsafe(name, f"is a link that leads out of {self.root}")

    def _unsafe(self, name: str, reason: str) -> UnsafeFileError:
        return UnsafeFileError(f"{self.archive} is refused: member {shown(name)} {reason}")


class _Inflated:
    """The unpacked byte stream of an archive, counted against the limits, with a progress bar."""

    def __init__(self, archive: Path, raw: BinaryIO, limits: Limits, bar: tqdm[Any]) -> None:
        self.archive, self.raw, self.limits, self.bar = archive, raw, limits, bar
        self.stream = gzip.GzipFile(fileobj=raw, mode="rb")
        if self.stream.peek(2)[:2] == GZIP_START:  # some servers compress it once more
            self.stream = gzip.GzipFile(fileobj=self.stream, mode="rb")
        self.count = 0
        self.end = b""

    def read(self, size: int = BLOCK) -> bytes:
        """Read at most `size` bytes; raises UnsafeFileError beyond a limit."""
        block = self.stream.read(min(size, BLOCK))
        self.add(len(block))
        self.end = (self.end + block)[-END:] if len(block) < END else block[-END:]
        return block

    def add(self, size: int) -> None:
        """Count `size` more bytes that the archive would have us read or write."""
        self.count += size
        packed = self.raw.tell()
        self.bar.update(packed - self.bar.n)
        if self.count > self.limits.max_bytes:
            raise UnsafeFileError(
                f"{self.archive} is refused: it unpacks to more than {self.limits.max_bytes} bytes"
            )
        if self.count > max(RATIO_MATTERS_FROM, self.limits.max_ratio * packed):
            raise UnsafeFileError(
                f"{self.archive} is refused: its first {packed} bytes unpack to {self.count}, "
                f"more than {self.limits.max_ratio:g} times as many"
            )


class _StrictInfo(tarfile.TarInfo):
    """A header; tarfile takes a broken one after the first for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise ValueError(str(error)) from error


@contextlib.contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    """Turn whatever the libraries raise for a damaged archive into an error that names it."""
    try:
        yield
    except (UnsafeFileError, DataError):
        raise
    except (MemoryError, RecursionError):
        raise UnsafeFileError(f"{archive} is refused: its headers ask for too much") from None
    except Exception as error:
        reason = other_kind(archive, "gzip") or (
            f"is damaged, incomplete or no .tar.gz at all ({printable(str(error), 100)}); "
            "fetch it again"
        )
        raise DataError(f"{archive} {reason}") from error


def _members(archive: Path, prefix: str, limits: Limits, reserved: str = "") -> Iterator[_Member]:
    """Yield the members below the prefix, in order; refuses the archive at the first bad one.

    Everything that can be judged without looking at the disk is judged here. `reserved`: the
    beginning of names that are taken.
    """
    with archive.open("rb") as raw, byte_bar(f"reading {archive.name}", _size(archive)) as bar:
        with _damage_named(archive):
            inflated = _Inflated(archive, raw, limits, bar)
            tar = tarfile.open(fileobj=inflated, mode="r|", bufsize=BLOCK, tarinfo=_StrictInfo)  # type: ignore[call-overload]  # noqa: SIM115
        judge = _Judge(archive, prefix, limits, inflated, reserved)
        while True:
            with _damage_named(archive):
                header = tar.next()
            if header is None:
                break
            if (member := judge.member(header)) is not None:
                yield replace(member, content=tar.extractfile(header) if header.isreg() else None)
        with _damage_named(archive):
            while inflated.read():
                pass  # to the end, where the checksum of the whole is
            if inflated.end.strip(b"\0") or len(inflated.end) < END:
                raise EOFError("it does not end as archives do")
        judge.finish()


def _size(path: Path) -> int:
    return path.stat().st_size


class _Judge:
    """Decides on each header of one archive, in order."""

    def __init__(
        self,
        archive: Path,
        prefix: str,
        limits: Limits,
        inflated: _Inflated,
        reserved: str,
    ) -> None:
        self.archive, self.limits, self.inflated = archive, limits, inflated
        self.prefix, self.reserved = prefix, reserved
        self.top = [part for part in prefix.split("/") if part]
        self.seen: dict[str, tuple[str, int]] = {}  # name -> (kind, size), parents included
        self.count = self.left_out = 0

    def refuse(self, name: str, reason: str) -> UnsafeFileError:
        return UnsafeFileError(f"{self.archive} is refused: member {shown(name)} {reason}")

    def finish(self) -> None:
        if all(kind == "folder" for kind, _ in self.seen.values()):
            raise DataError(
                f"{self.archive} holds no file below {self.prefix}; is it the right archive?"
            )
        if self.left_out:
            logger.warning("%s: left out %d members that macOS added", self.archive, self.left_out)

    def member(self, header: tarfile.TarInfo) -> _Member | None:
        """Return an allowed member, None for one to skip; raises UnsafeFileError."""
        self.count += 1
        if self.count > self.limits.max_members:
            raise UnsafeFileError(
                f"{self.archive} is refused: more than {self.limits.max_members} members"
            )
        kind, parts = self.kind(header), self.parts(header.name)
        if any(part in LEFT_OUT or part.startswith("._") for part in parts):
            self.left_out += 1
            return None
        if kind == "folder" and parts == self.top[: len(parts)]:
            return None  # the folders above, down to that of the prefix itself
        name = self.below(header.name, parts)
        self.register(header.name, name, kind)
        target, size = "", header.size if kind == "file" else 0
        if kind == "link":
            target = self.link_target(name, header)
        elif kind == "copy":
            target = self.below(header.name, self.parts(header.linkname))
            source, size = self.seen.get(target, ("nothing", 0))
            if source not in ("file", "copy"):
                raise self.refuse(header.name, "is a hard link to no file before it")
            self.inflated.add(size)
        self.filtered(header, name, target)
        self.seen[name] = kind, size
        return _Member(name, kind, size, target, None, self.archive)

    def kind(self, header: tarfile.TarInfo) -> str:
        if header.issparse() or not 0 <= header.size <= self.limits.max_bytes:
            raise self.refuse(header.name, "is a file with holes or of an impossible size")
        for kind, is_kind in (
            ("folder", header.isdir()),
            ("file", header.isreg()),
            ("link", header.issym()),
            ("copy", header.islnk()),
        ):
            if is_kind:
                return kind
        raise self.refuse(header.name, "is a device, a pipe or of an unknown kind")

    def parts(self, name: str) -> list[str]:
        """Split a name at its slashes; refuses what is no plain relative name."""
        self.check_text(name, name)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            raise self.refuse(name, "has an absolute path or '..' in it")
        # 255 bytes is what file systems take; temporary names beside it need some of them
        longest = max((len(part.encode()) for part in parts), default=0)
        if longest > 200 or len(parts) > self.limits.max_depth:
            raise self.refuse(name, "has too long a name")
        return parts

    def check_text(self, member: str, text: str) -> None:
        if not text.isprintable():  # lone surrogates, for names that are not UTF-8, are not either
            raise self.refuse(member, "has a name that is not UTF-8 or holds control characters")
        if len(text.encode()) > self.limits.max_name_bytes:
            raise self.refuse(member, "has too long a name")

    def below(self, member: str, parts: list[str]) -> str:
        """Return the part of a name below the prefix."""
        inner = parts[len(self.top) :]
        if parts[: len(self.top)] != self.top or not inner:
            raise self.refuse(member, f"is not below {self.prefix}")
        return "/".join(inner)

    def register(self, member: str, name: str, kind: str) -> None:
        """Refuse a name that is taken, reserved, or below something that is not a folder."""
        if self.reserved and name.startswith(self.reserved):
            raise self.refuse(member, "has the name of the archive or of a record of it")
        if name in self.seen and not kind == self.seen[name][0] == "folder":
            raise self.refuse(member, "occurs twice")
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if self.seen.setdefault("/".join(parts[:depth]), ("folder", 0))[0] != "folder":
                raise self.refuse(member, "is below something that is not a folder")

    def link_target(self, name: str, header: tarfile.TarInfo) -> str:
        """Return the target of a link when it must be inside; refuses all others.

        It may climb (`../..`) only at its beginning and not above the prefix: all parents of a link
        are real folders, so climbing is exact, and the rest goes down, through other links at most,
        for which the same holds.
        """
        target = header.linkname
        self.check_text(header.name, target)
        steps = target.split("/")
        climbs = next((i for i, step in enumerate(steps) if step != ".."), len(steps))
        if (
            not target
            or target.startswith("/")
            or ".." in steps[climbs:]
            or climbs > name.count("/")
        ):
            raise self.refuse(header.name, f"is a link to {shown(target)}, outside the place")
        return target

    def filtered(self, header: tarfile.TarInfo, name: str, target: str) -> None:
        """Let tarfile's own filter judge the member too, as if its place were empty."""
        nowhere = "/nonexistent"
        try:
            tarfile.data_filter(header.replace(name=name, linkname=target), nowhere)
        except tarfile.FilterError as error:
            raise self.refuse(header.name, f"is unsafe ({type(error).__name__})") from None
