"""Checked access to the bytes of an HDF5 file: nothing outside it, steps bounded by its size."""

from __future__ import annotations

import struct
from typing import Any

from utils.errors import DataError, UnsafeFileError

NOWHERE = 2**64 - 1
"""The address of what is not there."""

STEPS_FREE = 10_000
BYTES_PER_STEP = 4
"""A file must hold this many bytes for each step of reading it, beyond STEPS_FREE."""


class CheckedBytes:
    """The content of a file, and what may still be done with it.

    `ratio` bounds what it unpacks to, in multiples of its size, beyond `free` bytes. What is wrong
    raises DataError or UnsafeFileError, without the file's name.
    """

    def __init__(self, content: memoryview, *, ratio: int, free: int) -> None:
        self.content = content
        self.ratio = ratio
        self.bytes_left = max(free, ratio * len(content))
        self.steps_left = STEPS_FREE + len(content) // BYTES_PER_STEP

    def step(self, count: int = 1) -> None:
        """Count steps: a file that leads in circles runs out of them."""
        self.steps_left -= count
        if self.steps_left < 0:
            raise UnsafeFileError("leads in circles, or to the same places over and over")

    def allow(self, count: int) -> None:
        """Count bytes that are unpacked."""
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise UnsafeFileError(
                f"the file's {len(self.content)} bytes would unpack to more than {self.ratio} "
                "times as many"
            )

    def view(self, start: int, length: int) -> memoryview:
        """Return `length` bytes from `start` on."""
        if start + length > len(self.content):
            raise DataError(f"is damaged: {length} bytes at {start} are not in the file")
        return self.content[start : start + length]

    def raw(self, start: int, length: int) -> bytes:
        """Return a copy of `length` bytes from `start` on."""
        return bytes(self.view(start, length))

    def take(self, form: struct.Struct, start: int) -> tuple[Any, ...]:
        """Return the numbers of a struct at `start`."""
        if start + form.size > len(self.content):
            raise DataError(f"is damaged: {form.size} bytes at {start} are not in the file")
        return form.unpack_from(self.content, start)

    def number(self, start: int, length: int) -> int:
        """Return the number without sign that `length` bytes hold."""
        return int.from_bytes(self.view(start, length), "little")

    def expect(self, start: int, signature: bytes) -> None:
        """Check that a structure begins with its signature."""
        self.step()
        if self.view(start, len(signature)) != signature:
            raise DataError(f"is damaged: {signature!r} expected at byte {start}")
