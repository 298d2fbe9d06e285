"""Similarity of captions to clips: a weighted mean over the experts that a clip has."""

from collections.abc import Sequence

import torch


def similarity(
    texts: Sequence[torch.Tensor],
    clips: Sequence[torch.Tensor],
    weights: torch.Tensor,
    available: torch.Tensor,
) -> torch.Tensor:
    """Compare every caption with every clip.

    s[t, b] = sum_i w_ti a_bi <text_ti, clip_bi> / sum_i w_ti a_bi, as one matrix product of the
    concatenated experts and one of the weights: no (Q, B, M) array is made.

    Shapes: texts M x (Q, d_i), clips M x (B, d_i), weights (Q, M), available (B, M) -> (Q, B).
    A clip with no expert at all has no score: its column is NaN (data sets refuse such clips).
    """
    products = concatenated(texts, weights) @ concatenated(clips, available).T
    return products / (weights @ available.T)


def concatenated(
    embedded: Sequence[torch.Tensor], scales: torch.Tensor | None = None
) -> torch.Tensor:
    """Return M x (n, d_i) side by side, each expert times its column of scales (n, M)."""
    if scales is not None:
        embedded = [scales[:, i, None] * one for i, one in enumerate(embedded)]
    return torch.cat(list(embedded), dim=1)
