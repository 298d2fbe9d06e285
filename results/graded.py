"""Metrics of rankings with several relevant clips a query, graded; opt-in, named exactly.

Q queries, V clips. A query's list is ordered by score, ties as they come in the list of clips.
Queries without any relevant clip are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.evaluator import Evaluation
from utils.errors import DataError
from utils.files import read_json, sha256_of

Graded = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Relevances in the order of the list, and of the best order, both (Q, V) -> a score (Q,)."""


def average_precision(depth: int) -> Graded:
    """Return AP@depth: precision at each relevant clip among the first, over min(relevant, depth).

    A clip is relevant when its grade is above 0.
    """

    def score(found: np.ndarray, best: np.ndarray) -> np.ndarray:
        hits = found[:, :depth] > 0
        places = np.arange(1, hits.shape[1] + 1)
        precisions = np.cumsum(hits, axis=1) / places
        return (precisions * hits).sum(axis=1) / np.minimum((best > 0).sum(axis=1), depth)

    return score


def discounted_gain(depth: int) -> Graded:
    """Return nDCG@depth: grades over log2(1 + place), as a share of the best order's sum."""

    def score(found: np.ndarray, best: np.ndarray) -> np.ndarray:
        discounts = 1 / np.log2(2 + np.arange(min(depth, found.shape[1])))
        gains = [order[:, : len(discounts)] @ discounts for order in (found, best)]
        return gains[0] / gains[1]

    return score


GRADED: dict[str, tuple[Graded, str]] = {
    "mAP@10": (average_precision(10), "mean average precision among the first 10 clips"),
    "mAP@16": (
        average_precision(16),
        "the same among the first 16 (DCASE 2025, several relevant clips a query)",
    ),
    "nDCG@10": (
        discounted_gain(10),
        "graded gain among the first 10, discounted by log2(1 + place), over the best order's",
    ),
}
"""Name -> function, and its definition as results.json gives it."""
TASKS = {
    "t2v": "queries are captions, ranked are clips",
    "v2t": "queries are clips, ranked are all captions; a caption is as relevant to a clip as the "
    "clip to it",
}


def graded_results(path: Path, scored: Evaluation, clips: Sequence[str]) -> dict[str, Any]:
    """Score an evaluation by a file of relevances; return what results.json holds of it."""
    masks = scored.query_masks.astype(bool)
    asked = [(int(clip), int(caption)) for clip, caption in np.argwhere(masks)]
    relevances = read_relevances(path, clips, asked)
    definitions = {name: text for name, (_, text) in GRADED.items()}
    return {
        "file": path.name,
        "sha256": sha256_of(path),
        **graded_metrics(scored.similarities[masks.reshape(-1)], relevances),
        "definitions": definitions | TASKS,
    }


def graded_metrics(sims: np.ndarray, relevances: np.ndarray) -> dict[str, dict[str, float]]:
    """Score both directions: sims and relevances (Q, V), grades of 0 and more -> percent."""
    return {"t2v": _of_lists(sims, relevances), "v2t": _of_lists(sims.T, relevances.T)}


def _of_lists(sims: np.ndarray, relevances: np.ndarray) -> dict[str, float]:
    asked = (relevances > 0).any(axis=1)
    order = np.argsort(-sims[asked], axis=1, kind="stable")
    found = np.take_along_axis(relevances[asked], order, axis=1)
    best = -np.sort(-relevances[asked], axis=1)
    return {name: 100 * float(score(found, best).mean()) for name, (score, _) in GRADED.items()}


def read_relevances(
    path: Path, clips: Sequence[str], asked: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Read the grades of a file for queries (clip, caption number) -> (Q, V).

    {"clip": [{"relevant clip": grade, ...} of each caption]}; DataError for anything else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object from clips to a list, one entry a caption")
    place = {clip: number for number, clip in enumerate(clips)}
    relevances = np.zeros((len(asked), len(clips)))
    for row, (clip, caption) in enumerate(asked):
        found = content.get(clips[clip])
        grades = found[caption] if isinstance(found, list) and caption < len(found) else None
        if not isinstance(grades, dict):
            raise DataError(
                f"{path}: no grades for caption {caption} of clip {clips[clip][:200]!r}; expected "
                "an object from clips to grades, {} where none is relevant"
            )
        for name, grade in grades.items():
            if name not in place:
                raise DataError(f"{path}: clip {name[:200]!r} is not in the evaluated split")
            if isinstance(grade, bool) or not isinstance(grade, int | float) or grade < 0:
                raise DataError(f"{path}: found grade {grade!r}, expected a number from 0 on")
            relevances[row, place[name]] = grade
    if not relevances.any():
        raise DataError(f"{path}: no clip is relevant to any caption of the split")
    return relevances
