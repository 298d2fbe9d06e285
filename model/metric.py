"""Retrieval metrics: the ranks of matching pairs, and what is reported of them.

Q captions, V clips, K captions per clip: Q = V*K and caption q belongs to clip q // K. Ranks are
0-based and averaged over all orders that ties allow: with `above` scores strictly better and
`level` at least as good (its own among them), rank0 = (above + level - 1) / 2.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

BLOCK_BYTES = 2 << 20
"""Scores compared at a time: larger blocks overflow the cache, smaller ones cost in Python."""


def t2v_metrics(sims: np.ndarray, query_masks: np.ndarray | None = None) -> dict[str, float]:
    """Score text-to-audio retrieval: sims (Q, V), query_masks (V, K) of 0/1 -> metrics."""
    return summarise(t2v_ranks(sims, query_masks))


def v2t_metrics(sims: np.ndarray, query_masks: np.ndarray | None = None) -> dict[str, float]:
    """Score audio-to-text retrieval: sims (Q, V), query_masks (V, K) of 0/1 -> metrics."""
    return summarise(v2t_ranks(sims, query_masks))


def t2v_ranks(sims: np.ndarray, query_masks: np.ndarray | None = None) -> np.ndarray:
    """Rank each existing caption's own clip among all clips.

    Returns rank0 (n_existing,) in the order of the captions. Raises ValueError for NaN scores
    and for shapes that do not belong together.
    """
    exists = _existing(sims, query_masks)
    owner = np.arange(len(sims)) // (len(sims) // sims.shape[1])
    own = sims[np.arange(len(sims)), owner]

    def count(rows: slice) -> np.ndarray:
        return _points(_numbers(sims, rows), own[rows, None]).sum(axis=1, dtype=np.int64)

    return ((np.concatenate(list(_of_blocks(sims, count))) - 1) / 2)[exists]


def v2t_ranks(sims: np.ndarray, query_masks: np.ndarray | None = None) -> np.ndarray:
    """Rank each clip's best own caption among all existing captions.

    Returns rank0 (V,); infinite for a clip none of whose captions exist. Raises ValueError as
    t2v_ranks does.
    """
    exists = _existing(sims, query_masks)
    clips = sims.shape[1]
    per_clip = len(sims) // clips
    own = sims.reshape(clips, per_clip, clips)[np.arange(clips), :, np.arange(clips)]  # (V, K)
    lowest = np.full_like(own, -np.inf)
    best = np.where(exists.reshape(clips, per_clip), own, lowest).max(axis=1)

    def count(rows: slice) -> np.ndarray:
        block = _numbers(sims, rows)
        if not exists[rows].all():
            block = block[exists[rows]]
        return _points(block, best).sum(axis=0, dtype=np.int64)

    ranks = (sum(_of_blocks(sims, count)) - 1) / 2
    return np.where(exists.reshape(clips, per_clip).any(axis=1), ranks, np.inf)


class Metric(NamedTuple):
    """One number of the 0-based ranks (n,) of all queries."""

    of_ranks: Callable[[np.ndarray], float]
    heading: str
    """In tables."""
    published: str = ""
    """Key in tables of published results; by default that of METRICS."""


def recall(most: int) -> Callable[[np.ndarray], float]:
    """Return the percentage of ranks below `most`.

    recall(1) counts rank0 == 0, so a tie for the first place is no hit.
    """
    return lambda ranks: 100.0 * float(np.mean(ranks < most if most > 1 else ranks == 0))


def median_rank(ranks: np.ndarray) -> float:
    """Return the median of 1-based ranks."""
    return float(np.median(ranks) + 1)


def mean_rank(ranks: np.ndarray) -> float:
    """Return the mean of 1-based ranks."""
    return float(np.mean(ranks) + 1)


def geometric_mean(ranks: np.ndarray) -> float:
    """Return the geometric mean of R1, R5 and R10."""
    recalls = np.array([recall(most)(ranks) for most in (1, 5, 10)])
    return float(np.exp(np.log(recalls).mean())) if recalls.all() else 0.0


METRICS = {
    "R1": Metric(recall(1), "R@1"),
    "R5": Metric(recall(5), "R@5"),
    "R10": Metric(recall(10), "R@10"),
    "R50": Metric(recall(50), "R@50"),
    "MedR": Metric(median_rank, "MdR"),
    "MeanR": Metric(mean_rank, "MnR"),
    "geometric_mean_R1-R5-R10": Metric(geometric_mean, "Geom", "geom"),
}
"""Every metric by its key in results. Yours is a function and a line here: what `trainer.monitor`
may name, the columns of all tables, and summaries follow from this table."""


TASKS = {"t2v": "text-to-audio (t2v)", "v2t": "audio-to-text (v2t)"}
"""The two directions, and their names in tables."""


def heading_of(metric: str) -> str:
    """Return the heading of a metric; one that METRICS does not have any more is its own."""
    return METRICS[metric].heading if metric in METRICS else metric


def published_key(metric: str) -> str:
    """Return the key of a metric in the tables of published results."""
    return (METRICS[metric].published if metric in METRICS else "") or metric


def summarise(ranks: np.ndarray) -> dict[str, float]:
    """Turn 0-based ranks (n,) into the metrics of the table; R in percent, MedR, MeanR 1-based."""
    if len(ranks) == 0:
        raise ValueError("no query is left to rank; at least one caption and clip are needed")
    return {name: metric.of_ranks(ranks) for name, metric in METRICS.items()}


def _existing(sims: np.ndarray, query_masks: np.ndarray | None) -> np.ndarray:
    """Check the arguments and return which captions exist, (Q,) of bool."""
    if sims.ndim != 2 or sims.shape[1] == 0 or len(sims) == 0 or len(sims) % sims.shape[1]:
        raise ValueError(
            f"similarities are {sims.shape}; expected (Q, V) with Q a multiple of V, Q and V > 0"
        )
    if query_masks is None:
        return np.ones(len(sims), dtype=bool)
    expected = (sims.shape[1], len(sims) // sims.shape[1])
    if query_masks.shape != expected:
        raise ValueError(f"query_masks are {query_masks.shape}; expected (V, K) = {expected}")
    return query_masks.reshape(-1).astype(bool)


def _of_blocks(sims: np.ndarray, work: Callable[[slice], np.ndarray]) -> Iterator[np.ndarray]:
    """Yield what `work` makes of each block of rows, in order.

    Threads share the blocks, as many as torch uses: numpy lets them run side by side.
    """
    rows = max(1, BLOCK_BYTES // sims[0].nbytes)
    blocks = [slice(start, start + rows) for start in range(0, len(sims), rows)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(work, blocks)


def _numbers(sims: np.ndarray, rows: slice) -> np.ndarray:
    """Return a block of scores; ValueError when one is NaN."""
    block = sims[rows]
    if np.isnan(block.min()):
        query, clip = np.argwhere(np.isnan(block))[0]
        raise ValueError(f"the similarity of caption {rows.start + query} and clip {clip} is NaN")
    return block


def _points(block: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """Give 2 to scores better than their mark, 1 to equal ones, 0 to others: (n, m) of bytes."""
    return (block > mark).view(np.uint8) + (block >= mark).view(np.uint8)
