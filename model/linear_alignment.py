"""Linear alignment: a ridge map from statistics of clips to caption vectors, in closed form.

Hoerl and Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems", 1970. Whoever
trains a network should know this baseline: it takes seconds, and on small sets it is hard to beat.
F statistics of a clip, over all experts; other letters as in retrieval_model.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from model.retrieval_model import PreparedModel, Reader, Rows
from model.token_statistics import CaptionMeans, TokenStatistics, mean_and_covariance
from utils.batches import Available, Experts
from utils.config import ExpertConfig, TextConfig
from utils.kinds import above, at_least, between


class LinearAlignment(PreparedModel):
    """Score a clip by the cosine of its mapped statistics and the caption's vector.

    Captions are mean words, centred and partly whitened over the training captions; the target of
    a clip is its captions' vector. Every epoch solves for another weight of the ridge, the
    smallest first; validation decides which one is kept.
    """

    def __init__(
        self,
        experts: Sequence[ExpertConfig],
        text: TextConfig,
        *,
        ridge: Annotated[float, above(0), "weight of the ridge in the first epoch"] = 30.0,
        ridge_factor: Annotated[
            float, at_least(1), "its factor from epoch to epoch; validation chooses"
        ] = 2.0,
        whitening: Annotated[
            float, between(0, 1), "power of whitening of captions; 0: none, 1: equal variances"
        ] = 0.5,
        passes: Annotated[
            int, at_least(1), "times that every clip is read, each time with a caption drawn anew"
        ] = 5,
    ) -> None:
        super().__init__()
        self.ridge = ridge
        self.ridge_factor = ridge_factor
        self.passes = passes
        self.statistics = TokenStatistics(experts)
        self.captions = CaptionMeans(text.width, whitening)
        self.map = nn.Parameter(torch.zeros(self.statistics.width, text.width))  # (F, D)
        self._sums: Sums | None = None

    def encode_captions(self, text: torch.Tensor) -> Rows:
        """Embed captions (T, K, N, D) -> one row of unit length each, (T*K, D)."""
        return (self.captions(text),)

    def encode_clips(self, experts: Experts, available: Available) -> Rows:
        """Embed clips -> one row of unit length each, (B, D)."""
        return (F.normalize(self.statistics(experts, available) @ self.map, dim=1),)

    def score(self, captions: Rows, clips: Rows) -> torch.Tensor:
        """Return the cosines (Q, B)."""
        return captions[0] @ clips[0].T

    def vectors(self, rows: Rows) -> torch.Tensor:
        """Return captions or clips as one vector each, (n, D); inner products are `score`."""
        return rows[0]

    @torch.no_grad()
    def prepare(self, read: Reader, epoch: int) -> torch.Tensor:
        """Solve for the map with the ridge of this epoch; return the mean squared error."""
        if self._sums is None:
            standardise(self.statistics, self.captions, read, self.passes)
            self._sums = Sums.of(self.statistics, self.captions, read, self.passes)
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


class Sums:
    """Sums over training clips from which a ridge map is solved, in float64.

    Statistics x (F,) have mean 0, caption vectors y (D,) need not: for a map without intercept
    it makes no difference. `gram` (F, F) sums x x', `cross` (F, D) x y', `energy` |y - mean|^2,
    over `count` clips; several passes count as one.
    """

    def __init__(
        self, gram: torch.Tensor, cross: torch.Tensor, energy: torch.Tensor, count: float
    ) -> None:
        self.gram = gram
        self.cross = cross
        self.energy = energy
        self.count = count

    @classmethod
    def of(
        cls, statistics: TokenStatistics, captions: CaptionMeans, read: Reader, passes: int
    ) -> Sums:
        """Read every clip `passes` times and sum."""
        gram: torch.Tensor | float = 0.0
        cross: torch.Tensor | float = 0.0
        targets = []
        for number in range(1, passes + 1):
            for text, experts, available, *_ in read(number):
                x, y = statistics(experts, available).double(), captions(text).double()
                gram = gram + x.T @ x
                cross = cross + x.T @ y
                targets.append(y)
        y = torch.cat(targets)
        energy = (y - y.mean(dim=0)).square().sum()
        return cls(gram / passes, cross / passes, energy / passes, len(y) / passes)  # type: ignore[arg-type]

    def solve(self, ridge: float) -> torch.Tensor:
        """Return the map (F, D) with the least squared error plus `ridge` times its square."""
        # GPUs of consumers take long for float64, and Apple's have none: one small system a time
        gram, cross = self.gram.cpu(), self.cross.cpu()
        weighted = gram + ridge * torch.eye(len(gram), dtype=gram.dtype)
        return torch.linalg.solve(weighted, cross, left=True).to(self.gram.device)

    def error(self, solution: torch.Tensor) -> torch.Tensor:
        """Return the mean over clips of |x' solution - y|^2, y without its mean."""
        explained = 2 * (solution * self.cross).sum() - (solution * (self.gram @ solution)).sum()
        return (self.energy - explained) / self.count
