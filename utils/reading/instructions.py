"""Judge the instructions of a pickle before a library follows them.

Python's unpicklers take some numbers on trust: the C one sizes its memo by the largest index in
the file (64 GiB for 7 bytes), and hashing a deeply nested tuple overflows the C stack.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import IO, Any, Final

from utils.errors import DataError, UnsafeFileError

DEEPEST_TUPLES = 50
NAMES_OF_INTEGERS: Final = frozenset({"LONG", "LONG1", "LONG4", "INT"})
GETS: Final = frozenset({"GET", "BINGET", "LONG_BINGET"})
LINES: Final = {"STRING": 1, "PERSID": 1, "GLOBAL": 2, "INST": 2}
PUTS: Final = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


def _effect(opcode: pickletools.OpcodeInfo) -> tuple[int, bool, int]:
    """Return how many objects an instruction takes, whether it takes all to a mark, and leaves."""
    before = opcode.stack_before
    to_mark = pickletools.markobject in before
    fixed = before.index(pickletools.markobject) if to_mark else len(before)
    return fixed, to_mark, len(opcode.stack_after)


OPCODES: Final = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
EFFECTS: Final = {opcode.name: _effect(opcode) for opcode in pickletools.opcodes}
PUSHES: Final = frozenset(name for name, effect in EFFECTS.items() if effect == (0, False, 1))


def check_instructions(file: IO[bytes], longest_integer: int = 8) -> None:
    """Read one pickle from `file` to its end without following it.

    `longest_integer`: bytes an integer may take; dict keys that are longer collide at will.
    Raises UnsafeFileError for instructions that no writer of data uses, DataError for damage.
    """
    depths: list[int] = []  # of tuples in each other, for each object on the stack
    marks: list[int] = []
    memo: dict[int, int] = {}
    try:
        for name, argument in _instructions(file):
            if name == "MEMOIZE":
                memo[len(memo)] = depths[-1]
            elif name in GETS:
                depths.append(memo[argument])
            elif name in PUTS:
                if argument > (position := file.tell()) + 100:
                    raise UnsafeFileError(f"numbers an object {argument} at byte {position}")
                memo[argument] = depths[-1]
            elif name == "MARK":  # it pushes no object
                marks.append(len(depths))
            elif name == "POP" and marks and marks[-1] == len(depths):
                marks.pop()
            elif name in PUSHES:
                if name in NAMES_OF_INTEGERS and argument.bit_length() > 8 * longest_integer:
                    raise UnsafeFileError(f"holds an integer of {argument.bit_length()} bits")
                depths.append(0)
            else:
                _follow(name, depths, marks)
    except (ValueError, IndexError, KeyError, EOFError) as error:  # UnicodeError is a ValueError
        raise DataError(f"is damaged or cut short ({type(error).__name__})") from None
    except MemoryError:
        raise UnsafeFileError("asks for too much memory") from None


def _instructions(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield (name, argument) to the end; pickletools decodes lines, and stops at other letters."""
    while True:
        opcode = OPCODES[file.read(1)]
        if opcode.name in LINES:
            yield opcode.name, [file.readline() for _ in range(LINES[opcode.name])]
        else:
            yield opcode.name, opcode.arg.reader(file) if opcode.arg else None
        if opcode.name == "STOP":
            return


def _follow(name: str, depths: list[int], marks: list[int]) -> None:
    fixed, to_mark, left = EFFECTS[name]
    start = marks.pop() if to_mark else len(depths)
    start -= fixed
    if start < 0:
        raise IndexError
    if start == len(depths):
        depths.extend([int(name == "TUPLE")] * left)
        return
    depth = max(depths[start:]) + name.startswith("TUPLE")
    if depth > DEEPEST_TUPLES:
        raise UnsafeFileError("is nested too deeply")
    depths[start:] = [depth] * left
