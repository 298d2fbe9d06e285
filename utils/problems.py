"""The mistakes found in a file, gathered so that all are reported at once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from utils.errors import ConfigError

Path = tuple[str, ...]

OVERRIDES = "overrides"  # the origin of keys that no file gave
CUSTOM_ARGS = "--custom_args"
MOST_SHOWN = 50
"""Mistakes that a message lists; it counts the rest."""


def split_path(dotted: str) -> Path:
    """Split a dotted path into keys; a dot inside a key is written `_.`."""
    parts = dotted.replace("_.", "\0").split(".")
    return tuple(part.replace("\0", ".") for part in parts)


def join_path(path: Path) -> str:
    """Join keys to a dotted path, the inverse of split_path; safe to print."""
    joined = ".".join(part.replace(".", "_.") for part in path)
    return joined if joined.isprintable() else ascii(joined)


@dataclass
class Problems:
    """Mistakes by the path of their key; `origins` holds the file that gave each key."""

    source: str
    origins: Mapping[Path, str] = field(default_factory=dict)
    found: dict[tuple[Path, str], None] = field(default_factory=dict)
    """The mistakes in the order they were found; a dict, because there can be 100,000."""
    _paths: set[Path] = field(default_factory=set)
    _above: set[Path] = field(default_factory=set)

    def add(self, path: Path, message: str) -> None:
        """Note a mistake at a key."""
        self.found[path, message] = None
        self._paths.add(path)
        self._above.update(path[:end] for end in range(len(path)))

    @property
    def are_many(self) -> bool:
        """True when further ones will only be counted, so that they need no hint."""
        return len(self.found) >= MOST_SHOWN

    def at(self, path: Path) -> bool:
        """Return whether a mistake is known at a key, below it or above it."""
        upwards = (path[:end] for end in range(len(path) + 1))
        return path in self._above or not self._paths.isdisjoint(upwards)

    def lines(self) -> list[str]:
        """Return the first mistakes as `file: key: what was found, what was expected`."""
        shown = itertools.islice(self.found, MOST_SHOWN)
        lines = [f"{self._file_of(path)}: {_key(path)}{text}" for path, text in shown]
        more = len(self.found) - len(lines)
        return [*lines, f"and {more} more"] if more else lines

    def raise_if_any(self, error: type[Exception] = ConfigError, advice: str = "") -> None:
        """Raise one error of all mistakes, and of what to do about them."""
        lines = self.lines()
        end = f"; {advice}" if advice else ""
        if len(lines) == 1:
            [(path, _)] = self.found
            own = self._file_of(path) in (self.source, OVERRIDES, CUSTOM_ARGS)
            raise error(lines[0] + end if own else f"{lines[0]} (inherited by {self.source})")
        if lines:
            raise error("\n  ".join([f"{len(self.found)} mistakes in {self.source}{end}", *lines]))

    def _file_of(self, path: Path) -> str:
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return self.source


def _key(path: Path) -> str:
    return f"{join_path(path)}: " if path else ""
