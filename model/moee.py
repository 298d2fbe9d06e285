"""Mixture of Embedding Experts: every expert embeds the clip by itself (Miech et al., 2018)."""

import torch
from torch import nn

from model.gating import ContextGate, GatedEmbeddingUnit, ReduceDim


class MixtureOfEmbeddingExperts(nn.Module):
    """Embed each expert by a gated unit of its own width, none seeing the others.

    Shapes: M vectors (B, in_dim_i), available (B, M) -> M vectors (B, out_dim_i) of unit length.
    """

    def __init__(self, in_dims: list[int], out_dims: list[int]) -> None:
        super().__init__()
        self.out_dims = out_dims
        self.units = nn.ModuleList(
            GatedEmbeddingUnit(in_dim, out_dim)
            for in_dim, out_dim in zip(in_dims, out_dims, strict=True)
        )

    def forward(self, vectors: list[torch.Tensor], available: torch.Tensor) -> list[torch.Tensor]:
        """Return one embedding per expert; `available` does not matter here."""
        return [unit(vector) for unit, vector in zip(self.units, vectors, strict=True)]


class SingleExpert(nn.Module):
    """Embed one expert as Collaborative Experts would with no peers (`mimic_ce_dims`).

    Shapes: [(B, in_dim)], available (B, 1) -> [(B, S)] of unit length.
    """

    def __init__(self, in_dim: int, shared_dim: int) -> None:
        super().__init__()
        self.out_dims = [shared_dim]
        self.reduce = nn.ModuleList([ReduceDim(in_dim, shared_dim)])
        self.gates = nn.ModuleList([ContextGate(shared_dim)])

    def forward(self, vectors: list[torch.Tensor], available: torch.Tensor) -> list[torch.Tensor]:
        return [self.gates[0](self.reduce[0](vectors[0]))]
