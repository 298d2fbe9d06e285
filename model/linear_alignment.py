"""Linear alignment: a ridge map from statistics of clips to caption vectors, in closed form.

Hoerl and Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems", 1970. Whoever
trains a network should know this baseline: it takes seconds, and on small sets it is hard to beat.
F statistics of a clip, over all experts; other letters as in retrieval_model.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import nn

from model.retrieval_model import PreparedModel, Reader, Rows
from model.token_statistics import CaptionMeans, TokenStatistics, mean_and_covariance
from utils.batches import Available, Experts
from utils.config import ExpertConfig, TextConfig
from utils.kinds import above, at_least, between

Ridge = Annotated[float, above(0), "weight of the ridge in the first epoch"]
Factor = Annotated[float, at_least(1), "its factor from epoch to epoch; validation chooses"]
Whitening = Annotated[
    float, between(0, 1), "power of whitening of captions; 0: none, 1: equal variances"
]
Passes = Annotated[
    int, at_least(1), "times that every clip is read, each time with a caption drawn anew"
]


class Alignment(PreparedModel):
    """Score a clip by the cosine of its mapped statistics and the caption's vector.

    Captions are mean words, centred and partly whitened over the training captions; the target of
    a clip is its captions' vector.
    """

    def __init__(
        self, experts: Sequence[ExpertConfig], text: TextConfig, *, whitening: float
    ) -> None:
        super().__init__()
        self.statistics = TokenStatistics(experts)
        self.captions = CaptionMeans(text.width, whitening)

    @abstractmethod
    def mapped(self, statistics: torch.Tensor) -> torch.Tensor:
        """Map statistics of clips (B, F) to the space of captions (B, D)."""

    def encode_captions(self, text: torch.Tensor) -> Rows:
        """Embed captions (T, K, N, D) -> one row of unit length each, (T*K, D)."""
        return (self.captions(text),)

    def encode_clips(self, experts: Experts, available: Available) -> Rows:
        """Embed clips -> one row of unit length each, (B, D)."""
        return (F.normalize(self.mapped(self.statistics(experts, available)), dim=1),)

    def score(self, captions: Rows, clips: Rows) -> torch.Tensor:
        """Return the cosines (Q, B)."""
        return captions[0] @ clips[0].T

    def vectors(self, rows: Rows) -> torch.Tensor:
        """Return captions or clips as one vector each, (n, D); inner products are `score`."""
        return rows[0]


class LinearAlignment(Alignment):
    """Map clips to captions by ridge regression, solved exactly.

    Every epoch solves for another weight of the ridge, the smallest first; validation decides
    which one is kept.
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
    ) -> None:
        super().__init__(experts, text, whitening=whitening)
        self.ridge = ridge
        self.ridge_factor = ridge_factor
        self.passes = passes
        self.map = nn.Parameter(torch.zeros(self.statistics.width, text.width))  # (F, D)
        self._sums: Sums | None = None

    def mapped(self, statistics: torch.Tensor) -> torch.Tensor:
        """Map statistics of clips (B, F) -> (B, D)."""
        return statistics @ self.map

    @torch.no_grad()
    def prepare(self, read: Reader, epoch: int) -> torch.Tensor:
        """Solve for the map with the ridge of this epoch; return the mean squared error."""
        if self._sums is None:
            standardise(self.statistics, self.captions, read, self.passes)
            self._sums = sums_of(self.statistics, self.captions, read, self.passes)
        solution = self._sums.solve(self.ridge * self.ridge_factor ** (epoch - 1))
        self.map.copy_(solution)
        return self._sums.error(solution).float()


def standardise(
    statistics: TokenStatistics, captions: CaptionMeans, read: Reader, passes: int
) -> None:
    """Fit means and deviations of clips and captions to the training clips."""
    values, there, words = [], [], []
    for number in range(1, passes + 1):
        for text, experts, available, *_ in read(number):
            words.append(captions.raw(text))
            if number == 1:
                one, has = statistics.raw(experts, available)
                values.append(one)
                there.append(has)
    statistics.fit(torch.cat(values), torch.cat(there))
    captions.fit(*mean_and_covariance(torch.cat(words).double()))


@dataclass(frozen=True)
class Sums:
    """Sums over training clips from which a map is solved, in float64.

    Each clip is described by x (F,), of mean 0 or not, and a caption vector y (D,), here without
    its mean. Several passes count as one.
    """

    gram: torch.Tensor
    """(F, F), the sum of x x'."""
    cross: torch.Tensor
    """(F, D), the sum of x y'."""
    energy: torch.Tensor
    """The sum of y'y."""
    count: float
    penalty: torch.Tensor
    """(F, F), what the ridge multiplies."""

    def solve(self, ridge: float) -> torch.Tensor:
        """Return the map w (F, D) of least squared error plus `ridge` w' penalty w."""
        # one small system a time: float64 is slow on most GPUs, and Apple's have none
        weighted = self.gram.cpu() + ridge * self.penalty.cpu()
        return torch.linalg.solve(weighted, self.cross.cpu()).to(self.gram.device)

    def error(self, solution: torch.Tensor) -> torch.Tensor:
        """Return the mean over clips of |w'x - y|^2."""
        explained = 2 * (solution * self.cross).sum() - (solution * (self.gram @ solution)).sum()
        return (self.energy - explained) / self.count


def sums_of(
    describe: Callable[[Experts, Available], torch.Tensor],
    captions: CaptionMeans,
    read: Reader,
    passes: int,
    penalty: torch.Tensor | None = None,
) -> Sums:
    """Read every clip `passes` times and sum; without a penalty it is the identity."""
    gram: Any = 0.0
    cross: Any = 0.0
    total: Any = 0.0
    targets = []
    for number in range(1, passes + 1):
        for text, experts, available, *_ in read(number):
            x, y = describe(experts, available).double(), captions(text).double()
            gram = gram + x.T @ x
            cross = cross + x.T @ y
            total = total + x.sum(dim=0)
            targets.append(y)
    y = torch.cat(targets)
    mean = y.mean(dim=0)
    return Sums(
        gram / passes,
        (cross - torch.outer(total, mean)) / passes,
        (y - mean).square().sum() / passes,
        len(y) / passes,
        torch.eye(len(gram), dtype=torch.float64) if penalty is None else penalty,
    )
