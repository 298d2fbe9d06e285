"""Name what a file is by its first bytes, where it is not what its name promises."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

HEAD = 1024
REMEDIES: Final = {
    "page": "is an HTML page, not a {wanted}: the server sent an error or a login page; fetch the "
    "file itself again",
    "lfs": "is a Git LFS pointer, not the {wanted} itself; fetch that with: git lfs pull",
    "gzip": "is compressed with gzip; unpack it first: gunzip < FILE > NEW_FILE",
    "bzip2": "is compressed with bzip2; unpack it first: bunzip2 < FILE > NEW_FILE",
    "xz": "is compressed with xz; unpack it first: unxz < FILE > NEW_FILE",
    "hdf5": "is an HDF5 file (as .hickle files are), not a {wanted}; give it its own suffix",
    "checkpoint": "is a zip archive (as PyTorch's checkpoints are), not a {wanted}",
    "numpy": "is a .npy file of numpy, not a {wanted}; features are read from .hickle and .pkl",
    "pickle": "is a pickle, not a {wanted}; give it its own suffix",
    "tar": "is a tar archive, not a {wanted}; unpack it first: tar -xf FILE",
    "json": "is text (JSON), not a {wanted}",
}
MAGIC: Final = (
    (b"version https://git-lfs", "lfs"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"PK\x03\x04", "checkpoint"),
    (b"\x93NUMPY", "numpy"),
)
PAGES: Final = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--")
WANTED: Final = {"hdf5": "hickle file", "gzip": "packed archive (.tar.gz)"}


def kind_of(head: bytes) -> str | None:
    """Return the kind of file that begins like this, None when it is not known."""
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return kind
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(PAGES):
        return "page"
    if head[257:262] == b"ustar":
        return "tar"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    return "json" if start[:1] == b"{" and b'"' in start[:20] else None


def unlike(found: str, wanted: str) -> str:
    """Return the end of a message about a file of one kind in place of another, with the remedy."""
    return REMEDIES[found].format(wanted=WANTED.get(wanted, wanted))


def other_kind(path: str | Path, expected: str) -> str | None:
    """Return what a file is instead of an `expected` kind, and the remedy; None when unknown."""
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        found = kind_of(file.read(HEAD))
        if found not in (None, expected):
            return unlike(str(found), expected)
    return None
