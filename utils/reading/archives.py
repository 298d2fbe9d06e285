"""Read an untrusted .tar.gz as a stream: only plain files and inner links, only below one folder.

Each member passes tarfile's data filter and a check of our own (the filter of older Pythons has
known holes); bytes and members are bounded.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from utils.errors import DataError, UnsafeFileError
from utils.progress import byte_bar
from utils.reading.kinds import other_kind
from utils.shown import printable, shown

logger = logging.getLogger(__name__)

MOST_BYTES, MOST_MEMBERS = 256 << 30, 10_000
"""Far above those of published archives: 6 GB, some hundred files."""
LARGEST_RATIO, RATIO_MATTERS_FROM = 100, 64 << 20
"""Times the archive's size; bytes, because small archives of constant features compress well."""
LONGEST_NAME, LONGEST_PART, DEEPEST = 1024, 200, 32
"""Bytes of a name, bytes between its slashes (file systems take 255), and parts of it."""
BLOCK = 1 << 20
END = 1024
"""Zero bytes at the end of every tar archive."""
GZIP_START = b"\x1f\x8b"
LEFT_OUT = ("__MACOSX", ".DS_Store")
"""Members that macOS adds, besides those that begin with `._`."""
FOLDER, LINK = -1, -2
"""In place of a size."""
TARGET = "is a link whose target "


def check_archive(archive: Path, *, prefix: str = "data/") -> None:
    """Read and judge an archive to its end as `unpack` would, but write nothing."""
    source = Archive(archive, prefix)
    for _, content in source.members():
        for _ in source.blocks(content):
            pass


