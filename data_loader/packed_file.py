"""The packed file: arrays one after another, then a footer with the place of each.

    block | block | ... | footer (JSON) | sha256 of the footer | its length | magic

Everything is little-endian and blocks start at multiples of 64 bytes, so that a mapped file is used
in place. The first block is written as it comes (features larger than memory), the rest whole. The
footer holds a checksum of every block; those of the small blocks are checked whenever a file is
opened. The first one, which may be gigabytes, has a checksum for each piece of PIECE bytes in the
last block, `pieces`: `PackedFile.verify` checks a piece when it is used for the first time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from utils.errors import DataError
from utils.files import map_file, open_regular

logger = logging.getLogger(__name__)

MAGIC = b"\x89PACKED1"
ALIGNMENT = 64
PIECE = 1 << 16
"""Bytes of the first block that one checksum is of."""
TAIL = struct.Struct("<32sQ8s")
FOOTER_LIMIT = 1 << 20
DTYPES = {np.dtype(d).str: np.dtype(d) for d in ("<f2", "<f4", "<i8", "|u1")}


class PackedWriter:
    """Write one packed file: `extend` the first block, `add` the others, then `finish`."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self._position = 0
        self._blocks: list[dict[str, Any]] = []
        self._pieces: list[int] = []
        self._piece, self._filled = 0, 0

    def extend(self, name: str, rows: np.ndarray) -> None:
        """Append rows (n, ...) to the first block; their dtype and width stay the same."""
        if not self._blocks:
            self._start(name, rows)
        block = self._blocks[0]
        if (name, rows.dtype.str) != (block["name"], block["dtype"]) or list(
            rows.shape[1:]
        ) != block["shape"][1:]:
            raise ValueError(f"block {block} cannot take {name} {rows.dtype} {rows.shape}")
        self._append(block, rows)

    def add(self, name: str, array: np.ndarray) -> None:
        """Write a whole block."""
        self._append(self._start(name, array), array)

    def finish(self, header: dict[str, Any]) -> None:
        """Write the footer; `header` describes the file, in plain JSON types."""
        if self._filled:
            self._pieces.append(self._piece)
        self.add("pieces", np.array(self._pieces, np.int64))
        footer = json.dumps({"header": header, "blocks": self._blocks}).encode()
        self._write(footer)
        self._write(TAIL.pack(hashlib.sha256(footer).digest(), len(footer), MAGIC))

    def _start(self, name: str, array: np.ndarray) -> dict[str, Any]:
        self._write(bytes(-self._position % ALIGNMENT))
        block = {
            "name": name,
            "dtype": DTYPES[array.dtype.str].str,
            "shape": [0, *array.shape[1:]],
            "start": self._position,
            "crc32": 0,
        }
        self._blocks.append(block)
        return block

    def _append(self, block: dict[str, Any], rows: np.ndarray) -> None:
        data = _bytes_of(np.ascontiguousarray(rows))
        self._write(data)
        block["shape"][0] += len(rows)
        block["crc32"] = zlib.crc32(data, block["crc32"])
        if block is self._blocks[0]:
            self._sum_pieces(data)

    def _sum_pieces(self, data: memoryview) -> None:
        while data:
            part = data[: PIECE - self._filled]
            self._piece = zlib.crc32(part, self._piece)
            self._filled += len(part)
            if self._filled == PIECE:
                self._pieces.append(self._piece)
                self._piece, self._filled = 0, 0
            data = data[len(part) :]

    def _write(self, data: bytes | memoryview) -> None:
        self._sink.write(data)
        self._position += len(data)


