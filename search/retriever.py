"""Retriever: recordings in, words in, recordings and moments out.

r = Retriever.load("RUN")
r.add("FOLDER")
r.search("a dog barks")
"""

from __future__ import annotations

import functools
import hashlib
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.collection import Changes, update
from search.embedder import Embedder
from search.engine import Engine, open_engine
from search.load import checkpoint_of, load_embedder
from search.scoring import Clips, Hit, Queries, Span
from utils.errors import DataError, UsageError
from utils.files import sha256_of

PLACE = Path("data") / "search"
"""Default folder of indexes."""


@dataclass(frozen=True)
class Result:
    """A recording that was found: `file` below its folder, its best moment in seconds.

    `experts` are the weights of the experts in the score; they sum to 1.
    """

    rank: int
    score: float
    file: str
    path: Path
    start: float
    end: float
    experts: dict[str, float]

    def plain(self) -> dict[str, Any]:
        """Return what JSON answers hold of it: numbers in seconds and shares."""
        return {key: getattr(self, key) for key in ("file", "score", "start", "end", "experts")}


class Results(list[Result]):
    """Results of one query, best first; a notebook and the command show them as a table."""

    def __repr__(self) -> str:
        """Return a line a result below a line of headings."""
        if not self:
            return "  nothing found"
        width = max(len(result.file) for result in self)
        names = {name: max(5, len(name)) for name in self[0].experts}
        columns = "  ".join(f"{name:>{wide}}" for name, wide in names.items())
        lines = [f"{'':4}{'score':>6}  {'file':{width}}  {'moment':11}  {columns}"]
        for one in self:
            moment = f"{clock(one.start)}-{clock(one.end)}"
            shares = "  ".join(f"{one.experts[name]:>{wide}.0%}" for name, wide in names.items())
            lines.append(
                f"{one.rank:3}.{one.score:6.3f}  {one.file:{width}}  {moment:11}  {shares}"
            )
        return "\n".join(lines)


