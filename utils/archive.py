"""Unpack an untrusted .tar.gz: only plain files and inner links, only below one folder.

The archive is read as a stream, member by member (never `extractall`). Each file is written beside
its place and renamed, so what bears a final name is whole. What is complete stands in
`<archive>.unpacked.json`: a run that was killed goes on there, and later runs verify against it.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import shutil
import tarfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

from tqdm import tqdm

from utils.errors import DataError, UnsafeFileError
from utils.files import atomic_writer, read_json, remove_leftovers, sha256_of, write_json
from utils.progress import byte_bar

BLOCK = 1 << 20
MARKER_SECONDS = 2.0  # how often the marker is written while unpacking
RATIO_MATTERS_FROM = 64 << 20  # bytes: small archives of constant features compress very well
LARGEST_HEADER = 1 << 16  # bytes of a long name or of extended attributes
HEADERS_OF_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


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
    written = 0
    try:
        for member in _members(archive, prefix, limits):
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
        with _damage_named(self.archive):
            while self.content is not None and (block := self.content.read(BLOCK)):
                yield block


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

        The archive alone cannot make one that leads out (see `_judged_target`), but together with
        links that were here before it could.
        """
        path = self.root / name
        try:
            path.stat()
        except OSError as error:  # one that leads nowhere does no harm
            if error.errno == errno.ELOOP:
                path.unlink()
                raise _unsafe(self.archive, name, "is a link in a circle") from error
        target = path.resolve()
        if target != self.root and self.root not in target.parents:
            path.unlink()
            raise _unsafe(self.archive, name, f"is a link that leads out of {self.root}")


class _Damaged(Exception):  # noqa: N818  (never leaves this file)
    """The stream of headers breaks off or is no such stream."""


class _Hostile(Exception):  # noqa: N818
    """A header asks for more memory than a name needs."""