@dataclass
class PackedFile:
    """An opened packed file: its arrays (views of the mapped file or of memory) and its header."""

    header: dict[str, Any]
    arrays: dict[str, np.ndarray]
    checksums: dict[str, int]
    path: Path | None = None
    """None: in memory."""
    map: mmap.mmap | None = None
    repack: Callable[[IO[bytes]], None] | None = None
    """Writes the file anew from its source."""
    _block: memoryview = field(init=False, repr=False)
    _unchecked: np.ndarray = field(init=False, repr=False)
    """(pieces + 1,): how many pieces before each one were not checked yet."""

    def __post_init__(self) -> None:
        first = next(iter(self.arrays.values()))
        self._block = _bytes_of(first)
        self._unchecked = np.arange(len(self.arrays["pieces"]) + 1)

    def require_whole(self) -> None:
        """Raise DataError when the file was cut short: reading on would end the process."""
        if self.map is None:
            return
        try:
            size = self.map.size()
        except OSError:  # read, because files cannot be mapped here
            return
        if size < len(self.map):
            raise DataError(
                f"{self.path}: was cut short to {size} of {len(self.map)} bytes while in use; "
                "start again: it is then packed anew"
            )

    def verify(self, begins: np.ndarray, ends: np.ndarray) -> None:
        """Check bytes begins[i] : ends[i] (n,) of the first block, where they were not yet.

        What is damaged is mended from the source, with a warning; DataError when it cannot be.
        """
        firsts, lasts = begins // PIECE, -(-ends // PIECE)
        there = ends > begins
        fresh = there & (self._unchecked[lasts * there] > self._unchecked[firsts * there])
        if not fresh.any():
            return
        left = np.diff(self._unchecked)
        pairs = zip(firsts[fresh].tolist(), lasts[fresh].tolist(), strict=True)
        pieces = {n for first, last in pairs for n in range(first, last) if left[n]}
        if damaged := [piece for piece in sorted(pieces) if not self._is_intact(piece)]:
            self._mend(damaged)
        left[list(pieces)] = 0
        self._unchecked = np.concatenate([[0], np.cumsum(left)])

    def verify_all(self) -> None:
        """Check the whole first block, where it was not yet."""
        self.verify(np.array([0]), np.array([len(self._block)]))

    def _is_intact(self, piece: int) -> bool:
        content = self._block[piece * PIECE : (piece + 1) * PIECE]
        return zlib.crc32(content) == int(self.arrays["pieces"][piece])

    def _mend(self, damaged: list[int]) -> None:
        problem = f"{self.path}: {len(damaged)} pieces of {PIECE} bytes have changed on the disk"
        remedy = f"remove {self.path} and start again: it is then packed anew"
        if self.path is None or self.map is None or self.repack is None:
            raise DataError(f"{problem}; {remedy}")
        logger.warning("%s; packing its source again to mend them", problem)
        try:
            with tempfile.TemporaryFile(dir=self.path.parent) as anew:
                self.repack(anew)
                anew.flush()
                handle = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    for piece in damaged:
                        size = min(PIECE, len(self._block) - piece * PIECE)
                        content = os.pread(anew.fileno(), size, piece * PIECE)
                        os.pwrite(handle, content, piece * PIECE)  # where all maps see it
                finally:
                    os.close(handle)
        except OSError as error:
            raise DataError(f"{problem}; mending it failed ({error.strerror}); {remedy}") from error
        if not all(map(self._is_intact, damaged)):
            raise DataError(f"{problem}, and cannot be mended from its source; {remedy}")

    def will_need(self, begins: np.ndarray, ends: np.ndarray) -> None:
        """Let the system read bytes begins[i] : ends[i] (n,) of the first block, all at once.

        Otherwise it would read them when they are used, one page after another.
        """
        if self.map is None:
            return
        firsts = begins // mmap.PAGESIZE * mmap.PAGESIZE
        advise = self.map.madvise
        for first, length in zip(firsts.tolist(), (ends - firsts).tolist(), strict=True):
            advise(mmap.MADV_WILLNEED, first, length)

    def will_need_all(self) -> None:
        """Let the system read the whole file ahead from now on, in its order."""
        if self.map is not None:
            self.map.madvise(mmap.MADV_SEQUENTIAL)

    def damaged_block(self) -> str | None:
        """Read everything and return the name of the first block that is not what was written."""
        return _first_damaged(self.arrays, self.checksums, self.arrays)


