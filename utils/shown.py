"""Values of untrusted files in messages: short, on one line, and printable."""

from __future__ import annotations

import reprlib
from typing import Any, Final

LONGEST = 60


class _Short(reprlib.Repr):
    """Bounded in depth, items and letters; objects of unknown classes by their type alone."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, LONGEST, LONGEST
        self.maxlong = 40

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 128 else f"an integer of {x.bit_length()} bits"

    def repr_instance(self, x: Any, level: int) -> str:  # noqa: ANN401
        return f"<{type(x).__name__}>"


_SHORT: Final = _Short()
_PLAIN: Final = (bool, float, complex, type(None))


def shown(value: object, longest: int = LONGEST) -> str:
    """Return a bounded repr of any value: no control characters, no endless nesting."""
    if isinstance(value, str):
        text = repr(value[: longest + 1])
    elif type(value) in _PLAIN:
        text = repr(value)
    else:
        text = _SHORT.repr(value)
    return printable(text, longest)


def harmless(text: str) -> str:
    """Return text of any length and of several lines, escaped where a terminal would act."""
    if text.isprintable():
        return text
    return "".join(letter if letter in "\n\t" else printable(letter) for letter in text)


def printable(text: str, longest: int = LONGEST) -> str:
    """Return text without quotes around it, escaped where a terminal would act, and shortened."""
    short = text if len(text) <= longest else text[: longest - 3] + "..."
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in short
    )