class _StrictInfo(tarfile.TarInfo):
    """A header as tarfile reads it, but bounded, and without its forgiveness.

    tarfile reads long names and extended attributes whole, whatever size is declared, and takes a
    broken header after the first for the end of the archive.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictInfo:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise _Damaged(str(error)) from error
        if header.size < 0:
            raise _Hostile("a member of negative size")
        if header.type in HEADERS_OF_HEADERS and header.size > LARGEST_HEADER:
            raise _Hostile(f"a name or attributes of {header.size} bytes")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise _Hostile("a file with holes")
        return header

    def _proc_gnusparse_10(self, *_: object) -> None:
        """Refuse the newest form of files with holes, whose map of holes has no bound."""
        raise _Hostile("a file with holes")


@contextlib.contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    """Turn what reading a damaged or hostile archive raises into errors that name it."""
    try:
        yield
    except _Hostile as error:
        raise UnsafeFileError(f"{archive} is refused: it holds {error}") from error
    except RecursionError:
        raise UnsafeFileError(f"{archive} is refused: headers of headers without end") from None
    except (_Damaged, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{archive} is damaged, incomplete or no .tar.gz at all ({error}); fetch it again"
        ) from error


class _Inflated:
    """The unpacked byte stream of an archive, counted against the limits, with a progress bar."""

    def __init__(self, archive: Path, raw: BinaryIO, limits: Limits, bar: tqdm[Any]) -> None:
        self.archive, self.raw, self.limits, self.bar = archive, raw, limits, bar
        self.stream = gzip.GzipFile(fileobj=raw, mode="rb")
        self.count = 0

    def read(self, size: int = BLOCK) -> bytes:
        """Read at most `size` bytes; raises UnsafeFileError beyond a limit."""
        block = self.stream.read(min(size, BLOCK))
        self.add(len(block))
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


def _members(archive: Path, prefix: str, limits: Limits) -> Iterator[_Member]:
    """Yield the members below the prefix, in order; refuses the archive at the first bad one.

    Everything that can be judged without looking at the disk is judged here.
    """
    with (
        archive.open("rb") as raw,
        byte_bar(f"reading {archive.name}", archive.stat().st_size) as bar,
        _damage_named(archive),
    ):
        inflated = _Inflated(archive, raw, limits, bar)
        found = False
        with tarfile.open(  # type: ignore[call-overload]
            fileobj=inflated, mode="r|", tarinfo=_StrictInfo, bufsize=BLOCK
        ) as tar:
            for member in _judged(archive, tar, inflated, prefix, limits):
                found = found or member.kind != "folder"
                yield member
        while inflated.read():
            pass  # to the end, where the checksum of the whole stands
        if not found:
            raise DataError(f"{archive} holds no file below {prefix}; is it the right archive?")


def _judged(
    archive: Path, tar: tarfile.TarFile, inflated: _Inflated, prefix: str, limits: Limits
) -> Iterator[_Member]:
    top = _parts(archive, prefix, limits)
    seen: dict[str, tuple[str, int]] = {}  # name -> (kind, size), the folders on the way included
    count = 0
    while (header := tar.next()) is not None:
        count += 1
        if count > limits.max_members:
            raise UnsafeFileError(f"{archive} is refused: more than {limits.max_members} members")
        kind = _kind(archive, header, limits)
        parts = _parts(archive, header.name, limits)
        if kind == "folder" and parts == top[: len(parts)]:
            continue  # the folders above, down to that of the prefix itself
        parts, name = _below(top, parts)
        if not name:
            raise _unsafe(archive, header.name, f"does not lie below {prefix}")
        if name in seen and not kind == seen[name][0] == "folder":
            raise _unsafe(archive, header.name, "occurs twice")
        for depth in range(1, len(parts)):
            if seen.setdefault("/".join(parts[:depth]), ("folder", 0))[0] != "folder":
                raise _unsafe(archive, header.name, "lies below something that is not a folder")
        target, size = "", header.size if kind == "file" else 0
        if kind == "link":
            target = _judged_target(archive, name, header, limits)
        elif kind == "copy":
            _, target = _below(top, _parts(archive, header.linkname, limits))
            source, size = seen.get(target, ("nothing", 0))
            if source not in ("file", "copy"):
                raise _unsafe(archive, header.name, "is a hard link to no file before it")
            inflated.add(size)
        seen[name] = kind, size
        yield _Member(name, kind, size, target, _content(tar, header), archive)


def _content(tar: tarfile.TarFile, header: tarfile.TarInfo) -> IO[bytes] | None:
    return tar.extractfile(header) if header.isreg() else None


def _below(top: list[str], parts: list[str]) -> tuple[list[str], str]:
    """Return what of a name lies below the prefix, in parts and joined."""
    inner = parts[len(top) :] if parts[: len(top)] == top else []
    return inner, "/".join(inner)


def _kind(archive: Path, header: tarfile.TarInfo, limits: Limits) -> str:
    if header.issparse() or header.size < 0:
        raise _unsafe(archive, header.name, "is a file with holes or of negative size")
    if header.size > limits.max_bytes:
        raise _unsafe(archive, header.name, f"declares {header.size} bytes")
    for kind, is_kind in (
        ("folder", header.isdir()),
        ("file", header.isreg()),
        ("link", header.issym()),
        ("copy", header.islnk()),
    ):
        if is_kind:
            return kind
    raise _unsafe(archive, header.name, "is a device, a pipe or of an unknown kind")


def _parts(archive: Path, name: str, limits: Limits) -> list[str]:
    """Split a name of the archive at its slashes; refuses what is no plain relative name."""
    encoded = _encoded(archive, name, name)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/"):
        raise _unsafe(archive, name, "has an absolute path")
    if ".." in parts:
        raise _unsafe(archive, name, "has '..' in its path")
    longest = max((len(part.encode()) for part in parts), default=0)
    # 255 bytes is what file systems take; temporary names beside it need some of them
    if len(encoded) > limits.max_name_bytes or longest > 200 or len(parts) > limits.max_depth:
        raise _unsafe(archive, name, "has too long a name")
    return parts


def _judged_target(archive: Path, name: str, header: tarfile.TarInfo, limits: Limits) -> str:
    """Return the target of a link when it must lie inside; refuses all others.

    It may climb (`../..`) only at its beginning and not above the prefix: all folders on the way
    to a link are real ones, so climbing is exact, and what follows goes down, through other links
    at most, for which the same holds.
    """
    target = header.linkname
    encoded = _encoded(archive, header.name, target)
    steps = target.split("/")
    climbs = next((i for i, step in enumerate(steps) if step != ".."), len(steps))
    if (
        not target
        or target.startswith("/")
        or ".." in steps[climbs:]
        or climbs > name.count("/")
        or len(encoded) > limits.max_name_bytes
    ):
        raise _unsafe(archive, header.name, f"is a link to {target[:200]!r}, no place inside")
    return target


def _encoded(archive: Path, member: str, text: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise _unsafe(archive, member, "has a name that is not UTF-8") from None
    if any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in text):
        raise _unsafe(archive, member, "has control characters in its name")
    return encoded


def _unsafe(archive: Path, name: str, what: str) -> UnsafeFileError:
    return UnsafeFileError(f"{archive} is refused: member {name[:200]!r} {what}")
