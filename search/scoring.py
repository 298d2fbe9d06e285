"""Queries, clips and their scores: inner products that missing experts divide.

Q queries, n clips (windows of files), M experts, d width of a vector.

A clip is one vector (its experts' side by side, missing ones zero) and its availability pattern, a
number whose bit i is set when it has expert i. A query is one vector (its experts' side by side,
each times its weight) and its weights. Their score is the inner product divided by the sum of the
weights of the experts that the clip has: the similarity of the mixture models, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class Clips(NamedTuple):
    """Embedded clips: vectors (n, d), patterns (n,)."""

    vectors: Floats
    patterns: Integers


@dataclass(frozen=True)
class Queries:
    """Embedded queries: vectors (Q, d), weights (Q, M).

    `divided` False: scores are the plain inner products, as of models that ignore what is missing.
    """

    vectors: Floats
    weights: Floats
    divided: bool = True

    def __len__(self) -> int:
        return len(self.vectors)

    def divisors(self, patterns: Integers) -> Floats:
        """Return what the inner products with clips of these patterns are divided by: (Q, P)."""
        if not self.divided:
            return np.ones((len(self), len(patterns)), np.float32)
        return self.weights @ present(patterns, self.weights.shape[1]).T

    def shares(self, query: int, pattern: int) -> list[float]:
        """Return each expert's part of the weight in the score of such a clip, in order."""
        weights = self.weights[query].astype(np.float64)
        if self.divided:
            weights = weights * present(np.array([pattern]), len(weights))[0]
        total = weights.sum()
        return [float(weight / total) if total else 0.0 for weight in weights]


class Span(NamedTuple):
    """How a recording is cut into clips: windows of so many seconds, begun every so many."""

    window: float = 10.0
    hop: float = 5.0

    def moments(self, seconds: float) -> NDArray[np.float64]:
        """Return beginnings and ends (n, 2) of the windows of a recording of this length.

        One no longer than a window is one clip; the last window of a longer one ends with it.
        """
        if not self.window or seconds <= self.window:
            return np.array([[0.0, seconds]])
        last = seconds - self.window
        starts = np.append(np.arange(0.0, last, self.hop, dtype=np.float64), last)
        return np.stack([starts, starts + self.window], axis=1)


class Hit(NamedTuple):
    """One window of a file that was found."""

    file: str
    score: float
    start: float
    end: float
    pattern: int


def pattern_of(available: NDArray[np.generic]) -> Integers:
    """Return the patterns of availabilities (n, M) of 0/1: (n,)."""
    bits = np.left_shift(np.int64(1), np.arange(available.shape[1], dtype=np.int64))
    return (available.astype(bool) * bits).sum(axis=1, dtype=np.int64)


def present(patterns: Integers, experts: int) -> Floats:
    """Return the availabilities of patterns: (P,) -> (P, M) of 0/1."""
    return ((patterns[:, None] >> np.arange(experts)) & 1).astype(np.float32)


def best_of_files(scores: Floats, files: NDArray[np.generic], k: int) -> Integers:
    """Return the best row of each of the k best files, best first; of equal scores the earlier row.

    Shapes: scores (n,), -inf where a row does not count, files (n,) -> (at most k,).
    """
    limit = k
    while True:
        limit = min(2 * limit, len(scores))
        rows = _best_rows(scores, limit)
        _, first = np.unique(files[rows], return_index=True)
        if len(first) >= k or limit == len(scores):
            return rows[np.sort(first)[:k]]
        limit *= 4


def _best_rows(scores: Floats, limit: int) -> Integers:
    """Return at least `limit` best rows that count, and every row equal to the last: sorted."""
    if limit < len(scores):
        threshold = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        rows = np.flatnonzero(scores >= threshold)
    else:
        rows = np.arange(len(scores))
    rows = rows[np.isfinite(scores[rows])]
    return rows[np.lexsort((rows, -scores[rows]))]
