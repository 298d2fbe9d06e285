"""The text side, the same in every form: one vector a caption, one embedding an expert."""

import torch
import torch.nn.functional as F
from torch import nn

from model.gating import GatedEmbeddingUnit
from model.kernels.linear import Linear
from model.pooling import Pooling


class TextEncoder(nn.Module):
    """Pool the words of a caption, embed it once for every expert, and weigh the experts.

    Shapes: (Q, N, D) words -> M embeddings (Q, out_dim_i) of unit length, weights (Q, M).
    Without pooling the caption is its single word vector: N must be 1.
    """

    def __init__(self, width: int, out_dims: list[int], *, pooling: Pooling | None) -> None:
        super().__init__()
        self.pooling = pooling
        pooled = width if pooling is None else pooling.out_dim
        self.mixture = Linear(pooled, len(out_dims))
        self.gates = nn.ModuleList(GatedEmbeddingUnit(pooled, out_dim) for out_dim in out_dims)

    def forward(self, words: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the embeddings and the mixture weights, which sum to 1."""
        if self.pooling is not None:
            caption = self.pooling(words)
        elif words.shape[1] == 1:
            caption = words[:, 0]
        else:
            raise ValueError(f"captions of {words.shape[1]} tokens need a text pooling; expected 1")
        return [gate(caption) for gate in self.gates], F.softmax(self.mixture(caption), dim=1)
