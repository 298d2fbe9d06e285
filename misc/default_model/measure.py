"""Held-out phrases: how often a model finds a recording of a phrase that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from model import RetrievalModel
from model.linear_alignment import LinearAlignment
from utils.config import Config, ExpertConfig

Tokens = np.ndarray
BATCH = 64
Fitted = Callable[["Examples"], RetrievalModel]
"""Makes a model of training examples."""


@dataclass(frozen=True)
class Examples:
    """Clips: {expert: tokens (N, D)} each, the vector (D,) of each phrase, and the fold."""

    features: list[dict[str, Tokens]]
    phrases: list[str]
    vectors: np.ndarray
    folds: np.ndarray

    def where(self, chosen: np.ndarray) -> Examples:
        """Return the examples at these places (n,)."""
        places = chosen.tolist()
        return Examples(
            [self.features[i] for i in places],
            [self.phrases[i] for i in places],
            self.vectors[chosen],
            self.folds[chosen],
        )

    def batches(self, experts: Sequence[ExpertConfig], order: np.ndarray) -> list[tuple]:
        """Return text, experts, available and numbers of clips in an order (n,)."""
        made = []
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            text = torch.from_numpy(self.vectors[part])[:, None, None]
            padded = {one.name: self._padded(one, part) for one in experts}
            there = {one.name: torch.ones(len(part)) for one in experts}
            made.append((text, padded, there, torch.from_numpy(part)))
        return made

    def _padded(self, expert: ExpertConfig, part: np.ndarray) -> torch.Tensor:
        rows = [torch.from_numpy(self.features[i][expert.name]) for i in part.tolist()]
        rows = [row[: expert.max_tokens] for row in rows]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def fit_linear(config: Config, changes: Mapping[str, Any], examples: Examples) -> LinearAlignment:
    """Return a linear alignment of examples, with changed arguments."""
    args = {**config.arch.args, **changes, "passes": 1}
    model = LinearAlignment(config.experts, config.text, **args)
    batches = examples.batches(config.experts, np.arange(len(examples.phrases)))
    model.prepare(lambda _: batches, 1)
    return model.eval()


@torch.inference_mode()
def ranks_of_phrases(model: RetrievalModel, config: Config, held_out: Examples) -> list[int]:
    """Return for each phrase the rank of the first clip that has it, among all held-out clips."""
    batches = held_out.batches(config.experts, np.arange(len(held_out.phrases)))
    rows = [model.encode_clips(experts, available) for _, experts, available, _ in batches]
    clips = tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
    phrases = np.array(held_out.phrases)
    ranks = []
    for phrase, first in zip(*np.unique(phrases, return_index=True), strict=True):
        text = torch.from_numpy(held_out.vectors[first])[None, None, None]
        scores = model.score(model.encode_captions(text), clips)[0].numpy()
        best = scores[phrases == phrase].max()
        others = scores[phrases != phrase]
        ranks.append(1 + int((others > best).sum()) + int((others == best).sum()) // 2)
    return ranks


def cross_validate(config: Config, clips: Examples, mixtures: Examples, fit: Fitted) -> list[int]:
    """Return the ranks of all phrases, each by a model that has seen neither it nor its source."""
    ranks = []
    for fold in np.unique(clips.folds).tolist():
        seen = clips.where(np.flatnonzero(clips.folds != fold))
        mixed = mixtures.where(np.flatnonzero(mixtures.folds != fold))
        model = fit(joined(seen, mixed))
        held_out = clips.where(np.flatnonzero(clips.folds == fold))
        ranks += ranks_of_phrases(model, config, held_out)
    return ranks


def joined(first: Examples, second: Examples) -> Examples:
    """Return the examples of both."""
    if not second.phrases:
        return first
    return Examples(
        first.features + second.features,
        first.phrases + second.phrases,
        np.concatenate([first.vectors, second.vectors]),
        np.concatenate([first.folds, second.folds]),
    )


def summary(ranks: Sequence[int]) -> Mapping[str, float]:
    """Return R@1, R@5, R@10 in percent, and the median rank."""
    found = np.asarray(ranks)
    shares = {f"R@{k}": round(100 * float((found <= k).mean()), 1) for k in (1, 5, 10)}
    return {**shares, "MedR": float(np.median(found)), "phrases": len(found)}
