"""Linear alignment: a ridge map from statistics of clips to caption vectors, in closed form.

Hoerl and Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems", 1970. Whoever
trains a network should know this baseline: it takes seconds, and on small sets it is hard to beat.
F statistics of a clip, over all experts; X numbers that describe a clip to the map, here these
statistics; other letters as in retrieval_model.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import nn

from model.hubs import Hubs
from model.retrieval_model import PreparedModel, Reader, Rows
from model.token_statistics import CaptionMeans, TokenStatistics
from utils.batches import Available, Experts
from utils.config import ExpertConfig, TextConfig
from utils.kinds import Range, above, at_least

Ridge = Annotated[float, above(0), "weight of the ridge in the first epoch"]
Factor = Annotated[float, at_least(1), "its factor from epoch to epoch; validation chooses"]
Whitening = Annotated[
    float, Range(0, 1), "power of whitening of captions; 0: none, 1: equal variances"
]
Passes = Annotated[
    int, at_least(1), "times that every clip is read, each time with a caption drawn anew"
]
Hubness = Annotated[
    float, Range(0, 1), "share of a caption's nearness to training clips that its scores lose"
]

MOST_CLIPS = 2048
"""Training clips that the nearness of captions is measured with."""
EPS = 1e-6


class LinearAlignment(PreparedModel):
    """Score a clip by the cosine of its mapped statistics and the caption's vector.

    Captions are mean words, centred and partly whitened over the training captions; the target of
    a clip is its captions' vector. Every epoch solves the ridge regression exactly for another
    weight of the ridge, the smallest first; validation decides which one is kept.

    With `hubness` h, h times the caption's nearness to training clips (`model/hubs.py`) is taken
    from its scores: 0.5 is the caption's half of CSLS.
    """

    def __init__(
        self,
        experts: Sequence[ExpertConfig],
        text: TextConfig,
        *,
        ridge: Ridge = 30.0,
        ridge_factor: Factor = 2.0,
        whitening: Whitening = 0.5,
        passes: Passes = 5,
        hubness: Hubness = 0.0,
    ) -> None:
        super().__init__()
        self.statistics = TokenStatistics(experts)
        self.captions = CaptionMeans(text.width, whitening)
        self.ridge = ridge
        self.ridge_factor = ridge_factor
        self.passes = passes
        self.hubness = hubness
        self.hubs = Hubs(MOST_CLIPS, text.width) if hubness else None
        self.map = nn.Parameter(torch.zeros(self.statistics.width, text.width))  # (X, D)
        self._sums: Sums | None = None

    def describe(self, statistics: torch.Tensor) -> torch.Tensor:
        """Return the numbers that are mapped: (B, F) -> (B, X)."""
        return statistics

    def encode_captions(self, text: torch.Tensor) -> Rows:
        """Embed captions (T, K, N, D) -> one row each: unit length, and what scores lose.

        Shape (T*K, D + 1), without hubness (T*K, D).
        """
        rows = self.captions(text)
        if self.hubs is None:
            return (rows,)
        return (torch.cat([rows, -self.hubness * self.hubs(rows)[:, None]], dim=1),)

    def encode_clips(self, experts: Experts, available: Available) -> Rows:
        """Embed clips -> one row each: unit length, and 1. (B, D + 1), without hubness (B, D)."""
        rows = F.normalize(self.describe(self.statistics(experts, available)) @ self.map, dim=1)
        return (rows if self.hubs is None else F.pad(rows, (0, 1), value=1.0),)

    def score(self, captions: Rows, clips: Rows) -> torch.Tensor:
        """Return the cosines (Q, B), less the share of the captions' nearness."""
        return captions[0] @ clips[0].T

    def vectors(self, rows: Rows) -> torch.Tensor:
        """Return captions or clips as one vector each, (n, D); inner products are `score`."""
        return rows[0]

    @torch.no_grad()
    def prepare(self, read: Reader, epoch: int) -> torch.Tensor:
        """Solve for the map with the ridge of this epoch; return the mean squared error."""
        if self._sums is None:
            self._standardise(read)
            self._sums = self._sum(read)
        ridge = self.ridge * self.ridge_factor ** (epoch - 1)
        solution = self._sums.solve(ridge)
        self.map.zero_()
        self.map[: len(solution)] = solution.to(self.map)
        if self.hubs is not None:
            self.hubs.fit(self._sums.left_out(solution, ridge))
        return self._sums.error(solution).float()

    def _standardise(self, read: Reader) -> None:
        """Fit means and deviations of clips and captions to the training clips."""
        values, there, words = [], [], []
        for number in range(1, self.passes + 1):
            for text, experts, available, *_ in read(number):
                words.append(self.captions.raw(text))
                if number == 1:
                    one, has = self.statistics.raw(experts, available)
                    values.append(one)
                    there.append(has)
        self.statistics.fit(torch.cat(values), torch.cat(there))
        self.captions.fit(torch.cat(words).double())

    def _sum(self, read: Reader) -> Sums:
        """Read every clip `passes` times and sum what the regression needs."""
        width = self.statistics.width
        return self._sum_of(read, self.describe, torch.eye(width, dtype=torch.float64))

    def _sum_of(
        self,
        read: Reader,
        describe: Callable[[torch.Tensor], torch.Tensor],
        penalty: torch.Tensor,
    ) -> Sums:
        gram: Any = 0.0
        cross: Any = 0.0
        total: Any = 0.0
        targets, numbers = [], []
        first: list[torch.Tensor] = []
        for number in range(1, self.passes + 1):
            for text, experts, available, clips in read(number):
                x = describe(self.statistics(experts, available).double())
                y = self.captions(text).double()
                gram, cross, total = gram + x.T @ x, cross + x.T @ y, total + x.sum(dim=0)
                targets.append(y)
                numbers.append(clips)
                if number == 1 and sum(len(one) for one in first) < MOST_CLIPS:
                    first.append(x)
        some, y = torch.cat(first), torch.cat(targets)
        mean = y.mean(dim=0)
        y = y - mean
        _, places, counts = torch.unique(
            torch.cat(numbers), return_inverse=True, return_counts=True
        )
        means = y.new_zeros(len(counts), y.shape[1]).index_add_(0, places, y) / counts[:, None]
        return Sums(
            gram=gram / self.passes,
            cross=(cross - torch.outer(total, mean)) / self.passes,
            energy=y.square().sum() / self.passes,
            count=len(y) / self.passes,
            penalty=penalty,
            some=(some, means[places[: len(some)]]),
        )