def map_packed(path: Path) -> PackedFile:
    """Open a packed file without reading its features; its arrays are read-only.

    Raises DataError when the file is not whole.
    """
    with open_regular(path) as file:
        if file.seek(0, os.SEEK_END) < TAIL.size:
            raise DataError(f"{path}: is not a packed file (too short)")
        mapped = map_file(file)
    packed = open_packed(np.frombuffer(mapped, np.uint8), str(path))
    # Clips come in random order. By default the system reads megabytes around each of them, most
    # of which are not wanted before they are dropped again when a file is larger than memory.
    mapped.madvise(mmap.MADV_RANDOM)
    packed.path, packed.map = path, mapped
    return packed


def open_packed(buffer: np.ndarray, where: str) -> PackedFile:
    """Read the footer of a packed file in `buffer` (n,) bytes; raises DataError."""
    try:
        footer, limit = _read_footer(buffer)
        arrays: dict[str, np.ndarray] = {}
        checksums = {}
        for block in footer["blocks"]:
            arrays[block["name"]] = _view(buffer, block, limit)
            checksums[block["name"]] = block["crc32"]
        header = footer["header"]
        if not isinstance(header, dict) or len(arrays) != len(footer["blocks"]):
            raise ValueError("its footer is malformed")
        if "pieces" not in arrays:
            raise ValueError("it was packed by an older version")
        size = next(iter(arrays.values())).nbytes
        if arrays["pieces"].dtype != np.int64 or arrays["pieces"].shape != (-(-size // PIECE),):
            raise ValueError("its checksums do not fit its first block")
        damaged = _first_damaged(arrays, checksums, list(arrays)[1:])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise DataError(f"{where}: is not a whole packed file ({error})") from error
    if damaged is not None:
        raise DataError(f"{where}: is not a whole packed file (block {damaged!r} is damaged)")
    return PackedFile(header, arrays, checksums)


def encode_names(names: list[str]) -> np.ndarray:
    """Return strings as one array of bytes (n,)."""
    return np.frombuffer(json.dumps(names).encode(), dtype=np.uint8)


def decode_names(array: np.ndarray) -> list[str]:
    """Return the strings of `encode_names`; raises DataError when they are something else."""
    try:
        names = json.loads(array.tobytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"a packed file's names are malformed ({error})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError("a packed file's names are malformed")
    return names


def _read_footer(buffer: np.ndarray) -> tuple[dict[str, Any], int]:
    digest, length, magic = TAIL.unpack(buffer[-TAIL.size :].tobytes())
    if magic != MAGIC:
        raise ValueError("its end is missing")
    if length > min(FOOTER_LIMIT, len(buffer) - TAIL.size):
        raise ValueError("its footer is too long")
    limit = len(buffer) - TAIL.size - length
    footer = buffer[limit : limit + length].tobytes()
    if hashlib.sha256(footer).digest() != digest:
        raise ValueError("its footer is damaged")
    return json.loads(footer), limit


def _view(buffer: np.ndarray, block: dict[str, Any], limit: int) -> np.ndarray:
    """Return one block as an array, after checking that it is inside the file."""
    dtype, shape, start = DTYPES[block["dtype"]], block["shape"], block["start"]
    numbers = [*shape, start, block["crc32"]]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a block has an impossible size")
    end = start + math.prod(shape) * dtype.itemsize
    if end > limit or start % ALIGNMENT:
        raise ValueError("a block is outside the file")
    return buffer[start:end].view(dtype).reshape(shape)


def _first_damaged(
    arrays: dict[str, np.ndarray], checksums: dict[str, int], names: Iterable[str]
) -> str | None:
    for name in names:
        if zlib.crc32(_bytes_of(arrays[name])) != checksums[name]:
            return name
    return None


def _bytes_of(array: np.ndarray) -> memoryview:
    """Return the bytes of a contiguous array, not copied."""
    return array.reshape(-1).view(np.uint8).data
