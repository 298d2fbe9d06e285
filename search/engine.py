"""What keeps the vectors: a folder of this machine by default, an engine by its URI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from search.index import Index, IndexedFile, Stamp
from search.scoring import Hit, Queries


class Engine(Protocol):
    """An index, wherever its vectors are."""

    def __len__(self) -> int:
        """Count the windows that can be found."""

    def stamps(self) -> dict[str, Stamp]:
        """Return the stamp of every file in the index."""

    def count_files(self) -> int:
        """Count the files that can be found."""

    def seconds(self, path: str) -> float | None:
        """Return how long a file is; None for one that is not in the index."""

    def require_features(self, records: Mapping[str, Any]) -> None:
        """Remember by whom the experts are computed; refuse others than before."""

    def add(self, files: Sequence[IndexedFile]) -> None:
        """Add files, each replacing the one of its name."""

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; names that are not in the index are passed over."""

    def search(self, queries: Queries, k: int, only: str | None = None) -> list[list[Hit]]:
        """Return the best window of each of the k best files, best first, for every query."""

    def close(self) -> None:
        """Let it go."""


def open_engine(place: str, width: int, identity: Mapping[str, Any]) -> Engine:
    """Open the index at a place, or begin one: a folder, a .db file or URI of Milvus.

    Raises UnusableIndexError for an index of other features, or an engine that does not answer.
    """
    if "://" in place or place.endswith(".db"):
        from search.milvus import MilvusIndex

        return MilvusIndex(place, width, identity)
    return Index(place, width, identity)