@dataclass(frozen=True)
class Sums:
    """Sums over training clips from which a map is solved, in float64.

    Each clip is described by x (X,), of mean 0 or not, and a caption vector y (D,), here without
    its mean. Several passes count as one.
    """

    gram: torch.Tensor
    """(X, X), the sum of x x'."""
    cross: torch.Tensor
    """(X, D), the sum of x y'."""
    energy: torch.Tensor
    """The sum of y'y."""
    count: float
    penalty: torch.Tensor
    """(X, X), what the ridge multiplies."""
    some: tuple[torch.Tensor, torch.Tensor]
    """x (n, X) and y (n, D) of the clips that were read first, MOST_CLIPS or few more."""

    def solve(self, ridge: float, right: torch.Tensor | None = None) -> torch.Tensor:
        """Return the map w (X, D) of least squared error plus `ridge` w' penalty w.

        With `right`, another right side of the normal equations than `cross`.
        """
        # one small system a time: float64 is slow on most GPUs, and Apple's have none
        weighted = self.gram.cpu() + ridge * self.penalty.cpu()
        right = self.cross if right is None else right
        return torch.linalg.solve(weighted, right.cpu()).to(self.gram.device)

    def left_out(self, solution: torch.Tensor, ridge: float) -> torch.Tensor:
        """Map some clips as if each were no part of the training: (n, D).

        Its error is that of the map of all, divided by 1 - x' (gram + ridge penalty)^-1 x (Allen,
        "The Relationship between Variable Selection and Data Augmentation", 1974).
        """
        x, y = self.some
        leverage = (x * self.solve(ridge, x.T).T).sum(dim=1, keepdim=True)
        return y - (y - x @ solution) / (1 - leverage).clamp(min=EPS)

    def error(self, solution: torch.Tensor) -> torch.Tensor:
        """Return the mean over clips of |w'x - y|^2."""
        explained = 2 * (solution * self.cross).sum() - (solution * (self.gram @ solution)).sum()
        return (self.energy - explained) / self.count
