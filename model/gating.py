"""Context gating: a vector scales its own entries (Miech et al., 2018)."""

import torch
import torch.nn.functional as F
from torch import nn

from model.batch_norm import BatchNorm
from model.linear import Linear, linear


class ContextGate(nn.Module):
    """Gate a vector by itself and, for Collaborative Experts, by what its peers say.

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
        own = linear(x, self.fc.weight, self._bias())
        if self.batch_norm2 is None:
            gate = self.batch_norm(own)
        else:
            gate = self.batch_norm(message) + self.batch_norm2(own)
        return F.normalize(x * torch.sigmoid(gate), dim=-1)

    def _bias(self) -> torch.Tensor:
        """Return the bias; before a batch norm that trains, its gradient is zero.

        The batch's mean takes it out again. Autograd would add up B terms that cancel and return
        rounding noise, which differs between machines and which an adaptive optimiser magnifies.
        """
        bias = self.fc.bias
        return bias.detach() + 0.0 * bias if self.training else bias


class GatedEmbeddingUnit(nn.Module):
    """Project a vector, then gate it by itself: (B, in_dim) -> (B, out_dim) of unit length."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc = Linear(in_dim, out_dim)
        self.gate = ContextGate(out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the embedded vectors."""
        return self.gate(self.fc(x))


class ReduceDim(nn.Module):
    """Project a vector to the shared width: (B, in_dim) -> (B, S) of unit length."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc = Linear(in_dim, out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the projected vectors."""
        return F.normalize(self.fc(x), dim=-1)
