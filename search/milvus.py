"""The index in Milvus: an embedded file (`place.db`) or a cluster by its URI, with one interface.

A collection has one row for each window, and behind them one for each file (and pattern), which
says that the windows before it are all there: a file without one is added again. FLAT indexes
compare every vector, so that what they find is exact.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from search.index import IndexedFile, Stamp, UnusableIndexError, other_features
from search.scoring import Hit, Queries
from utils.errors import ProjectError, UsageError, needed_by

ABOUT, HEAD, WINDOW = 0, 1, 2
"""Kinds of rows: of the features, of a file, of a window."""
FIELDS = ("path", "pattern", "begin", "finish", "size", "changed", "seconds")
LONGEST_NAME = 4096
MOST = 16_384
"""Rows that Milvus returns at most."""
ROWS_AT_ONCE = 1000
PATIENCE = 10.0


class MilvusIndex:
    """An index kept by Milvus; see `search/engine.py` for what each method does."""

    def __init__(self, place: str, width: int, identity: Mapping[str, Any]) -> None:
        """Connect; make the collection of this identity when there is none.

        Raises UnusableIndexError when the engine does not answer.
        """
        self.place, self.width = place, width
        text = json.dumps({"width": width, **identity}, sort_keys=True)
        self.collection = f"clips_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        if "://" not in place:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        with self._speaking():
            self._client = _connect(place)
            if not self._client.has_collection(self.collection):
                self._create(text)
            self._client.load_collection(self.collection)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turn what the engine refuses into one error."""
        try:
            yield
        except ProjectError:
            raise
        except Exception as error:  # pymilvus lets errors of several libraries through
            if type(error).__module__.partition(".")[0] not in ("pymilvus", "grpc", "milvus_lite"):
                raise
            reason = str(getattr(error, "message", error)).strip().split("\n")[0]
            remedy = "is it running, and is the address right? Without --index a folder is used"
            if "://" not in self.place:
                remedy = "if a process was killed while it wrote, remove the file: it is made anew"
            raise UnusableIndexError(
                f"the engine at {self.place} cannot be used: {reason}; {remedy}"
            ) from error

    def _create(self, description: str) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=True, description=description)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.width)
        schema.add_field("path", DataType.VARCHAR, max_length=LONGEST_NAME)
        for name in ("kind", "pattern", "size", "changed"):
            schema.add_field(name, DataType.INT64)
        for name in ("begin", "finish", "seconds"):
            schema.add_field(name, DataType.DOUBLE)
        indexes = self._client.prepare_index_params()
        indexes.add_index(field_name="vector", index_type="FLAT", metric_type="IP")
        self._client.create_collection(
            self.collection, schema=schema, index_params=indexes, consistency_level="Strong"
        )

    def close(self) -> None:
        """Disconnect."""
        self._client.close()

    # What is in it

    def __len__(self) -> int:
        with self._speaking():
            found = self._client.query(
                self.collection, filter=f"kind == {WINDOW}", output_fields=["count(*)"]
            )
        return int(found[0]["count(*)"])

    def stamps(self) -> dict[str, Stamp]:
        """Return the stamp of every file in the index."""
        rows = self._rows(f"kind == {HEAD}", ["path", "size", "changed"])
        return {row["path"]: Stamp(row["size"], row["changed"]) for row in rows}

    def count_files(self) -> int:
        """Count the files that can be found."""
        rows = self._rows(f"kind == {HEAD} and pattern > 0", ["path"])
        return len({row["path"] for row in rows})

    def seconds(self, path: str) -> float | None:
        """Return how long a file is; None for one that is not in the index."""
        rows = self._rows(f"kind == {HEAD} and path == {_quoted(path)}", ["seconds"])
        return float(rows[0]["seconds"]) if rows else None

    def _rows(self, condition: str, fields: list[str]) -> list[dict[str, Any]]:
        with self._speaking():
            iterator = self._client.query_iterator(
                self.collection, batch_size=ROWS_AT_ONCE, filter=condition, output_fields=fields
            )
            rows: list[dict[str, Any]] = []
            while batch := iterator.next():
                rows += batch
            iterator.close()
        return rows

    # Changing it

    def require_features(self, records: Mapping[str, Any]) -> None:
        """Remember by whom the experts are computed; UnusableIndexError when others did before."""
        text = json.dumps(records, sort_keys=True)
        found = self._rows(f"kind == {ABOUT}", ["path"])
        if not found:
            self._insert([self._row(ABOUT, text)])
        elif found[0]["path"] != text:
            raise other_features(self.place, json.loads(found[0]["path"]), dict(records))

    def add(self, files: Sequence[IndexedFile]) -> None:
        """Add files, each replacing the one of its name."""
        if not files:
            return
        self._delete([file.path for file in files])
        windows, heads = [], []
        for file in files:
            for vector, pattern, (begin, finish) in zip(
                *file.clips, file.moments.tolist(), strict=True
            ):
                row = self._row(WINDOW, file.path, pattern=int(pattern), begin=begin, finish=finish)
                windows.append({**row, "vector": vector})
            stamp = {**file.stamp._asdict(), "seconds": file.seconds}
            for pattern in sorted(set(file.clips.patterns.tolist())) or [0]:
                heads.append(self._row(HEAD, file.path, pattern=pattern, **stamp))
        self._insert(windows)
        self._insert(heads)

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; names that are not in the index are passed over."""
        if paths:
            self._delete(paths)

    def _row(self, kind: int, path: str, **values: float) -> dict[str, Any]:
        if len(path.encode(errors="surrogateescape")) >= LONGEST_NAME:
            raise UsageError(f"{path[:80]}...: longer than {LONGEST_NAME} bytes; shorten the name")
        row = {**dict.fromkeys(FIELDS, 0), "kind": kind, "path": path, **values}
        return {**row, "vector": np.zeros(self.width, np.float32)}

    def _insert(self, rows: Sequence[dict[str, Any]]) -> None:
        with self._speaking():
            for first in range(0, len(rows), ROWS_AT_ONCE):
                self._client.insert(self.collection, list(rows[first : first + ROWS_AT_ONCE]))
            self._client.flush(self.collection)

    def _delete(self, paths: Sequence[str]) -> None:
        with self._speaking():
            for first in range(0, len(paths), ROWS_AT_ONCE):
                names = ", ".join(map(_quoted, paths[first : first + ROWS_AT_ONCE]))
                condition = f"kind > {ABOUT} and path in [{names}]"
                self._client.delete(self.collection, filter=condition)

    # Answering

    def search(self, queries: Queries, k: int, only: str | None = None) -> list[list[Hit]]:
        """Return the best window of each of the k best files, best first, for every query."""
        heads = self._rows(f"kind == {HEAD} and pattern > 0", ["pattern"])
        best: list[dict[str, Hit]] = [{} for _ in range(len(queries))]
        for pattern in sorted({row["pattern"] for row in heads}):
            condition = f"kind == {WINDOW} and pattern == {pattern}"
            if only is not None:
                condition += f" and path like {_quoted(_like(only))}"
            divisors = queries.divisors(np.array([pattern]))[:, 0].tolist()
            for number, hits in enumerate(self._best_files(queries, k, condition)):
                for path, row in hits.items():
                    score = row["distance"] / divisors[number] if divisors[number] else -np.inf
                    found = best[number].get(path)
                    if np.isfinite(score) and (found is None or score > found.score):
                        best[number][path] = Hit(path, score, row["begin"], row["finish"], pattern)
        return [sorted(hits.values(), key=lambda hit: (-hit.score, hit.file))[:k] for hits in best]

    def _best_files(
        self, queries: Queries, k: int, condition: str
    ) -> list[dict[str, dict[str, Any]]]:
        """Return the best window of at least k files for every query: {file: row}."""
        limit = min(MOST, 4 * k)
        while True:
            with self._speaking():
                answers = self._client.search(
                    self.collection,
                    data=list(queries.vectors),
                    filter=condition,
                    limit=limit,
                    output_fields=["path", "begin", "finish"],
                    search_params={"metric_type": "IP"},
                    anns_field="vector",
                )
            found: list[dict[str, dict[str, Any]]] = []
            for rows in answers:
                files: dict[str, dict[str, Any]] = defaultdict(dict)
                for row in rows:  # best first
                    if not files[row["entity"]["path"]]:
                        files[row["entity"]["path"]] = {
                            **row["entity"],
                            "distance": row["distance"],
                        }
                found.append(dict(files))
            full = max((len(rows) for rows in answers), default=0) >= limit
            if limit >= MOST or not full or min(map(len, found)) >= k:
                return found
            limit = min(MOST, 8 * limit)


def _connect(place: str) -> Any:  # noqa: ANN401
    """Return a client of the engine; the error names how to get the library."""
    purpose = f"{place}: an index in Milvus"
    with needed_by(purpose, "requirements/milvus.txt", UnusableIndexError):
        from pymilvus import MilvusClient
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its errors come as exceptions too
    make: Callable[..., Any] = MilvusClient
    return make(place, token=os.environ.get("MILVUS_TOKEN", ""), timeout=PATIENCE)


def _quoted(text: str) -> str:
    """Return a text as a literal of Milvus' expressions."""
    return json.dumps(text, ensure_ascii=False)


def _like(only: str) -> str:
    """Return a pattern of names of a shell as one of `like`."""
    if "[" in only:
        raise UsageError(f"--filter {only}: this engine knows * and ? alone, not [")
    escaped = only.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")
