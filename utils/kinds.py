"""Kinds of values: the words for each, and how a value of a file becomes one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from utils.errors import nearest
from utils.shown import shown as shown  # of every message

if TYPE_CHECKING:
    from utils.declared import Reader
    from utils.problems import Path

MOST = 2**53


@dataclass(frozen=True)
class Kind:
    """`convert` returns an accepted value in its type; its ValueError, of a hint, refuses one."""

    expected: str
    convert: Callable[[Any], Any]

    def read(self, value: object, path: Path, reader: Reader) -> Any:  # noqa: ANN401
        """Return a value in its type; note the mistake and return None for a wrong one."""
        try:
            return self.convert(value)
        except ValueError as hint:
            found = f"found {shown(value)}, expected {self.expected}{hint}"
            reader.problems.add(path, found)
            return None

    def accepts(self, value: object) -> bool:
        """Return whether a value is of this kind."""
        try:
            self.convert(value)
        except ValueError:
            return False
        return True


def checked(value: Any, holds: bool, known: Iterable[str] = ()) -> Any:  # noqa: ANN401
    """Return a value that fits; ValueError for another, with a hint to the nearest known word."""
    if not holds:
        raise ValueError(nearest(value, known) if isinstance(value, str) and value else "")
    return value


@dataclass(frozen=True)
class Range:
    """Bounds of a number, which count as inside unless they are open."""

    low: float = 0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a number is inside."""
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        if math.isinf(self.low):
            return "of any size" if math.isinf(self.high) else f"to {self.high:.10g}"
        low = f"greater than {self.low:g}" if self.open_low else f"from {self.low:g}"
        if math.isinf(self.high):
            return low if self.open_low else f"{low} up"
        return f"{low} to {'below ' if self.open_high else ''}{self.high:.10g}"


def at_least(low: float) -> Range:
    """Bound a number from below."""
    return Range(low)


def above(low: float) -> Range:
    """Bound a number from below, the bound itself outside."""
    return Range(low, open_low=True)


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is an int of a usual size (a bool is none)."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST


def is_finite_number(value: object) -> bool:
    """Return whether a value is a finite int or float (a bool is neither)."""
    return math.isfinite(value) if isinstance(value, float) else is_whole(value)


def is_text(value: object) -> bool:
    """Return whether a value is printable text that is not empty."""
    return isinstance(value, str) and value != "" and value.isprintable()


def whole(bounds: Range) -> Kind:
    """Accept whole numbers within bounds."""
    return Kind(
        f"a whole number {bounds}",
        lambda value: checked(value, is_whole(value) and bounds.holds(value)),
    )


def real(bounds: Range) -> Kind:
    """Accept finite numbers within bounds."""
    return Kind(
        f"a number {bounds}",
        lambda value: float(checked(value, is_finite_number(value) and bounds.holds(value))),
    )


def list_of(kind: Kind, expected: str, length: int | None = None) -> Kind:
    """Accept lists of a kind, of any length but 0 where none is given."""

    def convert(value: Any) -> tuple[Any, ...]:  # noqa: ANN401
        fits = isinstance(value, list | tuple) and len(value) == (length or max(1, len(value)))
        return tuple(map(kind.convert, checked(value, fits)))

    return Kind(expected, convert)


def choice(*words: str, off: tuple[object, ...] = ()) -> Kind:
    """Accept a few words; values that are `off` read as the empty word."""

    def convert(value: object) -> str:
        if any(type(value) is type(one) and value == one for one in off):
            return ""
        return str(checked(value, isinstance(value, str) and value in words, words))

    return Kind(" or ".join(f'"{word}"' for word in words), convert)


def texts(*, may_be_empty: bool = False, or_text: bool = False) -> Kind:
    """Accept lists of different words; with `or_text` one text with commas too."""

    def convert(value: Any) -> tuple[str, ...]:  # noqa: ANN401
        words = split_list(value) if or_text and isinstance(value, str) else value
        fits = isinstance(words, list | tuple) and bool(words or may_be_empty)
        fits = fits and all(map(is_text, words)) and len(set(words)) == len(words)
        return tuple(checked(words, fits))

    more = ", or one text with commas" if or_text else ""
    return Kind(f"a list of different names{more}", convert)


def nullable(kind: Kind, null: object = None) -> Kind:
    """Accept null too, and read it as `null`."""
    return Kind(
        f"{kind.expected}, or null",
        lambda value: null if value is None else kind.convert(value),
    )


def split_list(text: str) -> list[str]:
    """Split at commas; one comma at the end makes a list of one item visible and adds none."""
    return text.removesuffix(",").split(",") if text else []


FLAG = Kind(
    "true or false",  # published files write 1 and 0 too
    lambda value: bool(checked(value, isinstance(value, int) and value in (0, 1))),
)
TEXT = Kind("text that is not empty", lambda value: checked(value, is_text(value)))
PLACE = Kind("a name or path", TEXT.convert)
TEXT_OR_EMPTY = Kind("text", lambda value: checked(value, value == "" or is_text(value)))
MAPPING = Kind("a section with keys", lambda value: checked(value, isinstance(value, dict)))
EMPTY = Kind(
    "false, zero or empty: it is not supported",
    lambda value: checked(
        value, value is None or (isinstance(value, int | float | str | list | dict) and not value)
    ),
)
