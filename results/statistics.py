"""Which differences between two trained systems could be chance.

Both systems answer the same queries, which belong to clips; each was trained with some seeds. Two
sources of chance are kept apart: the clips that happen to be in the split (resampled, paired: a
drawn clip brings the ranks of both systems and all their seeds), and the seeds of the trainings.

With few seeds, drawing seeds with replacement makes intervals far too narrow. Instead the variance
between seeds is estimated, freed of what the clips already explain, and added to every resample as
Student's t with the degrees of freedom that the seeds leave. Its variance over S seeds is that of
the metric less what resampling clips adds to it: E*[s2(theta*)] - s2(theta).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Summary = Callable[[np.ndarray], Mapping[str, float]]
"""0-based ranks (n,) -> metrics by name."""

ROUNDS = 4000
CONFIDENCE = 0.95
LEVEL = 0.05
TINY = 1e-9


@dataclass(frozen=True)
class Ranking:
    """The ranks of one system by seed, (S, n), and the clip of each query (n,)."""

    ranks: np.ndarray
    clips: np.ndarray


@dataclass(frozen=True)
class Difference:
    """A - B of one metric.

    low, high: bootstrap interval (CONFIDENCE); p: of the randomisation test, two-sided; seeds:
    whether it speaks of other trainings too (at least one system has two seeds).
    """

    first: float
    second: float
    low: float
    high: float
    p: float
    seeds: bool

    @property
    def difference(self) -> float:
        """The mean of the first system over its seeds less that of the second."""
        return self.first - self.second


def paired_differences(
    first: Ranking,
    second: Ranking,
    summary: Summary,
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare two systems by every metric. Raises ValueError where their queries differ.

    The test swaps the two systems on randomly chosen clips, a random seed of the one for a random
    seed of the other. Deterministic in `seed`.
    """
    if not np.array_equal(first.clips, second.clips):
        raise ValueError("the two systems answer different queries")
    draw = np.random.default_rng(seed)
    names = list(summary(first.ranks[0]))
    clips = _Clips.of(first.clips)
    both = np.concatenate([first.ranks, second.ranks])
    count = len(first.ranks)
    observed = _of_all(summary, both)
    with np.errstate(invalid="ignore"):  # a mean rank may be infinite
        resampled = np.stack(
            [_of_all(summary, both[:, clips.drawn(draw)]) for _ in range(rounds)]
        )  # (rounds, metrics, seeds of both)
        swapped = np.stack([_swapped(summary, first, second, clips, draw) for _ in range(rounds)])
        spread, freedom = _between_seeds(observed, resampled, count)
    noise = np.zeros((2, rounds, len(names)))
    if freedom:
        scale = spread * np.sqrt(1 / count + 1 / (len(both) - count))
        noise = draw.standard_t(freedom, size=noise.shape) * scale
    return {
        name: _difference(
            observed[place],
            count,
            resampled[:, place],
            swapped[:, place],
            noise[:, :, place],
            seeds=bool(freedom),
        )
        for place, name in enumerate(names)
    }


def _difference(
    observed: np.ndarray,
    count: int,
    resampled: np.ndarray,
    swapped: np.ndarray,
    noise: np.ndarray,
    *,
    seeds: bool,
) -> Difference:
    """Put together one metric of all seeds (S,), the first system's `count` first.

    resampled (rounds, S), swapped (rounds,), noise (2, rounds): of the interval and of the test.
    A metric that is infinite, or may be, says nothing: p is 1.
    """
    first, second = float(observed[:count].mean()), float(observed[count:].mean())
    if not (np.isfinite(resampled).all() and np.isfinite(observed).all()):
        return Difference(first, second, float("nan"), float("nan"), 1.0, seeds)
    drawn = resampled[:, :count].mean(axis=1) - resampled[:, count:].mean(axis=1) + noise[0]
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    extreme = int((np.abs(swapped + noise[1]) >= abs(first - second) - TINY).sum())
    p = (extreme + 1) / (len(swapped) + 1)
    return Difference(first, second, float(low), float(high), p, seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, 1979): none is below its own, order is kept."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(p_values), 0.0
    for step, place in enumerate(order):
        largest = max(largest, (len(p_values) - step) * p_values[place])
        corrected[place] = min(1.0, largest)
    return corrected


