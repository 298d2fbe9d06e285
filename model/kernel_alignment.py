"""Kernel alignment: kernel ridge regression from statistics of clips to caption vectors.

Saunders, Gammerman and Vovk, "Ridge Regression Learning Algorithm in Dual Variables", 1998; with
more clips than landmarks by the method of Nystroem (Williams and Seeger, 2001).
F statistics of a clip, L landmarks; other letters as in retrieval_model.py.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import nn

from model.linear_alignment import (
    Factor,
    Hubness,
    LinearAlignment,
    Passes,
    Ridge,
    Sums,
    Whitening,
)
from model.retrieval_model import Reader
from utils.config import ExpertConfig, TextConfig
from utils.kinds import above, at_least

JITTER = 1e-8
"""Share of the diagonal that is added to it: equal clips make the system singular."""


class KernelAlignment(LinearAlignment):
    """Map clips to captions by their likeness to training clips, solved exactly.

    The likeness of x and z is exp(-sharpness |x - z|^2 / F). With no more clips than landmarks
    this is kernel ridge regression; else landmarks are drawn.
    """

    landmarks: torch.Tensor

    def __init__(
        self,
        experts: Sequence[ExpertConfig],
        text: TextConfig,
        *,
        ridge: Ridge = 0.01,
        ridge_factor: Factor = 2.0,
        whitening: Whitening = 0.5,
        passes: Passes = 5,
        sharpness: Annotated[float, above(0), "how fast likeness falls with distance"] = 0.6,
        landmarks: Annotated[
            int, at_least(1), "training clips that others are compared with, at most"
        ] = 2048,
        hubness: Hubness = 0.0,
    ) -> None:
        super().__init__(
            experts,
            text,
            ridge=ridge,
            ridge_factor=ridge_factor,
            whitening=whitening,
            passes=passes,
            hubness=hubness,
        )
        self.sharpness = sharpness
        self.map = nn.Parameter(torch.zeros(landmarks, text.width))  # (L, D)
        self.register_buffer("landmarks", torch.zeros(landmarks, self.statistics.width))

    def describe(self, statistics: torch.Tensor) -> torch.Tensor:
        """Return the likeness to landmarks (B, F) -> (B, L); those without weight do not matter."""
        return self.likeness(statistics, self.landmarks)

    def likeness(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Compare statistics (B, F) with landmarks (L, F) -> (B, L), from 0 to 1."""
        # not torch.cdist: its square root is taken and squared again
        distances = x.square().sum(dim=1)[:, None] + z.square().sum(dim=1) - 2 * x @ z.T
        return (-self.sharpness * distances.clamp(min=0) / x.shape[1]).exp()

    def _sum(self, read: Reader) -> Sums:
        """Take the first clips read, which are in random order, as landmarks; sum likenesses."""
        rows = [self.statistics(experts, available) for _, experts, available, *_ in read(1)]
        taken = torch.cat(rows)[: len(self.landmarks)]
        self.landmarks.zero_()
        self.landmarks[: len(taken)] = taken
        taken = taken.double()
        penalty = self.likeness(taken, taken)
        penalty.diagonal().mul_(1 + JITTER)
        return self._sum_of(read, lambda statistics: self.likeness(statistics, taken), penalty)
