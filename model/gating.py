"""Context gating: a vector scales its own entries (Miech et al., 2018)."""

import torch
from torch import nn

from model.batch_norm import BatchNorm
from model.kernels.linear import Linear
from model.kernels.unit_rows import unit_rows


class ContextGate(nn.Module):
    """Gate a vector by itself and, for Collaborative Experts, by a message of its peers.

    Shapes: x (B, D), message (B, D) -> (B, D) of unit length.
    Without message: L2norm(x * sigmoid(BN(fc(x)))).
    With message:    L2norm(x * sigmoid(BN(message) + BN2(fc(x)))).
    """

    def __init__(self, width: int, *, with_message: bool = False) -> None:
        super().__init__()
        self.fc = Linear(width, width)
        self.batch_norm = BatchNorm(width)
        self.batch_norm2 = BatchNorm(width) if with_message else None

    def forward(self, x: torch.Tensor, message: torch.Tensor | None = None) -> torch.Tensor:
        """Return the gated vectors; `message` is expected exactly when made `with_message`."""
        own = self.fc(x)
        if self.batch_norm2 is None:
            gate = self.batch_norm(own)
        else:
            gate = self.batch_norm(message) + self.batch_norm2(own)
        return unit_rows(x * torch.sigmoid(gate))


class GatedEmbeddingUnit(nn.Module):
    """Project a vector, then gate it by itself: (B, in_dim) -> (B, out_dim) of unit length."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc = Linear(in_dim, out_dim)
        self.gate = ContextGate(out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(self.fc(x))


class ReduceDim(nn.Module):
    """Project a vector to the shared width: (B, in_dim) -> (B, S) of unit length."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc = Linear(in_dim, out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return unit_rows(self.fc(x))
