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
import shutil
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeAlias

from utils.errors import DataError, UnsafeFileError
from utils.files import atomic_writer, read_json, remove_leftovers, sha256_of, write_json
from utils.progress import byte_bar
from utils.reading.kinds import other_kind
from utils.shown import printable, shown

logger = logging.getLogger(__name__)

BLOCK = 1 << 20
GZIP_START = b"\x1f\x8b"
MARKER_SECONDS = 2.0  # how often the record is written while unpacking
END = 1024
"""Zero bytes at the end of every tar archive."""
RATIO_MATTERS_FROM = 64 << 20  # bytes: small archives of constant features compress very well
LONGEST_PART = 200  # bytes; file systems take 255, and temporary names need some of them
LEFT_OUT = ("__MACOSX", ".DS_Store")
"""Members that macOS adds, besides those that begin with `._`."""
Member: TypeAlias = tuple[tarfile.TarInfo, IO[bytes] | None]
"""A header whose names are below the prefix (a hard link's too, with the size), and the content."""


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
    """Return where it is recorded what of `archive` is unpacked."""
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
    record = _Record.load(archive, root.resolve(), sha256 or sha256_of(archive))
    intact = set() if again else record.intact()
    if record.complete and intact == record.names:
        return record.summary(written=0)
    record.keep_only(intact)
    judge = _Judge(archive, prefix, limits)
    if archive.parent.resolve() == record.root:  # its records are there too: never overwritten
        judge.reserved = archive.name
    written = 0
    try:
        for member, content in _members(judge):
            record.make_folders(f"{member.name}/" if member.isdir() else member.name)
            if member.isdir() or member.name in intact:
                continue
            record.write(member, content)
            written += 1
        for name in record.links:
            record.check_link(name)
        record.complete = True
    finally:
        with contextlib.nullcontext() if record.complete else contextlib.suppress(OSError):
            record.save()
    for folder in {(record.root / name).parent for name in record.names}:
        remove_leftovers(folder)  # of runs that were killed
    return record.summary(written)


def check_archive(
    archive: Path, *, prefix: str = "data/", limits: Limits = DEFAULT_LIMITS
) -> Unpacked:
    """Read and judge an archive to its end as `unpack` would, but write nothing."""
    files = size = 0
    for member, content in _members(_Judge(archive, prefix, limits)):
        files += not member.isdir()
        size += sum(map(len, _blocks(archive, member, content)))
    return Unpacked(files, size)


