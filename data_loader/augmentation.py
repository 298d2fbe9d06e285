"""Augmentation: what training does to the experts of its clips so that others are borne better.

B clips of a batch, M experts, N tokens, D the width of an expert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_loader.frames import Draw
from data_loader.split import SplitExpert
from utils.batches import Features, Frames


@dataclass(frozen=True)
class Augmentation:
    """Hide experts of clips (modality dropout), and add noise to the features of all.

    Hiding: Neverova et al., "ModDrop", 2016. Noise: Sietsma and Dow, 1991; Bishop, 1995. What
    happens to a clip depends on its own generator alone, and the noise not on what is hidden.
    """

    dropout: float
    """Probability with which an expert of a clip is hidden; one always stays."""
    noise: float
    """Standard deviation of the noise, as a share of that of each dimension."""
    deviations: Mapping[str, Tensor]
    """{name: (D,)}, over the tokens of all clips."""

    def __call__(
        self, experts: Mapping[str, Features], available: Mapping[str, Tensor], draw: Draw
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        """Return experts and availabilities {name: (B,)} of 0/1 as training takes them."""
        flags = torch.stack(list(available.values()), dim=1)  # (B, M)
        generators = [draw(row) for row in range(len(flags))]
        luck = np.array([one.random(flags.shape[1]) for one in generators]).reshape(flags.shape)
        stay = stay_available(flags.cpu().numpy() > 0, self.dropout, luck)
        kept = torch.from_numpy(stay).to(flags).unbind(dim=1)
        noisy = dict(experts)
        if self.noise:
            noisy = {name: self._noisy(name, one, generators) for name, one in experts.items()}
        return noisy, dict(zip(available, kept, strict=True))

    def _noisy(
        self, name: str, features: Features, generators: Sequence[np.random.Generator]
    ) -> Features:
        """Return the features of an expert with noise; padding stays zero."""
        scale = self.noise * self.deviations[name]
        if isinstance(features, Tensor):
            return add_noise(features, scale, generators)
        tokens = add_noise(features.tokens, scale, generators)
        return Frames(
            tokens, features.times, features.mask, add_noise(features.pooled, scale, generators)
        )


def stay_available(available: np.ndarray, probability: float, luck: np.ndarray) -> np.ndarray:
    """Return which experts stay available (B, M) of bool: those with luck >= probability.

    Where none of a clip's experts would, the one with the most luck stays; luck (B, M) in [0, 1).
    """
    luck = np.where(available, luck, -1.0)
    stay = luck >= probability
    bare = np.flatnonzero(available.any(axis=1) & ~stay.any(axis=1))
    stay[bare, luck[bare].argmax(axis=1)] = True
    return stay


def add_noise(features: Tensor, scale: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
    """Add Gaussian noise of deviations `scale` (D,) to features (B, N, D) or (B, D), in float32.

    Each generator draws for one clip; rows of zeros are padding and stay so.
    """
    real = (features != 0).any(dim=-1).cpu().numpy()  # (B, N) or (B,)
    noise = np.zeros(features.shape, np.float32)
    for row, (there, generator) in enumerate(zip(real, generators, strict=True)):
        drawn = generator.standard_normal((int(there.sum()), features.shape[-1]), np.float32)
        noise[row][there] = drawn if features.dim() == 3 else drawn[: int(there)]
    return features.float() + torch.from_numpy(noise).to(features.device) * scale.to(
        features.device
    )


def deviation_of(expert: SplitExpert) -> Tensor:
    """Return the standard deviation of each dimension over the tokens of all clips, (D,)."""
    deviations = []
    for part, starts, lengths in zip(expert.parts, expert.starts, expert.lengths, strict=True):
        part.verify(starts, starts + lengths)
        total, squares = np.zeros(part.width), np.zeros(part.width)
        for start, length in zip(starts, lengths, strict=True):
            rows = part.rows[start : start + length].astype(np.float64)
            total += rows.sum(axis=0)
            squares += np.square(rows).sum(axis=0)
        count = max(1, int(lengths.sum()))
        variance = squares / count - np.square(total / count)
        deviations.append(np.sqrt(np.maximum(variance, 0.0)))
    return torch.from_numpy(np.concatenate(deviations).astype(np.float32))


def augmentation_of(
    experts: Sequence[SplitExpert], *, dropout: float, noise: float
) -> Augmentation | None:
    """Return what is done to the experts of a split, None for nothing."""
    if not dropout and not noise:
        return None
    deviations = {one.config.name: deviation_of(one) for one in experts} if noise else {}
    return Augmentation(dropout, noise, deviations)