def welch(
    here: tuple[float, float, int], published: tuple[float, float, int], rounding: float = 0.0
) -> float:
    """Return the two-sided p of two means given (mean, deviation, number of seeds) (Welch, 1947).

    The difference is shortened by `rounding`, which printing may have added. Clips are the same on
    both sides: only the seeds count as chance.
    """
    from scipy.stats import t  # slow to import, and used here alone

    gap = max(0.0, abs(here[0] - published[0]) - rounding)
    parts = [deviation**2 / number for _, deviation, number in (here, published)]
    total = sum(parts)
    if gap == 0.0:
        return 1.0
    if total == 0.0:
        return 0.0
    freedom = total**2 / sum(
        part**2 / (number - 1)
        for part, (_, _, number) in zip(parts, (here, published), strict=True)
        if part
    )
    return float(2 * t.sf(gap / np.sqrt(total), freedom))


@dataclass(frozen=True)
class _Clips:
    """The queries of every clip: clip c has order[starts[c] : starts[c] + lengths[c]]."""

    order: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    clip_of: np.ndarray

    @classmethod
    def of(cls, clips: np.ndarray) -> _Clips:
        """Sort the queries by their clips (n,)."""
        _, clip_of, lengths = np.unique(clips, return_inverse=True, return_counts=True)
        order = np.argsort(clip_of, kind="stable")
        return cls(order, np.cumsum(lengths) - lengths, lengths, clip_of)

    def drawn(self, draw: np.random.Generator) -> np.ndarray:
        """Draw as many clips as there are, with replacement; return their queries."""
        chosen = draw.integers(0, len(self.starts), size=len(self.starts))
        lengths = self.lengths[chosen]
        skip = np.repeat(self.starts[chosen] - (np.cumsum(lengths) - lengths), lengths)
        return self.order[np.arange(len(skip)) + skip]


def _of_all(summary: Summary, ranks: np.ndarray) -> np.ndarray:
    """Return every metric of every row (S, n) -> (metrics, S)."""
    return np.array([list(summary(row).values()) for row in ranks]).T


def _swapped(
    summary: Summary,
    first: Ranking,
    second: Ranking,
    clips: _Clips,
    draw: np.random.Generator,
) -> np.ndarray:
    """Return the differences (metrics,) after swapping the systems on a random half of clips."""
    swap = (draw.random(len(clips.starts)) < 0.5)[clips.clip_of]
    pairs = max(len(first.ranks), len(second.ranks))
    one = first.ranks[_cycled(len(first.ranks), pairs, draw)]
    other = second.ranks[_cycled(len(second.ranks), pairs, draw)]
    left = _of_all(summary, np.where(swap, other, one)).mean(axis=1)
    return left - _of_all(summary, np.where(swap, one, other)).mean(axis=1)


def _cycled(count: int, length: int, draw: np.random.Generator) -> np.ndarray:
    """Return `length` places of `count`, each as often as the others, in random order."""
    return np.resize(draw.permutation(count), length)


def _between_seeds(
    observed: np.ndarray, resampled: np.ndarray, count: int
) -> tuple[np.ndarray, int]:
    """Return the deviation between seeds (metrics,), freed of the clips' share, and its freedom."""
    total = np.zeros(len(observed))
    freedom = 0
    for part in (slice(0, count), slice(count, None)):
        seeds = observed[:, part].shape[1]
        if seeds < 2:
            continue
        here = observed[:, part].var(axis=1, ddof=1)
        with_clips = resampled[:, :, part].var(axis=2, ddof=1).mean(axis=0)
        total += (seeds - 1) * (here - (with_clips - here))
        freedom += seeds - 1
    if not freedom:
        return total, 0
    return np.sqrt(np.maximum(total / freedom, 0.0)), freedom
