"""Run the instructions of a pickle as data: nothing it names is ever imported or called.

A pickle is a program for a small stack machine (`pickletools` of the standard library describes
it). The machine here knows the instructions that build plain values. Names of classes and
functions become `Name`, and what the program asks to do with them goes to a `Builder`, which knows
a few by name and refuses the rest. Long byte strings are views of the file, so arrays cost no
copy; what is built and what calls copy is counted, so a small file cannot fill the memory.
"""

from __future__ import annotations

import gc
import re
import struct
from collections.abc import Callable, Iterable
from typing import Any, Final

from utils.errors import DataError, UnsafeFileError

HIGHEST_PROTOCOL = 5
DEEPEST_MARKS = 1000
LONGEST_NUMBER = 1024
"""Bytes of one integer; random generators keep states of a few hundred bits."""

BYTES_PER_OBJECT = 2
"""A file must hold this many bytes for each object it builds, beyond OBJECTS_FREE."""
OBJECTS_FREE = 10_000
BYTES_OF_OBJECT = 64
"""Bytes that a call may copy, or look through, for the price of one object."""
LONGEST_NAME = 1000
"""Letters of a class or function, its module included."""
KEY_BITS = 64
"""Of a whole number as a key: Python hashes longer ones into so few numbers that they collide."""

WINDOW = 1 << 16
MEMOIZE, GET1, GET4, PUT4, SHORT_TEXT, TEXT, NUMBER1, STOP = b"\x94hjr\x8cXK."

PLAIN_KEYS: Final = frozenset({str, int, float, bool, bytes, type(None)})
"""Types a key may have: hashing nested tuples recurses in C, without limit."""
SIZES: Final[dict[type, int]] = {
    str: 4,
    bytes: 1,
    memoryview: 1,
    **dict.fromkeys((list, tuple, dict, set, frozenset), BYTES_OF_OBJECT),
}
"""Bytes of memory that each item of a value may take in a copy of it."""


