"""Poolings of tokens to one vector that leave padding out, beside NetVLAD.

A row of zeros is padding. Features come in any scale, so that a batch norm ends each; a clip
without tokens enters it as zeros.
"""

import torch
import torch.nn.functional as F
from torch import nn

from model.batch_norm import BatchNorm
from model.kernels.linear import Linear
from model.net_vlad import NetVLAD
from model.token_statistics import OF_TOKENS, pooled

HEADS, HIDDEN = 4, 128


class StatisticsPooling(nn.Module):
    """Mean, maximum and standard deviation of the tokens (Snyder et al., "X-vectors", 2018).

    Shapes: (B, N, D) tokens -> (B, 3D).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_dim = OF_TOKENS * width
        self.batch_norm = BatchNorm(self.out_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.batch_norm(pooled(tokens))
        return normed


class AttentionPooling(nn.Module):
    """Means of the tokens weighted by attention, one for each of H heads.

    Ilse et al., "Attention-based Deep Multiple Instance Learning", 2018; several heads as in Lin et
    al., 2017. Weights are a softmax over the tokens of v_h' tanh(W token), of the token at unit
    length. Shapes: (B, N, D) tokens -> (B, H*D), head after head.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_dim = HEADS * width
        self.hidden = Linear(width, HIDDEN)
        self.heads = Linear(HIDDEN, HEADS)
        self.batch_norm = BatchNorm(self.out_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        means = self.weights(tokens).transpose(1, 2) @ tokens  # (B, H, D)
        normed: torch.Tensor = self.batch_norm(means.flatten(1))
        return normed

    def weights(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the weights (B, N, H): their sum over tokens is 1, 0 for a clip without any."""
        real = (tokens != 0).any(dim=2, keepdim=True)  # (B, N, 1)
        scores = self.heads(torch.tanh(self.hidden(F.normalize(tokens, dim=2))))  # (B, N, H)
        scores = scores.masked_fill(~real, torch.finfo(scores.dtype).min)
        return F.softmax(scores, dim=1) * real


Pooling = NetVLAD | StatisticsPooling | AttentionPooling
"""Maps (B, N, D) tokens to (B, out_dim)."""

POOLINGS: dict[str, type[StatisticsPooling] | type[AttentionPooling]] = {
    "statistics": StatisticsPooling,
    "attention": AttentionPooling,
}
"""`arch.args.pooling.<name>` -> a class of one argument, the width D."""
VLAD = "vlad"
