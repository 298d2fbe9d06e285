"""The mistakes found in a configuration, gathered so that all are reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from utils.config.custom_args import FLAG
from utils.config.schema import join_path
from utils.errors import ConfigError

Path = tuple[str, ...]

OVERRIDES = "overrides"  # the origin of keys that no file gave


@dataclass
class Problems:
    """Mistakes by the path of their key; `origins` knows which file gave each key."""

    source: str
    origins: Mapping[Path, str] = field(default_factory=dict)
    found: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, path: Path, message: str) -> None:
        """Note a mistake at a key."""
        if (path, message) not in self.found:
            self.found.append((path, message))

    def at(self, path: Path) -> bool:
        """Say whether a mistake is known at a key, below it or above it."""
        return any(
            known[: len(path)] == path or path[: len(known)] == known for known, _ in self.found
        )

    def lines(self) -> list[str]:
        """Return the mistakes as lines `file: key: what was found, what was expected`."""
        return [f"{self._file_of(path)}: {join_path(path)}: {text}" for path, text in self.found]

    def raise_if_any(self) -> None:
        """Raise one ConfigError of all mistakes."""
        lines = self.lines()
        if len(lines) == 1:
            own = self._file_of(self.found[0][0]) in (self.source, OVERRIDES, FLAG)
            raise ConfigError(lines[0] if own else f"{lines[0]} (inherited by {self.source})")
        if lines:
            raise ConfigError("\n  ".join([f"{len(lines)} mistakes in {self.source}", *lines]))

    def _file_of(self, path: Path) -> str:
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return self.source