class Name:
    """A class or function as the pickle names it: text, nothing behind it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Pending:
    """An object between its creation and its state; `value` is what it became."""

    __slots__ = ("arguments", "name", "value")

    def __init__(self, name: str, arguments: Any = None) -> None:  # noqa: ANN401
        self.name = name
        self.arguments = arguments
        self.value: Any = self


class Builder:
    """What the machine asks for everything that is not plain; this one refuses all of it."""

    def name(self, module: str, name: str) -> object:
        """Return what stands for the class or function `module.name`."""
        raise UnsafeFileError(f"names {module[:100]}.{name[:100]}, which no data file needs")

    def call(self, function: object, arguments: object) -> object:
        """Return what calling `function` stands for."""
        raise UnsafeFileError(f"calls {describe(function)}")

    def set_state(self, target: object, state: object) -> object:
        """Return `target` once it has its state."""
        raise UnsafeFileError(f"sets the state of {describe(target)}")

    def persistent(self, identity: object) -> object:
        """Return what a reference to something outside the pickle stands for."""
        raise UnsafeFileError("refers to something outside the file")

    def extend(self, target: object, values: list[Any]) -> None:
        """Append `values` to something that is no plain list."""
        raise UnsafeFileError(f"appends to {describe(target)}")

    def update(self, target: object, pairs: list[Any]) -> None:
        """Set `pairs` (key, value, key, value, ...) in something that is no plain dict."""
        raise UnsafeFileError(f"sets items of {describe(target)}")


def describe(value: object) -> str:
    """Return a short text for an object of a pickle, for messages."""
    if isinstance(value, (Name, Pending)):
        return (value.text if isinstance(value, Name) else value.name)[:200]
    return "bytes" if isinstance(value, memoryview) else type(value).__name__


def run_pickle(content: memoryview, builder: Builder) -> object:
    """Return the value that a pickle describes.

    Byte strings come back as views of `content`, strings of Python 2 as latin-1 text. Raises
    UnsafeFileError for what asks for more than data, DataError for what is damaged; the messages
    lack the file's name.
    """
    machine = _Machine(content, builder)
    collecting = gc.isenabled()
    gc.disable()  # millions of new objects and no garbage: looking for it takes most of the time
    try:
        return machine.run()
    except (UnsafeFileError, DataError):
        raise
    except (
        AttributeError,
        IndexError,
        KeyError,
        OverflowError,
        TypeError,
        ValueError,  # UnicodeError is one
        struct.error,
    ) as error:
        raise DataError(
            f"is damaged or cut short: instruction at byte {machine.start} cannot be followed "
            f"({type(error).__name__})"
        ) from None
    except (MemoryError, RecursionError) as error:
        raise UnsafeFileError(
            f"asks for too much at byte {machine.start} ({type(error).__name__})"
        ) from None
    finally:
        if collecting:
            gc.enable()


class _Machine:
    def __init__(self, content: memoryview, builder: Builder) -> None:
        self.content = content
        self.builder = builder
        self.at = 0
        self.start = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.far_memo: dict[int, Any] = {}  # numbers that a writer chose out of order
        self.objects_left = OBJECTS_FREE + len(content) // BYTES_PER_OBJECT

    def run(self) -> Any:  # noqa: ANN401
        """Follow the instructions to the end.

        The frequent ones are done on the spot, in a window of plain bytes, which Python indexes
        much faster than a mapped file: captions and text vectors have millions of them.
        """
        content, operations, stack, memo = self.content, OPERATIONS, self.stack, self.memo
        base, at, limit = 0, 0, -1
        window = b""
        while True:
            if at > limit:
                base, at = base + at, 0
                window = bytes(content[base : base + WINDOW])
                # Far enough from the end for any instruction that is done on the spot.
                limit = len(window) - 300 if base + len(window) < len(content) else len(window)
            self.start = base + at
            code = window[at]
            at += 1
            if code == MEMOIZE:
                memo.append(stack[-1])
            elif code == GET1 and window[at] < len(memo):
                value = memo[window[at]]
                at += 1
                stack.append(value.value if type(value) is Pending else value)
            elif code == SHORT_TEXT:
                end = at + 1 + window[at]
                if end > len(window):
                    raise IndexError
                stack.append(window[at + 1 : end].decode("utf-8", "surrogatepass"))
                at = end
            elif code == TEXT and window[at + 1 : at + 4] == b"\0\0\0":
                end = at + 4 + window[at]
                if end > len(window):
                    raise IndexError
                stack.append(window[at + 4 : end].decode("utf-8", "surrogatepass"))
                at = end
            elif code == GET4 and (far := int.from_bytes(window[at : at + 4], "little")) < len(
                memo
            ):
                value = memo[far]
                at += 4
                stack.append(value.value if type(value) is Pending else value)
            elif code == PUT4 and window[at : at + 4] == len(memo).to_bytes(4, "little"):
                memo.append(stack[-1])
                at += 4
            elif code == NUMBER1:
                stack.append(window[at])
                at += 1
            elif code == STOP:
                break
            else:
                operation = operations[code]
                if operation is None:
                    raise DataError(f"is not a pickle of data: byte {self.start} is {code:#04x}")
                self.at = base + at
                operation(self)
                at = self.at - base
        if len(stack) != 1 or self.marks:
            raise DataError("is damaged: objects are left over at its end")
        return stack[0]

    # What instructions are made of

    def take(self, length: int) -> memoryview:
        end = self.at + length
        if end > len(self.content):
            raise IndexError
        view = self.content[self.at : end]
        self.at = end
        return view

    def take_number(self, form: struct.Struct) -> Any:  # noqa: ANN401
        (number,) = form.unpack_from(self.content, self.at)
        self.at += form.size
        return number

    def take_line(self) -> bytes:
        for end in range(self.at, len(self.content), 256):
            block = bytes(self.content[end : end + 256])
            if (found := block.find(b"\n")) >= 0:
                return bytes(self.take(end + found + 1 - self.at))[:-1]
        raise IndexError

    def count(self, objects: int = 1) -> None:
        self.objects_left -= objects
        if self.objects_left < 0:
            raise UnsafeFileError(
                f"builds more objects than its {len(self.content)} bytes can be worth"
            )

    def push_new(self, value: object, objects: int = 1) -> None:
        self.count(objects)
        self.stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    # Constants

    def protocol(self) -> None:
        if (version := self.take_number(UINT1)) > HIGHEST_PROTOCOL:
            raise DataError(f"is a pickle of protocol {version}; 0 to {HIGHEST_PROTOCOL} are known")

    def frame(self) -> None:
        self.take_number(UINT8)

    def push_text_of(self, form: struct.Struct) -> None:
        self.stack.append(str(self.take(self.take_number(form)), "utf-8", "surrogatepass"))

    def push_latin1_of(self, form: struct.Struct) -> None:
        self.stack.append(str(self.take(self.take_number(form)), "latin-1"))

    def push_bytes_of(self, form: struct.Struct) -> None:
        self.push_new(self.take(self.take_number(form)), 2)

    def push_integer_of(self, form: struct.Struct) -> None:
        length = self.take_number(form)
        if not 0 <= length <= LONGEST_NUMBER:
            raise UnsafeFileError(f"holds an integer of {length} bytes")
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))

    def push_integer_line(self) -> None:
        line = self.take_line()
        if line in (b"00", b"01"):
            self.stack.append(line == b"01")
            return
        if len(line) > 2 * LONGEST_NUMBER:
            raise UnsafeFileError(f"holds an integer of {len(line)} digits")
        self.stack.append(int(line.removesuffix(b"L")))

    def push_string_line(self) -> None:
        quoted = self.take_line()
        if len(quoted) < 2 or quoted[:1] not in (b"'", b'"') or quoted[-1:] != quoted[:1]:
            raise ValueError
        self.stack.append(str(unescape(quoted[1:-1]), "latin-1"))

    def push_unicode_line(self) -> None:
        self.stack.append(str(self.take_line(), "raw-unicode-escape"))

    # Containers

    def mark(self) -> None:
        if len(self.marks) >= DEEPEST_MARKS:
            raise UnsafeFileError("is nested too deeply")
        self.marks.append(len(self.stack))

    def push_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError
        values = tuple(self.stack[-length:])
        del self.stack[-length:]
        self.push_new(values)

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(values)
        else:
            self.builder.extend(target, values)

    def set_items(self, pairs: list[Any]) -> None:
        if len(pairs) % 2:
            raise ValueError
        target = self.stack[-1]
        if type(target) is dict:
            fill(target, pairs)
        else:
            self.builder.update(target, pairs)

    def push_dict_of_mark(self) -> None:
        pairs = self.pop_to_mark()
        self.push_new({})
        self.set_items(pairs)

    def add_items(self) -> None:
        values = self.pop_to_mark()
        target = self.stack[-1]
        if type(target) is not set:
            raise TypeError
        check_keys(values)
        self.count(len(values))
        target.update(values)

    def push_frozen_set(self) -> None:
        values = self.pop_to_mark()
        check_keys(values)
        self.push_new(frozenset(values), 4 + len(values))

    # Memory of earlier objects

    def put(self, number: int) -> None:
        if number == len(self.memo):
            self.memo.append(self.stack[-1])
        elif 0 <= number < len(self.memo):
            self.memo[number] = self.stack[-1]
        elif number == 1 and not self.memo:  # Python 2 counts from 1
            self.memo += [None, self.stack[-1]]
        else:
            self.count()
            self.far_memo[number] = self.stack[-1]

    def get(self, number: int) -> None:
        value = self.memo[number] if 0 <= number < len(self.memo) else self.far_memo[number]
        self.stack.append(value.value if type(value) is Pending else value)

    # Everything that is not plain: paid for before it is made, because a file can ask for the same
    # long text or list again and again in a few bytes

    def name_of_lines(self) -> None:
        module, name = (str(self.take_line(), "utf-8") for _ in range(2))
        self.push_name(module, name)

    def name_of_stack(self) -> None:
        module, name = self.stack[-2:]
        del self.stack[-2:]
        self.push_name(module, name)

    def push_name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        self.count(8 + weight((module, name)))
        if len(module) + len(name) > LONGEST_NAME:
            raise UnsafeFileError(f"names something in {len(module) + len(name)} letters")
        self.stack.append(self.builder.name(module, name))

    def push_call(self, function: object, arguments: object) -> None:
        self.count(4 + weight(arguments))
        self.stack.append(self.builder.call(function, arguments))

    def call(self) -> None:
        function, arguments = self.stack[-2:]
        del self.stack[-2:]
        self.push_call(function, arguments)

    def call_with_keywords(self) -> None:
        function, arguments, keywords = self.stack[-3:]
        del self.stack[-3:]
        if type(keywords) is not dict or keywords:
            raise UnsafeFileError(f"makes a {describe(function)} with named arguments")
        self.push_call(function, arguments)

    def call_of_lines(self) -> None:
        arguments = tuple(self.pop_to_mark())
        self.name_of_lines()
        self.push_call(self.stack.pop(), arguments)

    def call_of_mark(self) -> None:
        function, *arguments = self.pop_to_mark()
        self.push_call(function, tuple(arguments))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        self.count(weight(state))
        built = self.builder.set_state(target, state)
        if type(target) is Pending:
            self.count(4)
            target.value = built
        self.stack[-1] = built

    def persistent(self) -> None:
        self.push_new(self.builder.persistent(self.stack.pop()))


def fill(target: dict[Any, Any], pairs: list[Any]) -> None:
    """Set the items key, value, key, value, ... of a dict; keys must be plain."""
    keys = pairs[::2]
    check_keys(keys)
    target.update(zip(keys, pairs[1::2], strict=True))


def check_keys(keys: Iterable[Any]) -> None:
    """Refuse keys that are not plain."""
    for key in keys:
        kind = type(key)
        if kind is str:
            continue
        if kind not in PLAIN_KEYS:
            raise UnsafeFileError(f"has a key of type {describe(key)}")
        if kind is int and key.bit_length() > KEY_BITS:
            raise UnsafeFileError(f"has a whole number of {key.bit_length()} bits as a key")


def weight(values: object) -> int:
    """Return how many objects a copy of these values, one level deep, is worth."""
    if type(values) is not tuple:
        return 0
    size = 8 * len(values)
    for value in values:
        if type(value) in SIZES:
            size += SIZES[type(value)] * len(value)
    return size // BYTES_OF_OBJECT


def unescape(quoted: bytes) -> bytes:
    """Return what stands between the quotes of a Python 2 string."""
    return ESCAPE.sub(_unescaped, quoted)


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else ESCAPED[code]


ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.|\Z)", re.DOTALL)
ESCAPED = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}
UINT1, UINT2, UINT4, UINT8 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<Q"))
INT4, DOUBLE = struct.Struct("<i"), struct.Struct(">d")

Operation = Callable[[_Machine], Any]


def _constant(value: object) -> Operation:
    return lambda machine: machine.stack.append(value)


def _number(form: struct.Struct) -> Operation:
    return lambda machine: machine.stack.append(machine.take_number(form))


def _operations() -> list[Operation | None]:
    """Return the operation of each code but those `run` does; None for those no data needs."""
    table: dict[str, Operation] = {
        "\x80": _Machine.protocol,
        "\x95": _Machine.frame,
        "N": _constant(None),
        "\x88": _constant(True),
        "\x89": _constant(False),
        ")": _constant(()),
        "M": _number(UINT2),
        "J": _number(INT4),
        "G": _number(DOUBLE),
        "\x8a": lambda m: m.push_integer_of(UINT1),
        "\x8b": lambda m: m.push_integer_of(UINT4),
        "I": _Machine.push_integer_line,
        "L": _Machine.push_integer_line,
        "F": lambda m: m.stack.append(float(m.take_line())),
        "X": lambda m: m.push_text_of(UINT4),
        "\x8d": lambda m: m.push_text_of(UINT8),
        "V": _Machine.push_unicode_line,
        "U": lambda m: m.push_latin1_of(UINT1),
        "T": lambda m: m.push_latin1_of(UINT4),
        "S": _Machine.push_string_line,
        "C": lambda m: m.push_bytes_of(UINT1),
        "B": lambda m: m.push_bytes_of(UINT4),
        "\x8e": lambda m: m.push_bytes_of(UINT8),
        "\x96": lambda m: m.push_bytes_of(UINT8),
        "(": _Machine.mark,
        "0": lambda m: m.stack.pop(),
        "1": _Machine.pop_to_mark,
        "2": lambda m: m.stack.append(m.stack[-1]),
        "]": lambda m: m.push_new([]),
        "l": lambda m: m.push_new(m.pop_to_mark()),
        "a": lambda m: m.append([m.stack.pop()]),
        "e": lambda m: m.append(m.pop_to_mark()),
        "}": lambda m: m.push_new({}),
        "d": _Machine.push_dict_of_mark,
        "s": lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
        "u": lambda m: m.set_items(m.pop_to_mark()),
        "\x8f": lambda m: m.push_new(set(), 4),
        "\x90": _Machine.add_items,
        "\x91": _Machine.push_frozen_set,
        "t": lambda m: m.push_new(tuple(m.pop_to_mark())),
        "\x85": lambda m: m.push_tuple(1),
        "\x86": lambda m: m.push_tuple(2),
        "\x87": lambda m: m.push_tuple(3),
        "q": lambda m: m.put(m.take_number(UINT1)),
        "r": lambda m: m.put(m.take_number(UINT4)),
        "p": lambda m: m.put(int(m.take_line())),
        "h": lambda m: m.get(m.take_number(UINT1)),
        "j": lambda m: m.get(m.take_number(UINT4)),
        "g": lambda m: m.get(int(m.take_line())),
        "c": _Machine.name_of_lines,
        "\x93": _Machine.name_of_stack,
        "R": _Machine.call,
        "\x81": _Machine.call,
        "\x92": _Machine.call_with_keywords,
        "i": _Machine.call_of_lines,
        "o": _Machine.call_of_mark,
        "b": _Machine.build,
        "\x98": lambda m: None,  # "this buffer is read-only": all of ours are
        "Q": _Machine.persistent,
    }
    return [table.get(chr(code)) for code in range(256)]


OPERATIONS = _operations()