@dataclass
class Archive:
    """One archive as a stream of members: judges each header in order, and counts the bytes."""

    path: Path
    prefix: str
    reserved: str | None = None
    """The beginning of names that are taken."""
    seen: dict[str, int] = field(default_factory=dict)
    """Size of each file, FOLDER (parents included) or LINK."""
    read_members: int = 0
    read_bytes: int = 0
    left_out: int = 0
    end: bytes = b""
    packed: BinaryIO = field(init=False)
    unpacked: gzip.GzipFile = field(init=False)

    def members(self) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
        """Yield (header, content of a plain file), names below the prefix, hard links with a size.

        Raises UnsafeFileError at the first member that asks for more than a file below the prefix,
        DataError for a damaged archive.
        """
        with self.path.open("rb") as self.packed, self.damage_named():
            self.unpacked = _unzipped(self.packed)
            tar = tarfile.open(fileobj=self, mode="r|", bufsize=BLOCK, tarinfo=_StrictInfo)  # type: ignore[call-overload]  # noqa: SIM115
            with byte_bar(f"reading {self.path.name}", self.path.stat().st_size) as bar:
                while (header := tar.next()) is not None:
                    bar.update(self.packed.tell() - bar.n)
                    if (member := self.judge(header)) is not None:
                        yield member, tar.extractfile(header) if header.isreg() else None
                while self.read():
                    pass  # to the end, where the checksum of the whole is
            if self.end.strip(b"\0") or len(self.end) < END:
                raise EOFError("it does not end as archives do")
            if all(size == FOLDER for size in self.seen.values()):
                raise DataError(
                    f"{self.path} holds no file below {self.prefix}; is it the right one?"
                )
        if self.left_out:
            logger.warning("%s: left out %d members that macOS added", self.path, self.left_out)

    def read(self, size: int = BLOCK) -> bytes:
        """Return the next unpacked bytes, for tarfile."""
        block = self.unpacked.read(min(size, BLOCK))
        self.count(len(block))
        self.end = (self.end + block)[-END:]
        return block

    def count(self, size: int) -> None:
        """Count bytes to read or write."""
        self.read_bytes += size
        if self.read_bytes > MOST_BYTES:
            raise self.refused(f"it unpacks to more than {MOST_BYTES} bytes")
        if self.read_bytes > max(RATIO_MATTERS_FROM, LARGEST_RATIO * self.packed.tell()):
            raise self.refused(f"it unpacks to more than {LARGEST_RATIO} times as many bytes")

    def judge(self, header: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """Return the header with its names below the prefix; None for one to skip."""
        self.read_members += 1
        if self.read_members > MOST_MEMBERS:
            raise self.refused_member(header, f"is one of more than {MOST_MEMBERS} members")
        parts, top = self.parts(header, header.name), self.prefix.strip("/").split("/")
        if any(part in LEFT_OUT or part.startswith("._") for part in parts):
            self.left_out += 1
            return None
        if header.isdir() and parts == top[: len(parts)]:
            return None  # the folders above, down to that of the prefix itself
        name, target = self.below(header, header.name), ""
        size = FOLDER if header.isdir() else LINK if header.issym() else header.size
        if header.issparse() or not 0 <= header.size <= MOST_BYTES:
            raise self.refused_member(header, "is a file with holes or of an impossible size")
        if self.reserved and name.startswith(self.reserved):
            raise self.refused_member(header, "has the name of the archive or of a record of it")
        if name in self.seen and not size == self.seen[name] == FOLDER:
            raise self.refused_member(header, "occurs twice")
        for parent in list(Path(name).parents)[:-1]:
            if self.seen.setdefault(parent.as_posix(), FOLDER) != FOLDER:
                raise self.refused_member(header, "is below something that is not a folder")
        if header.issym():
            target = self.inner_target(header, name)
        elif header.islnk():
            target = self.below(header, header.linkname, TARGET)
            size = self.seen.get(target, LINK)
            if size < 0:
                raise self.refused_member(header, "is a hard link to no file before it")
            self.count(size)
        member = header.replace(name=name, linkname=target, deep=False)
        try:
            tarfile.data_filter(member, "/nonexistent")  # as if its place were empty
        except tarfile.FilterError as error:
            reason = f"is a device, pipe or otherwise unsafe ({type(error).__name__})"
            raise self.refused_member(header, reason) from None
        self.seen[name], member.size = size, max(size, 0)
        return member

    def refused(self, reason: str) -> UnsafeFileError:
        return UnsafeFileError(f"{self.path} is refused: {reason}")

    def refused_member(self, header: tarfile.TarInfo, reason: str) -> UnsafeFileError:
        return self.refused(f"member {shown(header.name)} {reason}")

    def parts(self, header: tarfile.TarInfo, name: str, role: str = "") -> list[str]:
        """Split the name of a member or a link's target; refuses any but a plain relative one."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        reason = ""
        if not name.isprintable():  # lone surrogates, for names that are not UTF-8, are not either
            reason = "has control characters or no UTF-8 in its name"
        elif name.startswith("/") or ".." in parts:
            reason = "has an absolute path or '..' in it"
        elif (
            len(name.encode()) > LONGEST_NAME
            or len(parts) > DEEPEST
            or any(len(part.encode()) > LONGEST_PART for part in parts)
        ):
            reason = "has too long a name"
        if reason:
            raise self.refused_member(header, role + reason)
        return parts

    def below(self, header: tarfile.TarInfo, name: str, role: str = "") -> str:
        """Return the part of a name below the prefix; refuses one that has none."""
        parts, top = self.parts(header, name, role), self.prefix.strip("/").split("/")
        if parts[: len(top)] != top or len(parts) == len(top):
            raise self.refused_member(header, f"{role}is not below {self.prefix}")
        return "/".join(parts[len(top) :])

    def inner_target(self, header: tarfile.TarInfo, name: str) -> str:
        """Return the target of a link when it must be inside; refuses all others.

        It may climb (`../..`) only at its beginning and not above the prefix: all parents of a link
        are real folders, so climbing is exact, and the rest goes down, through other links at most,
        for which the same holds.
        """
        down, climbs = f"{header.linkname}/", 0
        while down.startswith("../"):
            down, climbs = down.removeprefix("../"), climbs + 1
        if climbs > name.count("/"):
            raise self.refused_member(header, f"{TARGET}is outside the place")
        self.parts(header, down, TARGET)
        return header.linkname

    def blocks(self, content: IO[bytes] | None) -> Iterator[bytes]:
        """Yield the content of a file, once."""
        with self.damage_named():
            while content is not None and (block := content.read(BLOCK)):
                yield block

    @contextlib.contextmanager
    def damage_named(self) -> Iterator[None]:
        """Turn whatever the libraries raise for a damaged archive into an error that names it."""
        try:
            yield
        except DataError:
            raise
        except (MemoryError, RecursionError):
            raise self.refused("its headers ask for too much") from None
        except Exception as error:
            reason = other_kind(self.path, "gzip") or (
                f"is damaged, incomplete or no .tar.gz at all ({printable(str(error), 100)}); "
                "fetch it again"
            )
            raise DataError(f"{self.path} {reason}") from error


def _unzipped(packed: BinaryIO) -> gzip.GzipFile:
    stream = gzip.GzipFile(fileobj=packed, mode="rb")
    if stream.peek(2)[:2] == GZIP_START:  # some servers compress it once more
        stream = gzip.GzipFile(fileobj=stream, mode="rb")
    return stream


class _StrictInfo(tarfile.TarInfo):
    """A header; tarfile takes a broken one after the first for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise ValueError(str(error)) from error