def verify_unpacked(archive: Path, root: Path) -> Unpacked | None:
    """Compare every file below `root` with its checksum from the time of unpacking.

    `archive` itself may be gone. None when anything is missing or changed, or was never complete.
    """
    record = _Record.load(archive, root.resolve(), None)
    if not record.complete or not root.is_dir() or record.intact() != record.names:
        return None
    return record.summary(written=0)


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

    def summary(self, written: int) -> Unpacked:
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
        return {name for name in self.names if self._is_intact(name)}

    def _is_intact(self, name: str) -> bool:
        path = self.root / name
        if any(folder.is_symlink() for folder in self._folders_of(name)):
            return False
        if name in self.links:
            return path.is_symlink() and str(path.readlink()) == self.links[name]
        size, sha256 = self.files[name]
        if path.is_symlink() or not path.is_file() or path.stat().st_size != size:
            return False
        return sha256_of(path) == sha256

    def _folders_of(self, name: str) -> Iterator[Path]:
        parts = name.split("/")
        return (self.root.joinpath(*parts[:depth]) for depth in range(1, len(parts)))

    def make_folders(self, name: str) -> None:
        """Make the folders on the way to a member, each a real one."""
        for folder in self._folders_of(name):
            if folder.is_symlink():
                raise UnsafeFileError(
                    f"{self.archive}: would write through the symbolic link {folder}; "
                    f"only {self.root} itself and what is above may be links"
                )
            with self._writing(folder):
                folder.mkdir(exist_ok=True)

    def write(self, member: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        """Write a file or link whole, with the permissions of any new file."""
        path = self.root / member.name
        if member.issym():
            beside = path.with_name(f".{path.name}.link.partial")
            with self._writing(path), contextlib.ExitStack() as stack:
                beside.unlink(missing_ok=True)
                beside.symlink_to(member.linkname)
                stack.callback(beside.unlink, missing_ok=True)
                beside.replace(path)
            self.links[member.name] = member.linkname
            return
        if member.size > (free := shutil.disk_usage(self.root).free):
            raise DataError(
                f"{self.archive}: {path} needs {member.size} bytes, {free} are free there; "
                "make room and start again: what is unpacked stays"
            )
        digest = hashlib.sha256()
        with self._writing(path), atomic_writer(path) as file, contextlib.ExitStack() as stack:
            if member.islnk():
                content = stack.enter_context((self.root / member.linkname).open("rb"))
            for block in _blocks(self.archive, member, content):
                digest.update(block)
                file.write(block)
        self.files[member.name] = member.size, digest.hexdigest()
        if time.monotonic() - self.saved > MARKER_SECONDS:
            self.save()

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (IsADirectoryError, FileExistsError, NotADirectoryError) as error:
            reason = "something else is in its place; move that away and start again"
            raise DataError(f"{self.archive}: {path} cannot be unpacked, {reason}") from error
        except OSError as error:
            raise DataError(
                f"{self.archive}: {path} cannot be written: {error.strerror}; fix that and start "
                "again: what is unpacked stays"
            ) from error

    def check_link(self, name: str) -> None:
        """Remove and refuse a link that leads out of the folder or in a circle, once all is there.

        The archive alone cannot make one that leads out (see `_Judge.check_link`), but together
        with links that were here before it could.
        """
        path, reason = self.root / name, ""
        try:
            path.stat()
        except OSError as error:  # one that leads nowhere does no harm
            reason = "is a link in a circle" if error.errno == errno.ELOOP else ""
        if not reason and not path.resolve().is_relative_to(self.root):
            reason = f"is a link that leads out of {self.root}"
        if reason:
            path.unlink()
            raise UnsafeFileError(f"{self.archive} is refused: member {shown(name)} {reason}")


@dataclass
class _Judge:
    """Decides on each header of one archive, in order, and on the bytes of all."""

    archive: Path
    prefix: str
    limits: Limits
    reserved: str = ""
    """The beginning of names that are taken."""
    seen: dict[str, int | None] = field(default_factory=dict)
    """Size of a file, -1 for a link, None for a folder, parents included."""
    members: int = 0
    bytes: int = 0
    left_out: int = 0

    def refuse(self, name: str, reason: str) -> UnsafeFileError:
        return UnsafeFileError(f"{self.archive} is refused: member {shown(name)} {reason}")

    def count(self, size: int, packed: int) -> None:
        """Count bytes to read or write, after `packed` bytes of the archive."""
        self.bytes += size
        limits, unpacked = self.limits, f"{self.archive} is refused: it unpacks to more than"
        if self.bytes > limits.max_bytes:
            raise UnsafeFileError(f"{unpacked} {limits.max_bytes} bytes")
        if self.bytes > max(RATIO_MATTERS_FROM, limits.max_ratio * packed):
            raise UnsafeFileError(f"{unpacked} {limits.max_ratio:g} times as many bytes")

    def member(self, header: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """Return the header with its names below the prefix; None for one to skip."""
        self.members += 1
        if self.members > self.limits.max_members:
            raise self.refuse(header.name, f"is one of more than {self.limits.max_members} members")
        parts, top = self.parts(header, header.name), self.prefix.strip("/").split("/")
        if any(part in LEFT_OUT or part.startswith("._") for part in parts):
            self.left_out += 1
            return None
        if header.isdir() and parts == top[: len(parts)]:
            return None  # the folders above, down to that of the prefix itself
        name, target, size = self.below(header, parts), "", header.size if header.isreg() else 0
        if header.issparse() or not 0 <= header.size <= self.limits.max_bytes:
            raise self.refuse(header.name, "is a file with holes or of an impossible size")
        if self.reserved and name.startswith(self.reserved):
            raise self.refuse(header.name, "has the name of the archive or of a record of it")
        if name in self.seen and not (header.isdir() and self.seen[name] is None):
            raise self.refuse(header.name, "occurs twice")
        folders = name.split("/")[:-1]
        for depth in range(1, len(folders) + 1):
            if self.seen.setdefault("/".join(folders[:depth]), None) is not None:
                raise self.refuse(header.name, "is below something that is not a folder")
        if header.issym():
            target = self.check_link(header, name)
        elif header.islnk():
            target = self.below(header, self.parts(header, header.linkname))
            size = self.seen.get(target) or 0
            if (self.seen.get(target, -1) or 0) < 0 or self.seen[target] is None:
                raise self.refuse(header.name, "is a hard link to no file before it")
        try:
            member = header.replace(name=name, linkname=target, deep=False)
            tarfile.data_filter(member, "/nonexistent")  # as if its place were empty
        except tarfile.FilterError as error:  # a device, a pipe
            reason = f"is a device, pipe or otherwise unsafe ({type(error).__name__})"
            raise self.refuse(header.name, reason) from None
        self.seen[name] = None if header.isdir() else -1 if header.issym() else size
        member.size = size
        return member

    def parts(self, header: tarfile.TarInfo, name: str) -> list[str]:
        """Split a name at its slashes; refuses what is no plain relative name."""
        self.check_text(header, name)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            raise self.refuse(header.name, "has an absolute path or '..' in it")
        longest = max((len(part.encode()) for part in parts), default=0)
        if longest > LONGEST_PART or len(parts) > self.limits.max_depth:
            raise self.refuse(header.name, "has too long a name")
        return parts

    def check_text(self, header: tarfile.TarInfo, text: str) -> None:
        if not text.isprintable():  # lone surrogates, for names that are not UTF-8, are not either
            reason = "has a name that is not UTF-8 or holds control characters"
            raise self.refuse(header.name, reason)
        if len(text.encode()) > self.limits.max_name_bytes:
            raise self.refuse(header.name, "has too long a name")

    def below(self, header: tarfile.TarInfo, parts: list[str]) -> str:
        """Return the part of a name below the prefix."""
        top = self.prefix.strip("/").split("/")
        if parts[: len(top)] != top or not parts[len(top) :]:
            raise self.refuse(header.name, f"is not below {self.prefix}")
        return "/".join(parts[len(top) :])

    def check_link(self, header: tarfile.TarInfo, name: str) -> str:
        """Return the target of a link when it must be inside; refuses all others.

        It may climb (`../..`) only at its beginning and not above the prefix: all parents of a link
        are real folders, so climbing is exact, and the rest goes down, through other links at most,
        for which the same holds.
        """
        target = header.linkname
        self.check_text(header, target)
        steps = target.split("/")
        climbs = next((i for i, step in enumerate(steps) if step != ".."), len(steps))
        if not steps[0] or ".." in steps[climbs:] or climbs > name.count("/"):
            raise self.refuse(header.name, f"is a link to {shown(target)}, outside the place")
        return target


class _Inflated:
    """The unpacked byte stream of an archive, counted by its judge."""

    def __init__(self, raw: BinaryIO, judge: _Judge) -> None:
        self.raw, self.judge, self.end = raw, judge, b""
        self.stream = gzip.GzipFile(fileobj=raw, mode="rb")
        if self.stream.peek(2)[:2] == GZIP_START:  # some servers compress it once more
            self.stream = gzip.GzipFile(fileobj=self.stream, mode="rb")

    def read(self, size: int = BLOCK) -> bytes:
        block = self.stream.read(min(size, BLOCK))
        self.judge.count(len(block), self.raw.tell())
        self.end = (self.end + block)[-END:]
        return block


class _StrictInfo(tarfile.TarInfo):
    """A header; tarfile takes a broken one after the first for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise ValueError(str(error)) from error


def _members(judge: _Judge) -> Iterator[Member]:
    """Yield the members below the prefix, in order; refuses the archive at the first bad one."""
    archive = judge.archive
    with archive.open("rb") as raw, _damage_named(archive):
        inflated = _Inflated(raw, judge)
        tar = tarfile.open(fileobj=inflated, mode="r|", bufsize=BLOCK, tarinfo=_StrictInfo)  # type: ignore[call-overload]  # noqa: SIM115
        with byte_bar(f"reading {archive.name}", archive.stat().st_size) as bar:
            while (header := tar.next()) is not None:
                bar.update(raw.tell() - bar.n)
                if (member := judge.member(header)) is not None:
                    judge.count(member.size if member.islnk() else 0, raw.tell())
                    yield member, tar.extractfile(header) if header.isreg() else None
            while inflated.read():
                pass  # to the end, where the checksum of the whole is
        if inflated.end.strip(b"\0") or len(inflated.end) < END:
            raise EOFError("it does not end as archives do")
        if all(size is None for size in judge.seen.values()):
            raise DataError(f"{archive} holds no file below {judge.prefix}; is it the right one?")
    if judge.left_out:
        logger.warning("%s: left out %d members that macOS added", archive, judge.left_out)


def _blocks(archive: Path, member: tarfile.TarInfo, content: IO[bytes] | None) -> Iterator[bytes]:
    """Yield the content of a file, once."""
    left = member.size
    with _damage_named(archive):
        while content is not None and (block := content.read(BLOCK)):
            left -= len(block)
            yield block
        if content is not None and left:
            raise EOFError(f"{left} bytes of {member.name} are missing")


@contextlib.contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    """Turn whatever the libraries raise for a damaged archive into an error that names it."""
    try:
        yield
    except DataError:
        raise
    except (MemoryError, RecursionError):
        raise UnsafeFileError(f"{archive} is refused: its headers ask for too much") from None
    except Exception as error:
        reason = other_kind(archive, "gzip") or (
            f"is damaged, incomplete or no .tar.gz at all ({printable(str(error), 100)}); "
            "fetch it again"
        )
        raise DataError(f"{archive} {reason}") from error
