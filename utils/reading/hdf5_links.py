"""Where the links of a large HDF5 group lie, in the form that came with HDF5 1.8.

A tree of records <version 2 B-tree> names the place of each link in a heap <fractal heap>, whose
blocks double in size row by row. Terms in angle brackets: HDF5 File Format Specification 3.0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from utils.errors import DataError, UnsafeFileError
from utils.reading.hdf5_bytes import NOWHERE, CheckedBytes

LINKS_BY_NAME = 5
RECORD = 11
ID_IN_RECORD = 4  # behind the hash of the name
NODE_FRAME = 10  # bytes of a node besides its records
DEEPEST = 16

TREE_HEADER = struct.Struct("<4sBBIHHBBQH")
HEAP_HEADER = struct.Struct("<4sBHHBI96xHQQHHQH")


def stored_links(file: CheckedBytes, heap: int, tree: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each link message of a group."""
    blocks = _Heap(file, heap)
    for record in _records(file, tree):
        yield blocks.locate(file.raw(record + ID_IN_RECORD, RECORD - ID_IN_RECORD))


def _records(file: CheckedBytes, tree: int) -> Iterator[int]:
    """Yield where each record of a tree lies."""
    file.expect(tree, b"BTHD")
    _, _, kind, node_size, record_size, depth, _, _, root, count = file.take(TREE_HEADER, tree)
    if kind != LINKS_BY_NAME or record_size != RECORD or depth > DEEPEST or node_size < 64:
        raise DataError(f"is damaged: no index of links at byte {tree}")
    most = (node_size - NODE_FRAME) // record_size
    count_width = _width_of(most)
    widths = [0]  # bytes of the total below a child, by its height
    total = most
    for _ in range(depth):
        pointer = 8 + count_width + widths[-1]
        here = (node_size - NODE_FRAME - pointer) // (record_size + pointer)
        total = (here + 1) * total + here
        widths.append(_width_of(total))
    if root != NOWHERE:
        yield from _node_records(file, root, count, depth, count_width, widths)


def _node_records(
    file: CheckedBytes, node: int, count: int, depth: int, count_width: int, widths: list[int]
) -> Iterator[int]:
    file.expect(node, b"BTIN" if depth else b"BTLF")
    pointers = node + 6 + RECORD * count
    for i in range(count + 1):
        if depth:
            at = pointers + i * (8 + count_width + widths[depth - 1])
            child, child_count = file.number(at, 8), file.number(at + 8, count_width)
            yield from _node_records(file, child, child_count, depth - 1, count_width, widths)
        if i < count:
            file.step()
            yield node + 6 + RECORD * i


class _Heap:
    """Finds objects by their ids: offset and length in a space that the blocks cover."""

    def __init__(self, file: CheckedBytes, address: int) -> None:
        file.expect(address, b"FRHP")
        (
            _,
            version,
            _,
            filters,
            _,
            largest,
            self.width,
            self.first,
            direct,
            bits,
            _,
            root,
            rows,
        ) = file.take(HEAP_HEADER, address)
        if version != 0 or filters or not 0 < bits <= 64 or not self.width or not self.first:
            raise DataError("stores its links in a form that is not supported")
        self.file, self.root, self.rows, self.direct = file, root, rows, direct
        self.offset_width = -(-bits // 8)
        self.length_width = min(-(-(direct.bit_length() - 1) // 8), _width_of(largest))

    def locate(self, identity: bytes) -> tuple[int, int]:
        """Return (start, end) of an object."""
        if identity[0] & 0xF0:
            raise UnsafeFileError("stores its links in an unusual way")
        end = 1 + self.offset_width
        offset = int.from_bytes(identity[1:end], "little")
        length = int.from_bytes(identity[end : end + self.length_width], "little")
        block, size, rows = self.root, self.first, self.rows
        while rows:
            block, size, offset = self._child(block, rows, offset)
            rows = 0 if size <= self.direct else (size // (self.first * self.width)).bit_length()
        self.file.expect(block, b"FHDB")
        if offset + length > size:
            raise DataError("is damaged: a link is longer than its place")
        self.file.view(block + offset, length)
        return block + offset, block + offset + length

    def _child(self, block: int, rows: int, offset: int) -> tuple[int, int, int]:
        """Return (address, size, offset inside) of the block below that covers an offset."""
        self.file.expect(block, b"FHIB")
        row = (offset // (self.first * self.width)).bit_length()
        size = self.first << max(0, row - 1)
        column, inside = divmod(offset - (self.width * size if row else 0), size)
        if row >= rows:
            raise DataError("is damaged: a link lies outside its heap")
        at = block + 13 + self.offset_width + 8 * (row * self.width + column)
        return self.file.number(at, 8), size, inside


def _width_of(number: int) -> int:
    """Return the bytes that numbers up to `number` take."""
    return (max(1, number).bit_length() - 1) // 8 + 1
