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
    first: np.ndarray,
    second: np.ndarray,
    clips: np.ndarray,
    summary: Summary,
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare two systems by every metric: ranks by seed (S, n) of each, the clip of a query (n,).

    The test swaps the two systems on randomly chosen clips, a random seed of the one for a random
    seed of the other. Deterministic in `seed`.
    """
    draw = np.random.default_rng(seed)
    _, clip_of, lengths = np.unique(clips, return_inverse=True, return_counts=True)
    queries = np.full((len(lengths), lengths.max()), -1)  # a row a clip, padded with -1
    queries[np.arange(lengths.max()) < lengths[:, None]] = np.argsort(clip_of, kind="stable")
    both, count = np.concatenate([first, second]), len(first)

    def metrics(ranks: np.ndarray) -> np.ndarray:
        """Return every metric of every row (S, n) -> (metrics, S)."""
        return np.array([list(summary(row).values()) for row in ranks]).T

    def resampled() -> np.ndarray:
        """Draw as many clips as there are, with replacement -> (metrics, seeds of both)."""
        drawn = queries[draw.integers(0, len(queries), size=len(queries))]
        return metrics(both[:, drawn[drawn >= 0]])

    def swapped() -> np.ndarray:
        """Swap the systems on a random half of the clips -> differences (metrics,)."""
        swap = (draw.random(len(queries)) < 0.5)[clip_of]
        pairs = max(len(first), len(second))
        one, other = (
            ranks[np.resize(draw.permutation(len(ranks)), pairs)] for ranks in (first, second)
        )
        left = metrics(np.where(swap, other, one)).mean(axis=1)
        return left - metrics(np.where(swap, one, other)).mean(axis=1)

    with np.errstate(invalid="ignore"):  # a mean rank may be infinite
        observed = metrics(both)
        samples = np.stack([resampled() for _ in range(rounds)])
        swaps = np.stack([swapped() for _ in range(rounds)])
        spread, freedom = _between_seeds(observed, samples, count)
        gaps = samples[:, :, :count].mean(axis=2) - samples[:, :, count:].mean(axis=2)
    if freedom:
        scale = spread * np.sqrt(1 / count + 1 / (len(both) - count))
        noise = draw.standard_t(freedom, size=(2, rounds, len(observed))) * scale
        gaps, swaps = gaps + noise[0], swaps + noise[1]
    found = {}
    for place, name in enumerate(summary(first[0])):
        one, other = (float(part.mean()) for part in np.split(observed[place], [count]))
        low, high, p = np.nan, np.nan, 1.0  # a metric that is infinite, or may be, says nothing
        if np.isfinite(samples[:, place]).all() and np.isfinite(observed[place]).all():
            low, high = np.quantile(gaps[:, place], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            extreme = (np.abs(swaps[:, place]) >= abs(one - other) - TINY).sum()
            p = (int(extreme) + 1) / (rounds + 1)
        found[name] = Difference(one, other, float(low), float(high), p, seeds=freedom > 0)
    return found


def _between_seeds(observed: np.ndarray, samples: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """Return the deviation between seeds (metrics,), freed of the clips' share, and its freedom."""
    total, freedom = np.zeros(len(observed)), 0
    for part in (slice(0, count), slice(count, None)):
        more = observed[:, part].shape[1] - 1
        if more:
            here = observed[:, part].var(axis=1, ddof=1)
            with_clips = samples[:, :, part].var(axis=2, ddof=1).mean(axis=0)
            total += more * (here - (with_clips - here))
            freedom += more
    return np.sqrt(np.maximum(total / max(freedom, 1), 0.0)), freedom


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, 1979): none is below its own, order is kept."""
    order = np.argsort(p_values)
    stricter = np.arange(len(order), 0, -1) * np.array(p_values)[order]
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(stricter))
    return corrected.tolist()


Mean = tuple[float, float | None, int]
"""Mean, deviation (None: of one seed), number of seeds."""


def welch(here: Mean, published: Mean, rounding: float = 0.0) -> float:
    """Return the two-sided p of two means (Welch, 1947).

    The difference is shortened by `rounding`, which printing may have added. Clips are the same on
    both sides: only the seeds count as chance.
    """
    from scipy.stats import ttest_ind_from_stats  # slow to import, and used here alone

    gap = max(0.0, abs(here[0] - published[0]) - rounding)
    spreads = [(deviation or 0.0, seeds) for _, deviation, seeds in (here, published)]
    if gap == 0.0 or not any(deviation for deviation, _ in spreads):
        return float(gap == 0.0)
    return float(ttest_ind_from_stats(gap, *spreads[0], 0.0, *spreads[1], equal_var=False).pvalue)
