"""The mistakes found in a configuration, gathered so that all are reported at once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from utils.config.custom_args import FLAG
from utils.config.schema import join_path
from utils.errors import ConfigError

Path = tuple[str, ...]

OVERRIDES = "overrides"  # the origin of keys that no file gave
MOST_SHOWN = 50
"""Mistakes that a message lists; it counts the rest."""


@dataclass
class Problems:
    """Mistakes by the path of their key; `origins` knows which file gave each key."""

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
        """Say whether further ones will only be counted, so that hints for them are in vain."""
        return len(self.found) >= MOST_SHOWN

    def at(self, path: Path) -> bool:
        """Say whether a mistake is known at a key, below it or above it."""
        upwards = (path[:end] for end in range(len(path) + 1))
        return path in self._above or not self._paths.isdisjoint(upwards)

    def lines(self) -> list[str]:
        """Return the first mistakes as `file: key: what was found, what was expected`."""
        shown = itertools.islice(self.found, MOST_SHOWN)
        lines = [f"{self._file_of(path)}: {join_path(path)}: {text}" for path, text in shown]
        more = len(self.found) - len(lines)
        return [*lines, f"and {more} more"] if more else lines

    def raise_if_any(self) -> None:
        """Raise one ConfigError of all mistakes."""
        lines = self.lines()
        if len(lines) == 1:
            [(path, _)] = self.found
            own = self._file_of(path) in (self.source, OVERRIDES, FLAG)
            raise ConfigError(lines[0] if own else f"{lines[0]} (inherited by {self.source})")
        if lines:
            raise ConfigError("\n  ".join([f"{len(self.found)} mistakes in {self.source}", *lines]))

    def _file_of(self, path: Path) -> str:
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return self.source
