"""Similarity of captions to clips: a weighted mean over the experts that a clip has."""

import torch


def similarity(
    texts: list[torch.Tensor],
    clips: list[torch.Tensor],
    weights: torch.Tensor,
    available: torch.Tensor,
) -> torch.Tensor:
    """Compare every caption with every clip.

    s[t, b] = sum_i w_ti a_bi <text_ti, clip_bi> / sum_i w_ti a_bi, as one matrix product of the
    concatenated experts and one of the weights: no (Q, B, M) array is made.

    Shapes: texts M x (Q, d_i), clips M x (B, d_i), weights (Q, M), available (B, M) -> (Q, B).
    A clip with no expert at all has no score: its column is NaN (data sets refuse such clips).
    """
    weighted = torch.cat([weights[:, i, None] * text for i, text in enumerate(texts)], dim=1)
    present = torch.cat([available[:, i, None] * clip for i, clip in enumerate(clips)], dim=1)
    return (weighted @ present.T) / (weights @ available.T)


def plain_similarity(texts: list[torch.Tensor], clips: list[torch.Tensor]) -> torch.Tensor:
    """Sum the inner products of all experts, unweighted (`keep_missing_modalities`): (Q, B)."""
    return torch.cat(texts, dim=1) @ torch.cat(clips, dim=1).T
