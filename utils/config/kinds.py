"""The kinds of values a configuration key can hold: what each accepts, and reads from text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

from utils.errors import nearest

TRUE_WORDS = {"true": True, "1": True, "false": False, "0": False}
NULL_WORDS = {"null", "none"}


def shown(value: object) -> str:
    """Return a value as it may stand in a message: short and on one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list of lists
        kind = type(value).__name__
        text = f"{'an' if kind == 'int' else 'a'} {kind} too long to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of value.

    `problem` says why a value is refused (None: it is fine), `normal` gives an accepted value its
    one type, `parse` turns the text of a command line into a value that `problem` then judges.
    """

    or_null: bool = False

    @property
    def expected(self) -> str:
        """Say in words what is accepted."""
        return self._expected() + (", or null" if self.or_null else "")

    def problem(self, value: object) -> str | None:
        """Say what was found and what was expected, or None."""
        if (value is None and self.or_null) or self._accepts(value):
            return None
        return f"found {shown(value)}, expected {self.expected}{self._hint(value)}"

    def normal(self, value: object) -> object:
        """Return an accepted value in the kind's one type."""
        return None if value is None and self.or_null else self._normal(value)

    def parse(self, text: str) -> object:
        """Read a value from the text of a command line."""
        if self.or_null and text.lower() in NULL_WORDS:
            return None
        return self._parse(text)

    def _expected(self) -> str:
        raise NotImplementedError

    def _accepts(self, value: object) -> bool:
        raise NotImplementedError

    def _hint(self, value: object) -> str:
        return ""

    def _normal(self, value: object) -> object:
        return value

    def _parse(self, text: str) -> object:
        return text


@dataclass(frozen=True, kw_only=True)
class Flag(Kind):
    """true or false; published files write 1 and 0 too."""

    def _expected(self) -> str:
        return "true or false"

    def _accepts(self, value: object) -> bool:
        return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))

    def _normal(self, value: object) -> object:
        return bool(value)

    def _parse(self, text: str) -> object:
        return TRUE_WORDS.get(text.lower(), text)


@dataclass(frozen=True, kw_only=True)
class Whole(Kind):
    """A whole number."""

    MOST: ClassVar[int] = 2**53

    least: int = 0
    most: int = MOST

    def _expected(self) -> str:
        end = "up" if self.most == self.MOST else f"to {self.most}"
        return f"a whole number from {self.least} {end}"

    def _accepts(self, value: object) -> bool:
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and self.least <= value <= self.most
        )

    def _parse(self, text: str) -> object:
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,16}", text) else text


@dataclass(frozen=True, kw_only=True)
class Real(Kind):
    """A finite number."""

    least: float = 0.0
    most: float = math.inf
    open_below: bool = False
    open_above: bool = False

    def _expected(self) -> str:
        low = f"greater than {self.least:g}" if self.open_below else f"from {self.least:g}"
        if math.isinf(self.most):
            return f"a number {low}" + ("" if self.open_below else " up")
        return f"a number {low} to {'below ' if self.open_above else ''}{self.most:g}"

    def _accepts(self, value: object) -> bool:
        return is_finite_number(value) and self._in_range(float(value))  # type: ignore[arg-type]

    def _in_range(self, value: float) -> bool:
        above = value > self.least if self.open_below else value >= self.least
        return above and (value < self.most if self.open_above else value <= self.most)

    def _normal(self, value: object) -> object:
        return float(value)  # type: ignore[arg-type]

    def _parse(self, text: str) -> object:
        try:
            return float(text)
        except ValueError:
            return text


@dataclass(frozen=True, kw_only=True)
class RealPair(Kind):
    """Two numbers from 0 to below 1: the decay rates of an optimiser."""

    def _expected(self) -> str:
        return "a list of two numbers from 0 to below 1"

    def _accepts(self, value: object) -> bool:
        return (
            isinstance(value, list)
            and len(value) == 2
            and all(is_finite_number(item) and 0 <= item < 1 for item in value)
        )

    def _normal(self, value: object) -> object:
        return tuple(float(item) for item in value)  # type: ignore[attr-defined]

    def _parse(self, text: str) -> object:
        return [Real().parse(item) for item in split_list(text)]


@dataclass(frozen=True, kw_only=True)
class Text(Kind):
    """Text of one line."""

    may_be_empty: bool = False

    def _expected(self) -> str:
        return "text" if self.may_be_empty else "text that is not empty"

    def _accepts(self, value: object) -> bool:
        return isinstance(value, str) and (self.may_be_empty or value != "") and value.isprintable()


@dataclass(frozen=True, kw_only=True)
class Place(Text):
    """A folder or file whose leading `data` is moved by --data_dir."""


@dataclass(frozen=True, kw_only=True)
class PathBelow(Text):
    """A relative path that stays below the folder it is relative to."""

    below: str
    suffixes: tuple[str, ...] = ()

    def _expected(self) -> str:
        ending = f" ending in {' or '.join(self.suffixes)}" if self.suffixes else ""
        return f"a relative path below {self.below}{ending}"

    def _accepts(self, value: object) -> bool:
        if not isinstance(value, str) or not super()._accepts(value):
            return False
        path = PurePosixPath(value)
        inside = not path.is_absolute() and ".." not in path.parts and path.parts != ()
        return inside and (not self.suffixes or path.suffix in self.suffixes)


