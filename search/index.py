"""The index on this machine: exact search over a memory-mapped matrix.

    catalogue.sqlite            files, what was removed, and how many rows count
    vectors-<generation>.f32    (rows, d) float32, appended to
    windows-<generation>.bin    (rows,) of WINDOW, appended to

Rows are appended and flushed to the disk first; the transaction of the catalogue then makes them
count. A process killed in between leaves a tail that does not count and is overwritten by the next
writer. Removed rows stay until half of all are; then the rest is copied to a new generation.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.kernels.linear import linear
from search.scoring import Clips, Floats, Hit, Queries, best_of_files
from utils.declared import read_values
from utils.errors import DataError, ProjectError
from utils.kinds import MAPPING

WINDOW = np.dtype([("file", "<i8"), ("pattern", "<i8"), ("start", "<f8"), ("end", "<f8")])
CATALOGUE = "catalogue.sqlite"
FORMAT = 1
BLOCK = 1 << 26  # bytes of the matrix that several queries are compared with at once
MOST_SCORES = 1 << 26  # kept at once: queries are answered in groups that take at most 256 MB
WAIT = 60.0  # seconds for another writer to finish
TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (
  id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL,
  changed INTEGER NOT NULL, seconds REAL NOT NULL, first INTEGER NOT NULL, rows INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS removed (first INTEGER NOT NULL, rows INTEGER NOT NULL);
"""


class UnusableIndexError(ProjectError):
    """An index that cannot be used: damaged, of other features, or its engine out of reach."""


class Stamp(NamedTuple):
    """By what a changed file is recognised."""

    size: int
    changed: int
    """Time of the last change in nanoseconds."""


class IndexedFile(NamedTuple):
    """A file and its windows: clips of n rows, moments (n, 2) in seconds."""

    path: str
    stamp: Stamp
    seconds: float
    clips: Clips
    moments: NDArray[np.float64]


@dataclass(frozen=True)
class About:
    """The header of an index, as its catalogue holds it."""

    format: Annotated[int, "of the files"]
    width: Annotated[int, "of a vector"]
    identity: Annotated[dict[str, Any], MAPPING, "of the model and the features"]
    generation: Annotated[int, "number in the names of the files"]
    rows: Annotated[int, "rows that count"]
    features: Annotated[dict[str, Any] | None, MAPPING, "extractor of each expert"] = None