class Retriever:
    """A model and the folders that are searched with it."""

    def __init__(self, checkpoint: Path, span: Span = Span(), **loading: Any) -> None:  # noqa: ANN401, B008
        """Take a checkpoint; `loading` is passed on to `load_embedder` when it is needed."""
        self.checkpoint = checkpoint
        self.span = span
        self._loading = loading
        self._opened: dict[Path, Engine] = {}

    @classmethod
    def load(
        cls,
        run: str | Path | None = None,
        *,
        window: float = Span().window,
        hop: float = Span().hop,
        text: Mapping[str, Any] | None = None,
        weights: Mapping[str, Path] | None = None,
    ) -> Retriever:
        """Load a trained run (its folder or checkpoint), without one the default model.

        Recordings are found by windows of `window` seconds that begin every `hop`; 0: as a whole.
        """
        if window < 0 or hop <= 0:
            raise UsageError(f"window {window}, hop {hop}: expected seconds, hop more than 0")
        span = Span(float(window), float(hop))
        return cls(checkpoint_of(run), span, text=text, weights=weights)

    @functools.cached_property
    def embedder(self) -> Embedder:
        """The model, its text encoder and its extractors."""
        return load_embedder(self.checkpoint, **self._loading)

    # Folders

    def add(self, folder: str | Path, *, index: str | Path | None = None) -> Changes:
        """Take a folder's recordings in, computing only what is new or changed.

        Its index is kept at `index` (a folder, or the URI of an engine), by default below
        data/search. Raises DataError when there is no recording that can be read.
        """
        root = Path(folder)
        if not root.is_dir():
            raise DataError(f"{folder}: is no folder; give the folder of the recordings")
        root = root.resolve()
        if root not in self._opened:
            place = str(index or self.default_place(root))
            identity = {**self._identity, "folder": str(root)}
            self._opened[root] = open_engine(place, self.embedder.width, identity)
        engine = self._opened[root]
        return update(root, engine, lambda: self.embedder, self.span)

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        return {"model": sha256_of(self.checkpoint), **self.span._asdict()}

    def default_place(self, root: Path) -> Path:
        """Return where the index of a folder is kept: one for each model and span."""
        key = f"{root}\n{sorted(self._identity.items())}"
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:12]
        return PLACE / f"{root.name[:100]}-{digest}"

    @property
    def folders(self) -> list[Path]:
        """The folders that are searched."""
        return list(self._opened)

    def engine(self, root: Path) -> Engine:
        """Return the index of a folder that was added."""
        return self._opened[root]

    # Searching

    def search(self, query: str, k: int = 10, only: str | None = None) -> Results:
        """Return the k recordings nearest to a text, best first.

        `only` takes those whose names match (`*` matches any characters; without one: contain it).
        """
        return self.search_all([query], k, only)[0]

    def search_all(
        self, queries: Sequence[str], k: int = 10, only: str | None = None
    ) -> list[Results]:
        """Return what `search` returns for each of several texts."""
        return self._find(self.embed_text(queries), k, only) if queries else []

    def like(
        self,
        file: str | Path,
        k: int = 10,
        only: str | None = None,
        moment: tuple[float, float] | None = None,
    ) -> Results:
        """Return the k recordings that sound most like one, or like a moment of it."""
        path = Path(file)
        clips = self.embedder.embed_clips([self.embedder.extract(path, moment).tokens])
        queries = self.embedder.as_queries(clips)
        found = self._find(queries, k + 1, only)[0]
        others = [result for result in found if result.path != path.resolve()]
        return Results(
            Result(**{**vars(result), "rank": rank})
            for rank, result in enumerate(others[:k], start=1)
        )

    def _find(self, queries: Queries, k: int, only: str | None) -> list[Results]:
        if k < 1:
            raise UsageError(f"k is {k}; expected at least 1")
        if not self._opened:
            raise UsageError('there is nothing to search yet; first: r.add("FOLDER")')
        if only is not None and not set(only) & set("*?["):
            only = f"*{only}*"
        each = [
            [[(root, hit) for hit in hits] for hits in engine.search(queries, k, only)]
            for root, engine in self._opened.items()
        ]
        found = []
        for query in range(len(queries)):
            merged = heapq.merge(*(one[query] for one in each), key=lambda pair: -pair[1].score)
            ranked = enumerate(list(merged)[:k], start=1)
            found.append(
                Results(self._result(queries, query, rank, *pair) for rank, pair in ranked)
            )
        return found

    def _result(self, queries: Queries, query: int, rank: int, root: Path, hit: Hit) -> Result:
        shares = queries.shares(query, hit.pattern)
        experts = dict(zip(self.embedder.names, shares, strict=True))
        path = root / hit.file
        return Result(rank, hit.score, hit.file, path, hit.start, hit.end, experts)

    # Embeddings

    def embed_text(self, texts: str | Sequence[str]) -> Queries:
        """Return texts as the model embeds them: .vectors (Q, d), .weights (Q, M) of experts."""
        return self.embedder.embed_texts([texts] if isinstance(texts, str) else list(texts))

    def embed_audio(self, files: str | Path | Sequence[str | Path]) -> Clips:
        """Return whole recordings as the model embeds them: .vectors (n, d), .patterns (n,)."""
        paths = [files] if isinstance(files, str | Path) else files
        tokens = [self.embedder.extract(Path(path)).tokens for path in paths]
        return self.embedder.embed_clips(tokens)

    def similarity(
        self, texts: str | Sequence[str], files: str | Path | Sequence[str | Path]
    ) -> NDArray[np.float32]:
        """Return the similarities of texts and whole recordings: (Q, n)."""
        queries, clips = self.embed_text(texts), self.embed_audio(files)
        return queries.vectors @ clips.vectors.T / queries.divisors(clips.patterns)


def clock(seconds: float) -> str:
    """Return a time as mm:ss, of more than an hour too."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:02d}:{rest:02d}"