@dataclass(frozen=True, kw_only=True)
class Name(Text):
    """A name that can be one part of a path."""

    def _expected(self) -> str:
        return "a name without slashes"

    def _accepts(self, value: object) -> bool:
        return (
            isinstance(value, str)
            and super()._accepts(value)
            and value not in (".", "..")
            and not set(value) & set("/\\")
            and len(value.encode()) <= 255
        )


@dataclass(frozen=True, kw_only=True)
class Choice(Kind):
    """One of a few words; `refused` words are known elsewhere but not supported here."""

    words: tuple[str, ...]
    refused: tuple[str, ...] = ()
    empty_means_off: bool = False

    def _expected(self) -> str:
        return " or ".join(f'"{word}"' for word in self.words)

    def problem(self, value: object) -> str | None:
        """Say what was found and what was expected, or None."""
        if isinstance(value, str) and value in self.refused:
            return f"{shown(value)} is not supported, expected {self.expected}"
        return super().problem(value)

    def _accepts(self, value: object) -> bool:
        if self.empty_means_off and is_empty(value):
            return True
        return isinstance(value, str) and value in self.words

    def _hint(self, value: object) -> str:
        return nearest(value, self.words) if isinstance(value, str) and value else ""

    def _normal(self, value: object) -> object:
        return "" if self.empty_means_off and not value else value


@dataclass(frozen=True, kw_only=True)
class TextList(Kind):
    """A list of different words; some keys also take one text with commas."""

    may_be_empty: bool = False
    or_text: bool = False
    exactly: tuple[str, ...] = ()

    def _expected(self) -> str:
        if self.exactly:
            return "a list of " + " and ".join(f'"{word}"' for word in self.exactly)
        return "a list of different names" + (", or one text with commas" if self.or_text else "")

    def _accepts(self, value: object) -> bool:
        if self.or_text and isinstance(value, str):
            value = split_list(value)
        if not isinstance(value, list) or not (value or self.may_be_empty):
            return False
        words = all(isinstance(item, str) and item and item.isprintable() for item in value)
        if not words or len(set(value)) < len(value):
            return False
        return not self.exactly or set(value) == set(self.exactly)

    def _normal(self, value: object) -> object:
        items: Sequence[str] = split_list(value) if isinstance(value, str) else value  # type: ignore[assignment]
        return tuple(items)

    def _parse(self, text: str) -> object:
        return split_list(text)


@dataclass(frozen=True, kw_only=True)
class Monitor(Kind):
    """Nothing ("off"), or max/min and the name of a validation metric."""

    metrics: tuple[str, ...]

    def _expected(self) -> str:
        return f'"off", or "max" or "min" and a metric such as {self.metrics[-1]}'

    def _accepts(self, value: object) -> bool:
        # YAML reads a bare off as false.
        if value is False or value == "off":
            return True
        mode, metric = self._split(value)
        return mode in ("max", "min") and metric in self.metrics

    def _hint(self, value: object) -> str:
        mode, metric = self._split(value)
        if mode in ("max", "min"):
            return nearest(metric, self.metrics)
        return nearest(mode, ("max", "min", "off")) if mode else ""

    def _normal(self, value: object) -> object:
        return self._split("off" if value is False else value)

    @staticmethod
    def _split(value: object) -> tuple[str, str]:
        words = value.split() if isinstance(value, str) else []
        return (words[0] if words else "", " ".join(words[1:]))


@dataclass(frozen=True, kw_only=True)
class Temporal(Kind):
    """How an expert came over time: tokens, or aggregates joined by -."""

    aggregates: tuple[str, ...] = ("avg", "max", "ent", "std")

    def _expected(self) -> str:
        return f'"vlad" for tokens, or some of {", ".join(self.aggregates)} joined by -'

    def _accepts(self, value: object) -> bool:
        if value == "vlad":
            return True
        parts = value.split("-") if isinstance(value, str) else []
        return bool(parts) and set(parts) <= set(self.aggregates) and len(set(parts)) == len(parts)

    def _hint(self, value: object) -> str:
        return nearest(value, ("vlad", *self.aggregates)) if isinstance(value, str) else ""


@dataclass(frozen=True, kw_only=True)
class Unused(Kind):
    """A key of older releases whose work is not done here: accepted while it asks for none."""

    def _expected(self) -> str:
        return "false, zero or empty"

    def problem(self, value: object) -> str | None:
        """Say that the value asks for what is not supported, or None."""
        if is_empty(value):
            return None
        return f"{shown(value)} is not supported, expected {self.expected}"

    def _parse(self, text: str) -> object:
        return False if text.lower() in ("", "0", "false", *NULL_WORDS) else text


def is_finite_number(value: object) -> bool:
    """Say whether a value is a finite int or float (a bool is neither)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**53


def is_empty(value: object) -> bool:
    """Say whether a value is null, false, zero, or empty."""
    return value is None or (isinstance(value, int | float | str | list | dict) and not value)


def split_list(text: str) -> list[str]:
    """Split at commas; one comma at the end makes a list of one item visible and adds none."""
    items = text.split(",") if text else []
    return items[:-1] if items and items[-1] == "" else items
