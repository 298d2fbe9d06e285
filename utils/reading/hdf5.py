"""Read the part of HDF5 that feature files use, without trusting a byte of it.

The HDF5 library follows circles in damaged files for ever and unpacks without limit, so untrusted
files are not handed to it. What is read here: groups, hard links, short texts as attributes, and
arrays of numbers, contiguous, compact or in chunks with gzip and shuffle, as written with the
library's settings "earliest" (the default for twenty years) and "v108". Terms in angle brackets
are those of the HDF5 File Format Specification, version 3.0.

Every position is checked against the file, every step is counted against the file's size.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from utils.errors import DataError, UnsafeFileError
from utils.reading.hdf5_bytes import NOWHERE, CheckedBytes
from utils.reading.hdf5_links import stored_links

SIGNATURE = b"\x89HDF\r\n\x1a\n"
LONGEST_TEXT = 256
MOST_DIMENSIONS = 8
TALLEST_TREE = 32

# Kinds of messages in an object header
DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES, LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE = 0x0B, 0x0C, 0x10, 0x11
SHAREABLE = (DATASPACE, DATATYPE, FILTERS, LAYOUT, ATTRIBUTE)

GZIP, SHUFFLE = 1, 2
COMPACT, CONTIGUOUS, CHUNKED, VIRTUAL = range(4)
INTEGER, FLOAT, TEXT, VARIABLE_LENGTH = 0, 1, 3, 9

UINT4, UINT8, TWO_UINT8, THREE_UINT8 = (struct.Struct(f) for f in ("<I", "<Q", "<QQ", "<QQQ"))
MESSAGE_V1, MESSAGE_V2 = struct.Struct("<HHBxxx"), struct.Struct("<BHB")
SYMBOL = struct.Struct("<QQI")
TREE_NODE = struct.Struct("<4sBBHQQ")
HEAP_OBJECT = struct.Struct("<HHxxxxQ")
ATTRIBUTE_SIZES = struct.Struct("<HHH")
HEAP_REFERENCE = struct.Struct("<IQI")
INTEGER_LAYOUT = struct.Struct("<HH")
FLOAT_LAYOUT = struct.Struct("<HHBBBBI")
FLOAT_LAYOUTS: Final = {  # size: place of the sign, then bit offset, ..., exponent bias
    2: (15, (0, 16, 10, 5, 0, 10, 15)),
    4: (31, (0, 32, 23, 8, 0, 23, 127)),
    8: (63, (0, 64, 52, 11, 0, 52, 1023)),
}


@dataclass(frozen=True)
class Node:
    """A group or dataset: the messages of its object header, as (kind, start, end)."""

    messages: list[tuple[int, int, int]]

    def first(self, kind: int) -> tuple[int, int] | None:
        """Return where the first message of a kind lies, None when there is none."""
        for found, start, end in self.messages:
            if found == kind:
                return start, end
        return None

    @property
    def is_group(self) -> bool:
        """Say whether it may have members."""
        return any(kind in (SYMBOL_TABLE, LINK_INFO, LINK) for kind, _, _ in self.messages)


class Hdf5File(CheckedBytes):
    """The groups, texts and arrays of one file."""

    def __init__(self, content: memoryview, *, ratio: int, free: int) -> None:
        super().__init__(content, ratio=ratio, free=free)
        self._heaps: dict[int, dict[int, int]] = {}
        self.root = self.node(self._root_address())

    # The walk through the file

    def node(self, address: int) -> Node:
        """Read the object header at an address."""
        if self.raw(address, 4) == b"OHDR":
            return Node(self._messages_v2(address))
        return Node(self._messages_v1(address))

    def members(self, group: Node) -> Iterator[tuple[bytes, int]]:
        """Yield (name, address) of what lies in a group; UnsafeFileError for links elsewhere."""
        for kind, start, end in group.messages:
            if kind == SYMBOL_TABLE:
                tree, heap = self.take(TWO_UINT8, start)
                yield from self._symbols(tree, heap)
            elif kind == LINK:
                yield self._link(start, end)
            elif kind == LINK_INFO:
                flags = self.number(start + 1, 1)
                heap, tree = self.take(TWO_UINT8, start + (10 if flags & 1 else 2))
                if heap != NOWHERE:
                    for first, last in stored_links(self, heap, tree):
                        yield self._link(first, last)

    def member(self, group: Node, wanted: bytes) -> Node | None:
        """Return one member of a group, None when there is none of that name."""
        for name, address in self.members(group):
            if name == wanted:
                return self.node(address)
        return None

    def text_attribute(self, node: Node, wanted: bytes) -> bytes | None:
        """Return an attribute that is one short text; None when absent or something else."""
        for kind, start, end in node.messages:
            if kind == ATTRIBUTE:
                name, form, space, value = self._attribute_parts(start, end)
                if name == wanted:
                    return self._text(form, space, value, end)
        return None

    def is_null(self, node: Node) -> bool:
        """Say whether a dataset holds nothing at all, not even an empty array."""
        space = node.first(DATASPACE)
        return (
            space is not None
            and self.raw(space[0], 1) == b"\2"
            and (self.number(space[0] + 3, 1) == 2)
        )

    def array(self, node: Node) -> np.ndarray:
        """Return the numbers of a dataset, read-only, in the machine's byte order."""
        space, form, layout = (node.first(kind) for kind in (DATASPACE, DATATYPE, LAYOUT))
        if node.first(EXTERNAL_FILES):
            raise UnsafeFileError("keeps its numbers in another file, which is not followed")
        if space is None or form is None or layout is None:
            raise DataError("is not an array")
        shape, dtype = self._shape(space[0]), self._dtype(form[0])
        size = math.prod(shape) * dtype.itemsize
        self.allow(size)
        content = self._stored(node, layout[0], shape, dtype, size)
        if isinstance(content, np.ndarray):
            return content
        flat = np.frombuffer(content, dtype) if size else np.empty(0, dtype)
        return _native(flat.reshape(shape))

    def _root_address(self) -> int:
        if self.raw(0, 8) != SIGNATURE:
            raise DataError("is not an HDF5 file")
        version = self.number(8, 1)
        if version < 2:
            sizes, base, root, driver = 13, 24 + 4 * version, 64 + 4 * version, 48 + 4 * version
            if self.take(UINT8, driver) != (NOWHERE,):
                raise UnsafeFileError("is only one part of a file in several parts")
        elif version < 4:
            sizes, base, root = 9, 12, 36
        else:
            raise DataError(f"is an HDF5 file of the unknown version {version}")
        if self.raw(sizes, 2) != b"\x08\x08" or self.take(UINT8, base) != (0,):
            raise DataError("is an HDF5 file of unusual address size or with a block in front")
        (address,) = self.take(UINT8, root)
        return int(address)

    # Object headers

    def _messages_v1(self, address: int) -> list[tuple[int, int, int]]:
        version, count = self.number(address, 1), self.number(address + 2, 2)
        if version != 1:
            raise DataError(f"is damaged: no object header at byte {address}")
        (length,) = self.take(UINT4, address + 8)
        blocks = [(address + 16, address + 16 + length)]
        messages: list[tuple[int, int, int]] = []
        while blocks:
            at, end = blocks.pop(0)
            while at + 8 <= end and count > 0:
                self.step()
                kind, size, flags = self.take(MESSAGE_V1, at)
                at += 8
                self._add_message(messages, blocks, (kind, at, at + size), end, flags)
                at += size
                count -= 1
        return messages

    def _messages_v2(self, address: int) -> list[tuple[int, int, int]]:
        version, flags = self.raw(address + 4, 2)
        if version != 2:
            raise DataError(f"is damaged: object header of version {version} at byte {address}")
        at = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        blocks = [(at + width, at + width + self.number(at, width))]
        header = 6 if flags & 0x04 else 4
        messages: list[tuple[int, int, int]] = []
        while blocks:
            at, end = blocks.pop(0)
            if messages:
                self.expect(at, b"OCHK")
                at, end = at + 4, end - 4
            while at + header <= end:
                self.step()
                kind, size, message_flags = self.take(MESSAGE_V2, at)
                at += header
                self._add_message(messages, blocks, (kind, at, at + size), end, message_flags)
                at += size
        return messages

    def _add_message(
        self,
        messages: list[tuple[int, int, int]],
        blocks: list[tuple[int, int]],
        message: tuple[int, int, int],
        end: int,
        flags: int,
    ) -> None:
        kind, start, last = message
        if last > end:
            raise DataError(f"is damaged: the message at byte {start} is longer than its header")
        if kind == CONTINUATION:
            where, length = self.take(TWO_UINT8, start)
            self.view(where, length)
            blocks.append((where, where + length))
        elif flags & 2 and kind in SHAREABLE:
            raise DataError("shares its description with other arrays, which is not supported")
        messages.append(message)

    # Groups

    def _symbols(self, tree: int, heap: int) -> Iterator[tuple[bytes, int]]:
        """Yield the members of a group of the old form."""
        self.expect(heap, b"HEAP")
        length, _, names = self.take(THREE_UINT8, heap + 8)
        self.view(names, length)
        for table in self._leaves(tree, kind=0, key=8):
            self.expect(table, b"SNOD")
            for at in range(table + 8, table + 8 + 40 * self.number(table + 6, 2), 40):
                self.step()
                offset, address, cached = self.take(SYMBOL, at)
                if cached == 2 or address == NOWHERE:
                    raise UnsafeFileError("holds a symbolic link, which is not followed")
                yield self._zero_ended(names + offset, names + length), address

    def _leaves(self, tree: int, kind: int, key: int) -> Iterator[int]:
        """Yield the children of the lowest nodes of a tree, left to right."""
        for _, child in self._entries(tree, kind, key, level=None):
            yield child

    def _entries(
        self, tree: int, kind: int, key: int, level: int | None
    ) -> Iterator[tuple[int, int]]:
        """Yield (position of the key, child) of the lowest nodes of a tree <version 1 B-tree>."""
        self.step()
        signature, found, height, count, _, _ = self.take(TREE_NODE, tree)
        if (
            signature != b"TREE"
            or found != kind
            or level not in (None, height)
            or height > TALLEST_TREE
        ):
            raise DataError(f"is damaged: no node of a tree at byte {tree}")
        for at in range(tree + 24, tree + 24 + count * (key + 8), key + 8):
            self.step()
            (child,) = self.take(UINT8, at + key)
            if height:
                yield from self._entries(child, kind, key, height - 1)
            else:
                yield at, child

    def _zero_ended(self, start: int, end: int) -> bytes:
        text = self.raw(start, min(end, start + 64) - start) if start < end else b""
        if b"\0" not in text:
            text = self.raw(start, max(0, end - start))
            self.step(len(text) // 64)
        name, zero, _ = text.partition(b"\0")
        if not zero:
            raise DataError(f"is damaged: the name at byte {start} has no end")
        return name

    def _link(self, start: int, end: int) -> tuple[bytes, int]:
        """Read a link of the new form <link message>."""
        version, flags = self.raw(start, 2)
        at = start + 2
        if version != 1:
            raise DataError(f"is damaged: link of version {version} at byte {start}")
        if flags & 8:
            if self.number(at, 1) != 0:
                raise UnsafeFileError("holds a link to another place, which is not followed")
            at += 1
        at += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
        width = 1 << (flags & 3)
        length = self.number(at, width)
        at += width
        if at + length + 8 > end:
            raise DataError(f"is damaged: the link at byte {start} is longer than its place")
        self.step(1 + length // 64)
        return self.raw(at, length), self.take(UINT8, at + length)[0]

    # Attributes

    def _attribute_parts(self, start: int, end: int) -> tuple[bytes, int, int, int]:
        """Return the name and where type, space and value lie <attribute message>."""
        version, flags = self.raw(start, 2)
        name, form, space = self.take(ATTRIBUTE_SIZES, start + 2)
        if version not in (1, 2, 3) or (version > 1 and flags & 3) or name > LONGEST_TEXT:
            return b"", 0, 0, 0
        at = start + (9 if version == 3 else 8)
        padded = [-(-n // 8) * 8 if version == 1 else n for n in (name, form, space)]
        if at + sum(padded) > end:
            raise DataError(f"is damaged: the attribute at byte {start} is longer than its place")
        form_at = at + padded[0]
        space_at = form_at + padded[1]
        return self.raw(at, name).rstrip(b"\0"), form_at, space_at, space_at + padded[2]

    def _text(self, form: int, space: int, value: int, end: int) -> bytes | None:
        if self._shape(space) != ():
            return None
        kind, bits, size = (
            self.number(form, 1) & 15,
            self.number(form + 1, 1),
            self.number(form + 4, 4),
        )
        if value + size > end:
            return None
        if kind == TEXT and size <= LONGEST_TEXT:
            return self.raw(value, size).rstrip(b"\0 ")
        if kind == VARIABLE_LENGTH and bits & 15 == 1 and size == 16:
            length, heap, index = self.take(HEAP_REFERENCE, value)
            return self._heap_text(heap, index, length)
        return None

    def _heap_text(self, heap: int, index: int, length: int) -> bytes | None:
        """Return a text of the global heap, whose parts are remembered: all clips use them."""
        if heap not in self._heaps:
            self._heaps[heap] = self._heap_objects(heap)
        at = self._heaps[heap].get(index)
        if at is None:
            return None
        _, _, size = self.take(HEAP_OBJECT, at)
        return self.raw(at + 16, length) if 0 < length <= min(size, LONGEST_TEXT) else None

    def _heap_objects(self, heap: int) -> dict[int, int]:
        """Return where each object of one part of the global heap begins, by its index."""
        self.expect(heap, b"GCOL")
        (length,) = self.take(UINT8, heap + 8)
        self.view(heap, length)
        objects = {}
        at = heap + 16
        while at + 16 <= heap + length:
            self.step()
            index, _, size = self.take(HEAP_OBJECT, at)
            if index == 0:
                break
            if at + 16 + size > heap + length:
                raise DataError(f"is damaged: the text at byte {at} is longer than its place")
            objects[index] = at
            at += 16 + -(-size // 8) * 8
        return objects

    # Arrays

    def _shape(self, at: int) -> tuple[int, ...]:
        version, rank = self.raw(at, 2)
        if version not in (1, 2) or rank > MOST_DIMENSIONS:
            raise DataError(f"has {rank} dimensions, described in form {version}")
        if version == 2 and self.number(at + 3, 1) == 2:
            raise DataError("is an array of nothing")
        form = struct.Struct(f"<{rank}Q")
        return self.take(form, at + (8 if version == 1 else 4))

    def _dtype(self, at: int) -> np.dtype:
        """Return the type of numbers that a datatype message describes, DataError for others."""
        kind, bits, high_bits = (
            self.number(at, 1) & 15,
            self.number(at + 1, 1),
            self.number(at + 2, 1),
        )
        size = self.number(at + 4, 4)
        order = ">" if bits & 1 else "<"
        if kind == INTEGER and size in (1, 2, 4, 8):
            if self.take(INTEGER_LAYOUT, at + 8) == (0, 8 * size):
                return np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}")
        elif kind == FLOAT and size in FLOAT_LAYOUTS:
            sign, expected = FLOAT_LAYOUTS[size]
            found = self.take(FLOAT_LAYOUT, at + 8)
            if (high_bits, found) == (sign, expected) and not bits & 0x40:
                return np.dtype(f"{order}f{size}")
        elif kind == TEXT and 0 < size <= LONGEST_TEXT:
            return np.dtype(f"S{size}")
        raise DataError("holds something other than plain numbers")

    def _stored(
        self, node: Node, at: int, shape: tuple[int, ...], dtype: np.dtype, size: int
    ) -> memoryview | np.ndarray:
        version, kind = self.raw(at, 2)
        if kind == VIRTUAL:
            raise UnsafeFileError("is a virtual dataset, put together from other places")
        if version not in (3, 4) or kind > VIRTUAL or (version, kind) == (4, CHUNKED):
            raise DataError(
                "is stored in a form of HDF5 that is not supported; write the file anew with "
                "h5repack --low=0 --high=0"
            )
        if kind == CHUNKED:
            return self._chunked(node, at, shape, dtype, size)
        if kind == COMPACT:
            length, start = self.number(at + 2, 2), at + 4
        else:
            start, length = self.take(TWO_UINT8, at + 2)
        if not size:
            return memoryview(b"")
        if start == NOWHERE or length < size:
            raise UnsafeFileError(f"declares {size} bytes that are not in the file")
        return self.view(start, size)

    def _chunked(
        self, node: Node, at: int, shape: tuple[int, ...], dtype: np.dtype, size: int
    ) -> np.ndarray:
        """Put an array together from its chunks; each must be there and unpack to its size."""
        rank = self.number(at + 2, 1) - 1
        (tree,) = self.take(UINT8, at + 3)
        *chunk, item_size = self.take(struct.Struct(f"<{rank + 1}I"), at + 11)
        if rank != len(shape) or item_size != dtype.itemsize or 0 in chunk:
            raise DataError("is damaged: its chunks do not fit its shape")
        numbers = np.empty(shape, dtype)
        if not size:
            return numbers
        filters = self._filters(node)
        chunk_size = math.prod(chunk) * dtype.itemsize
        starts = [range(0, n, step) for n, step in zip(shape, chunk, strict=True)]
        self.step(math.prod(map(len, starts)))
        corners = set(itertools.product(*starts))
        for key, start in self._entries(tree, kind=1, key=8 + 8 * (rank + 1), level=None):
            stored, skipped, *corner, _ = self.take(struct.Struct(f"<II{rank + 1}Q"), key)
            if tuple(corner) not in corners:
                raise DataError(f"is damaged: unexpected chunk at {corner}")
            corners.remove(tuple(corner))
            self.allow(chunk_size)
            used = [code for i, code in enumerate(filters) if not skipped >> i & 1]
            raw = _unpacked(self.view(start, stored), used, chunk_size, dtype.itemsize)
            block = np.frombuffer(raw, dtype).reshape(chunk)
            place = numbers[tuple(slice(a, a + n) for a, n in zip(corner, chunk, strict=True))]
            place[...] = block[tuple(map(slice, place.shape))]
        if corners:
            raise DataError(f"is damaged: {len(corners)} of its chunks are missing")
        return _native(numbers)

    def _filters(self, node: Node) -> list[int]:
        """Return the filters a chunk went through when it was written <filter pipeline>."""
        found = node.first(FILTERS)
        if found is None:
            return []
        at, end = found
        version, count = self.raw(at, 2)
        at += 8 if version == 1 else 2
        filters: list[int] = []
        for _ in range(count):
            self.step()
            code = self.number(at, 2)
            if code not in (GZIP, SHUFFLE):
                raise DataError(
                    f"is compressed with HDF5 filter {code}, which is not supported; write the "
                    "file anew with gzip or none"
                )
            at += 2
            name = 0
            if version == 1:
                name = self.number(at, 2)
                at += 2
            values = self.number(at + 2, 2)
            at += 4 + name + 4 * (values + (values % 2 if version == 1 else 0))
            if at > end:
                raise DataError("is damaged: the list of its filters does not end")
            filters.append(code)
        return filters


def _unpacked(raw: memoryview, filters: list[int], size: int, item_size: int) -> bytes | memoryview:
    """Undo the filters of one chunk of `size` bytes; inflation stops there."""
    content: bytes | memoryview = raw
    for code in reversed(filters):
        if code == GZIP:
            content = zlib.decompressobj().decompress(content, size + 1)
        else:
            content = np.frombuffer(content, np.uint8).reshape(item_size, -1).T.tobytes()
    if len(content) != size:
        raise DataError(f"has a chunk that does not unpack to its {size} bytes")
    return content


def _native(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(numbers.dtype.newbyteorder("="), copy=False)
