"""Clips and captions as one vector each, without anything learned by gradient.

F statistics of a clip, over all experts; n clips or captions; other letters as in
retrieval_model.py.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from model.retrieval_model import stacked, tokens_of
from utils.batches import Available, Experts
from utils.config import ExpertConfig

EPS = 1e-6
FLOOR = 0.01
"""Of the greatest variance: added to all before whitening, so that noise is not blown up."""
OF_TOKENS = 3
"""Mean, maximum and standard deviation."""


class TokenStatistics(nn.Module):
    """Mean, maximum and standard deviation of each expert's tokens, standardised, side by side.

    Of an averaged expert the vector itself counts. A row of zeros is padding. An expert that a
    clip lacks takes the mean over the training clips, which is 0 when standardised by them.
    Shapes: experts {name: (B, N, D) or (B, D)}, available {name: (B,)} or (B, M) -> (B, F).
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, experts: Sequence[ExpertConfig]) -> None:
        super().__init__()
        self.names = [expert.name for expert in experts]
        self.widths = [(OF_TOKENS if expert.tokens else 1) * expert.width for expert in experts]
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("scale", torch.ones(self.width))

    @property
    def width(self) -> int:
        """F."""
        return sum(self.widths)

    def forward(self, experts: Experts, available: Available) -> torch.Tensor:
        """Return standardised statistics (B, F)."""
        raw, there = self.raw(experts, available)
        return torch.where(there, (raw - self.mean) / self.scale, 0.0)

    def raw(self, experts: Experts, available: Available) -> tuple[torch.Tensor, torch.Tensor]:
        """Return statistics (B, F), and which of them are there (B, F) of bool."""
        values, there = [], []
        present = stacked(available, self.names) > 0  # (B, M)
        for has, name, width in zip(present.split(1, dim=1), self.names, self.widths, strict=True):
            features = tokens_of(experts[name])
            one = pooled(features) if features.dim() == 3 else features
            values.append(torch.where(has, one, 0.0))  # also NaN
            there.append(has.expand(-1, width))
        return torch.cat(values, dim=1), torch.cat(there, dim=1)

    def fit(self, raw: torch.Tensor, there: torch.Tensor) -> None:
        """Standardise from now on by clips (n, F), where they are there (n, F)."""
        raw = raw.double()
        count = there.sum(dim=0).clamp(min=1)
        mean = torch.where(there, raw, 0.0).sum(dim=0) / count
        deviation = (torch.where(there, raw - mean, 0.0).square().sum(dim=0) / count).sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > EPS, deviation, 1.0))


def pooled(tokens: torch.Tensor) -> torch.Tensor:
    """Return mean, maximum and standard deviation over the tokens that are no padding.

    Shapes: (B, N, D) -> (B, 3D); zeros for a clip without tokens.
    """
    real = (tokens != 0).any(dim=2, keepdim=True)  # (B, N, 1)
    count = real.sum(dim=1).clamp(min=1)
    mean = torch.where(real, tokens, 0.0).sum(dim=1) / count
    maximum = torch.where(real, tokens, -torch.inf).amax(dim=1)
    maximum = torch.where(real.any(dim=1), maximum, 0.0)
    squares = torch.where(real, tokens - mean[:, None], 0.0).square().sum(dim=1)
    return torch.cat([mean, maximum, (squares / count).sqrt()], dim=1)


class CaptionMeans(nn.Module):
    """The mean word of a caption at unit length, centred, partly whitened, at unit length again.

    Centring and whitening (all-but-the-top: Mu and Viswanath, 2018) take away what all captions
    share, so that rarer directions decide. Words of zeros are padding.
    Shapes: (T, K, N, D) -> (T*K, D).
    """

    centre: torch.Tensor
    rotation: torch.Tensor

    def __init__(self, width: int, power: float) -> None:
        super().__init__()
        self.power = power
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("rotation", torch.eye(width))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Return captions as vectors of unit length."""
        return F.normalize((self.raw(text) - self.centre) @ self.rotation, dim=1)

    def raw(self, text: torch.Tensor) -> torch.Tensor:
        """Return mean words at unit length, which their sums have too."""
        return F.normalize(text.flatten(0, 1).sum(dim=1), dim=1)

    def fit(self, rows: torch.Tensor) -> None:
        """Centre and whiten from now on by captions (n, D), their covariance to the power / 2."""
        mean = rows.mean(dim=0)
        centred = rows - mean
        variances, axes = torch.linalg.eigh((centred.T @ centred / len(rows)).cpu())
        variances = variances.clamp(min=0)
        floored = (variances + FLOOR * variances.max()).clamp(min=EPS**2)
        rotation = (axes * floored.pow(-self.power / 2)) @ axes.T
        self.centre.copy_(mean)
        self.rotation.copy_(rotation)
