"""Kinds of values: the words for each, the values it accepts, how text becomes one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from utils.errors import nearest
from utils.shown import shown as shown  # of every message

if TYPE_CHECKING:
    from utils.declared import Reader
    from utils.problems import Path

TRUE_WORDS = {"true": True, "1": True, "false": False, "0": False}
NULL_WORDS = {"null", "none"}
MOST = 2**53


@dataclass(frozen=True)
class Kind:
    """`accepts` judges a value, `normal` gives an accepted one its type, `parse` reads text."""

    expected: str
    accepts: Callable[[Any], bool]
    normal: Callable[[Any], Any] = lambda value: value
    parse: Callable[[str], object] = lambda text: text
    hint: Callable[[Any], str] = lambda _: ""

    def read(self, value: object, path: Path, reader: Reader) -> Any:  # noqa: ANN401
        """Return a value in its type; note the mistake and return None for a wrong one."""
        if self.accepts(value):
            return self.normal(value)
        hint = self.hint(value)
        reader.problems.add(path, f"found {shown(value)}, expected {self.expected}{hint}")
        return None


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


def between(low: float, high: float, **opened: bool) -> Range:
    """Bound a number on both sides."""
    return Range(low, high, **opened)


def whole(bounds: Range) -> Kind:
    """Accept whole numbers within bounds."""

    def accepts(value: object) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return value <= MOST and bounds.holds(value)

    def parse(text: str) -> object:
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,16}", text) else text

    return Kind(f"a whole number {bounds}", accepts, parse=parse)


def wholes(bounds: Range) -> Kind:
    """Accept lists of whole numbers within bounds that are not empty."""
    one = whole(bounds)
    return Kind(
        f"a list of whole numbers {bounds}",
        lambda value: isinstance(value, list) and bool(value) and all(map(one.accepts, value)),
        tuple,
        lambda text: [one.parse(item) for item in split_list(text)],
    )


def real(bounds: Range) -> Kind:
    """Accept finite numbers within bounds."""
    return Kind(
        f"a number {bounds}",
        lambda value: is_finite_number(value) and bounds.holds(value),
        float,
        _parse_float,
    )


def real_pair(bounds: Range) -> Kind:
    """Accept lists of two numbers within bounds."""
    one = real(bounds)
    return Kind(
        f"a list of two numbers {bounds}",
        lambda v: isinstance(v, list | tuple) and len(v) == 2 and all(map(one.accepts, v)),
        lambda value: tuple(map(float, value)),
        lambda text: [_parse_float(item) for item in split_list(text)],
    )


def choice(*words: str, off: tuple[object, ...] = ()) -> Kind:
    """Accept a few words; values that are `off` read as the empty word."""

    def accepts(value: object) -> bool:
        if isinstance(value, str):
            return value in words
        return any(type(value) is type(one) and value == one for one in off)

    return Kind(
        " or ".join(f'"{word}"' for word in words),
        accepts,
        lambda value: value or "",
        hint=lambda value: nearest(value, words) if isinstance(value, str) and value else "",
    )


def texts(*, may_be_empty: bool = False, or_text: bool = False) -> Kind:
    """Accept lists of different words; with `or_text` one text with commas too."""

    def items(value: Any) -> Any:  # noqa: ANN401
        return split_list(value) if or_text and isinstance(value, str) else value

    def accepts(value: object) -> bool:
        words = items(value)
        if not isinstance(words, list | tuple) or not (words or may_be_empty):
            return False
        return all(is_text(word) for word in words) and len(set(words)) == len(words)

    return Kind(
        "a list of different names" + (", or one text with commas" if or_text else ""),
        accepts,
        lambda value: tuple(items(value)),
        split_list,
    )


def nullable(kind: Kind, null: object = None) -> Kind:
    """Accept null too, and read it as `null`."""
    return replace(
        kind,
        expected=f"{kind.expected}, or null",
        accepts=lambda value: value is None or kind.accepts(value),
        normal=lambda value: null if value is None else kind.normal(value),
        parse=lambda text: None if text.lower() in NULL_WORDS else kind.parse(text),
    )


def is_text(value: object) -> bool:
    """Return whether a value is printable text that is not empty."""
    return isinstance(value, str) and value != "" and value.isprintable()


def is_finite_number(value: object) -> bool:
    """Return whether a value is a finite int or float (a bool is neither)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < MOST


def is_empty(value: object) -> bool:
    """Return whether a value is null, false, zero, or empty."""
    return value is None or (isinstance(value, int | float | str | list | dict) and not value)


def split_list(text: str) -> list[str]:
    """Split at commas; one comma at the end makes a list of one item visible and adds none."""
    items = text.split(",") if text else []
    return items[:-1] if items and items[-1] == "" else items


def _parse_float(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


FLAG = Kind(
    "true or false",  # published files write 1 and 0 too
    lambda value: isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)),
    bool,
    lambda text: TRUE_WORDS.get(text.lower(), text),
)
TEXT = Kind("text that is not empty", is_text)
TEXT_OR_EMPTY = Kind("text", lambda value: value == "" or is_text(value))
EMPTY = Kind(
    "false, zero or empty: it is not supported",
    is_empty,
    parse=lambda text: False if text.lower() in ("", "0", "false", *NULL_WORDS) else text,
)
MAPPING = Kind("a section with keys", lambda value: isinstance(value, dict))