class Index:
    """An index in a folder; see the head of this file.

    `identity` names the features and the model of its vectors; an index of another one is
    refused. What an open index answers changes only by its own `add` and `remove`, or by `refresh`.
    """

    def __init__(self, folder: str | Path, width: int, identity: Mapping[str, Any]) -> None:
        """Open the index, or begin one. Raises UnusableIndexError for one of other features."""
        self.folder = Path(folder)
        self.width = width
        self.folder.mkdir(parents=True, exist_ok=True)
        self._identity = dict(identity)
        try:
            self._catalogue = sqlite3.connect(
                self.folder / CATALOGUE, timeout=WAIT, isolation_level=None, check_same_thread=False
            )
            self._begin()
            self.refresh()
        except (sqlite3.DatabaseError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise self._damaged(f"{type(error).__name__}: {error}") from error

    def _begin(self) -> None:
        """Create the tables in a new index; check those of an old one."""
        self._catalogue.execute("PRAGMA synchronous=FULL")
        if not self._has_tables():
            mine = {"format": FORMAT, "width": self.width, "identity": self._identity}
            with self._writing():
                for statement in TABLES.split(";"):
                    self._catalogue.execute(statement)
                for key, value in {**mine, "generation": 0, "rows": 0}.items():
                    self._catalogue.execute(
                        "INSERT OR IGNORE INTO about VALUES (?, ?)", (key, json.dumps(value))
                    )
        found = self._about()
        if (found.format, found.width, found.identity) != (FORMAT, self.width, self._identity):
            raise other_features(str(self.folder), found.identity, self._identity)

    def _has_tables(self) -> bool:
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'about'"
        return bool(self._catalogue.execute(query).fetchone()[0])

    def _about(self) -> About:
        rows = self._catalogue.execute("SELECT key, value FROM about")
        try:
            values = {key: json.loads(value) for key, value in rows}
            return read_values(About, values, CATALOGUE)
        except (ValueError, DataError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, reason: str) -> UnusableIndexError:
        return UnusableIndexError(
            f"{self.folder} is damaged: {reason}; remove this folder, it is made anew"
        )

    def close(self) -> None:
        """Close the catalogue; the index cannot be used any more."""
        self._catalogue.close()

    # What is in it

    def refresh(self) -> None:
        """Take in what other processes added or removed."""
        with self._reading():
            about = self._about()
            removed = self._catalogue.execute("SELECT first, rows FROM removed").fetchall()
            files = self._catalogue.execute("SELECT id, first, rows FROM files").fetchall()
            self._rows = about.rows
            self._vectors, self._windows = self._map(about.generation, self._rows)
        self._live: NDArray[np.bool_] = np.ones(self._rows, bool)
        for first, rows in removed:
            self._live[first : first + rows] = False
        self._check_owners(np.array(files, np.int64).reshape(-1, 3))
        self._patterns, self._codes = np.unique(self._windows["pattern"], return_inverse=True)

    def _map(self, generation: int, rows: int) -> tuple[Floats, NDArray[np.void]]:
        """Map the first `rows` rows of both files."""
        if not rows:
            return np.empty((0, self.width), np.float32), np.empty(0, WINDOW)
        vectors, windows = self._files(generation)
        needed = {vectors: 4 * self.width * rows, windows: WINDOW.itemsize * rows}
        for path, size in needed.items():
            if not path.is_file() or path.stat().st_size < size:
                raise self._damaged(f"{path.name} is missing or shorter than {size} bytes")
        # "c": pages are private if written to, which nothing does; torch takes no read-only ones
        return (
            np.memmap(vectors, np.float32, "c", shape=(rows, self.width)),
            np.fromfile(windows, WINDOW, rows),
        )

    def _check_owners(self, files: NDArray[np.int64]) -> None:
        """Raise UnusableIndexError unless every row that counts is one of its file: (n, 3)."""
        numbers, firsts, counts = files[np.argsort(files[:, 1], kind="stable")].T
        owners = np.repeat(numbers, counts)
        places = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts - firsts, counts)
        if not np.array_equal(places, np.flatnonzero(self._live)):
            raise self._damaged("its files and its rows do not belong together")
        if not np.array_equal(self._windows["file"][places], owners):
            raise self._damaged("its windows are of other files")

    def _files(self, generation: int) -> tuple[Path, Path]:
        return (
            self.folder / f"vectors-{generation}.f32",
            self.folder / f"windows-{generation}.bin",
        )

    def __len__(self) -> int:
        """Count the windows that can be found."""
        return int(self._live.sum())

    def stamps(self) -> dict[str, Stamp]:
        """Return the stamp of every file in the index."""
        rows = self._catalogue.execute("SELECT path, size, changed FROM files")
        return {path: Stamp(size, changed) for path, size, changed in rows}

    def count_files(self) -> int:
        """Count the files that can be found."""
        query = "SELECT count(*) FROM files WHERE rows > 0"
        return int(self._catalogue.execute(query).fetchone()[0])

    def seconds(self, path: str) -> float | None:
        """Return how long a file is; None for one that is not in the index."""
        query = "SELECT seconds FROM files WHERE path = ?"
        found = self._catalogue.execute(query, (path,)).fetchone()
        return None if found is None else float(found[0])

    # Changing it

    def require_features(self, records: Mapping[str, Any]) -> None:
        """Remember by whom the experts are computed; UnusableIndexError when others did before."""
        with self._writing():
            self._catalogue.execute(
                "INSERT OR IGNORE INTO about VALUES ('features', ?)", (json.dumps(records),)
            )
            found = self._about().features
        if found != json.loads(json.dumps(records)):
            raise other_features(str(self.folder), found, dict(records))

    def add(self, files: Sequence[IndexedFile]) -> None:
        """Add files, each replacing the one of its name; all of them or, when killed, none."""
        if not files:
            return
        with self._writing():
            about = self._about()
            rows, paths = about.rows, self._files(about.generation)
            self._forget([file.path for file in files])
            windows = []
            for file in files:
                count = len(file.moments)
                values = (file.path, *file.stamp, file.seconds, rows, count)
                number = self._catalogue.execute(
                    "INSERT INTO files (path, size, changed, seconds, first, rows) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    values,
                ).lastrowid
                part = np.empty(count, WINDOW)
                part["file"], part["pattern"] = number, file.clips.patterns
                part["start"], part["end"] = file.moments.T
                windows.append(part)
                rows += count
            vectors = [np.ascontiguousarray(file.clips.vectors, "<f4") for file in files]
            self._append(paths[0], 4 * self.width * about.rows, vectors)
            self._append(paths[1], WINDOW.itemsize * about.rows, windows)
            self._set("rows", rows)
        self.refresh()

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; names that are not in the index are passed over."""
        if not paths:
            return
        with self._writing():
            self._forget(paths)
        self._compact_if_worthwhile()
        self.refresh()

    def _forget(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._catalogue.execute(
                "INSERT INTO removed SELECT first, rows FROM files WHERE path = ?", (path,)
            )
            self._catalogue.execute("DELETE FROM files WHERE path = ?", (path,))

    def _set(self, key: str, value: int) -> None:
        self._catalogue.execute(
            "UPDATE about SET value = ? WHERE key = ?", (json.dumps(value), key)
        )

    @staticmethod
    def _append(path: Path, size: int, parts: Sequence[NDArray[Any]]) -> None:
        """Write behind the first `size` bytes, which count, over what does not."""
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(size)
            file.seek(size)
            for part in parts:
                part.tofile(file)
            file.flush()
            os.fsync(file.fileno())

    def _compact_if_worthwhile(self) -> None:
        """Copy the rows that count to a new generation when most do not."""
        query = "SELECT coalesce(sum(rows), 0) FROM removed"
        removed = self._catalogue.execute(query).fetchone()[0]
        if 2 * removed > self._about().rows:
            self.compact()

    def compact(self) -> None:
        """Copy the rows that count to a new generation of files; the old one goes."""
        with self._writing():
            about = self._about()
            old = about.generation
            vectors, windows = self._map(old, about.rows)
            paths = self._files(old + 1)
            for path in paths:
                path.unlink(missing_ok=True)
            rows = 0
            files = "SELECT id, first, rows FROM files ORDER BY first"
            with closing(self._catalogue.execute(files)) as found:
                kept = found.fetchall()
            with paths[0].open("wb") as matrix, paths[1].open("wb") as table:
                for number, first, count in kept:
                    vectors[first : first + count].tofile(matrix)
                    windows[first : first + count].tofile(table)
                    self._catalogue.execute(
                        "UPDATE files SET first = ? WHERE id = ?", (rows, number)
                    )
                    rows += count
                for file in (matrix, table):
                    file.flush()
                    os.fsync(file.fileno())
            self._catalogue.execute("DELETE FROM removed")
            self._set("generation", old + 1)
            self._set("rows", rows)
        for path in self._files(old):
            path.unlink(missing_ok=True)
        self.refresh()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the only writer's transaction: committed at the end, undone by any exception."""
        yield from self._transaction("BEGIN IMMEDIATE")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """See one state of the catalogue throughout."""
        yield from self._transaction("BEGIN")

    def _transaction(self, begin: str) -> Iterator[None]:
        try:
            self._catalogue.execute(begin)
        except sqlite3.OperationalError as error:
            raise UnusableIndexError(
                f"{self.folder} is in use by another process ({error}); try again later"
            ) from error
        try:
            yield
        except BaseException:
            self._catalogue.execute("ROLLBACK")
            raise
        self._catalogue.execute("COMMIT")

    # Answering

    def search(self, queries: Queries, k: int, only: str | None = None) -> list[list[Hit]]:
        """Return the best window of each of the k best files, best first, for every query.

        `only` is a pattern of file names as of a shell (`*` also matches slashes).
        """
        if queries.vectors.shape[1] != self.width:
            raise DataError(
                f"queries of {queries.vectors.shape[1]} numbers; {self.folder} has {self.width}"
            )
        counts = self._live if only is None else self._live & self._matching(only)
        if not counts.any():
            return [[] for _ in range(len(queries))]
        group = max(1, MOST_SCORES // self._rows)
        hits = []
        for first in range(0, len(queries), group):
            part = slice(first, first + group)
            scores = self.scores(
                Queries(queries.vectors[part], queries.weights[part], queries.divided)
            )
            scores[:, ~counts] = -np.inf
            hits += [
                self._hits(row, best_of_files(row, self._windows["file"], k)) for row in scores
            ]
        return hits

    def scores(self, queries: Queries) -> Floats:
        """Return the scores of every row, removed ones too: (Q, rows)."""
        scores = np.empty((len(queries), self._rows), np.float32)
        if len(queries) == 1:  # one product reads the matrix once, as fast as memory allows
            np.dot(self._vectors, queries.vectors[0], out=scores[0])
        else:
            many = torch.from_numpy(np.ascontiguousarray(queries.vectors))
            step = max(1, BLOCK // (4 * self.width))
            for first in range(0, self._rows, step):
                block = torch.from_numpy(self._vectors[first : first + step])
                scores[:, first : first + step] = linear(many, block).numpy()
        if not np.isfinite(scores).all():
            raise self._damaged("its vectors hold NaN or infinite values, or values near them")
        divisors = queries.divisors(self._patterns)
        with np.errstate(divide="ignore", invalid="ignore"):  # no expert in common: no score
            if len(self._patterns) == 1:
                scores /= divisors
            else:
                scores /= divisors[:, self._codes]
        scores[np.isnan(scores)] = -np.inf
        return scores

    def _matching(self, only: str) -> NDArray[np.bool_]:
        """Return which rows belong to files whose names match."""
        # By the numbers of files: another process may have moved their rows since `refresh`.
        query = "SELECT id FROM files WHERE path GLOB ?"
        numbers = [number for (number,) in self._catalogue.execute(query, (only,))]
        return np.isin(self._windows["file"], numbers)

    def _hits(self, scores: Floats, rows: NDArray[np.int64]) -> list[Hit]:
        hits = []
        for row in rows.tolist():
            window = self._windows[row]
            query = "SELECT path FROM files WHERE id = ?"
            found = self._catalogue.execute(query, (int(window["file"]),)).fetchone()
            if found is None:  # another process removed it since `refresh`
                continue
            start, end, pattern = (window[key].item() for key in ("start", "end", "pattern"))
            hits.append(Hit(found[0], float(scores[row]), start, end, pattern))
        return hits


def other_features(place: str, found: object, wanted: object) -> UnusableIndexError:
    """Return the error of an index whose vectors come from elsewhere, naming what differs."""
    lines = []
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            if found.get(key) != wanted.get(key):
                lines.append(f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} asked for")
    reason = "; ".join(lines) or "it has another format"
    return UnusableIndexError(
        f"{place} holds an index of other features ({reason}); choose another place with --index, "
        "or remove this one"
    )
