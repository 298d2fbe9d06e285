"""Collaborative Experts: every expert is gated by the messages of its pairs (Liu et al., 2019)."""

import torch
from torch import nn

from model.batch_norm import BatchNorm
from model.gating import ContextGate, ReduceDim
from model.kernels.linear import Linear, linear
from model.kernels.mish import Mish

TINY = 1e-11  # the published guard for a clip whose pairs are all unavailable


def residual_layers(count: int, width: int, *, batch_norm: bool, mish: bool) -> nn.Sequential:
    """Return `count` times [batch norm, non-linearity, linear], numbered as published."""
    layers: list[nn.Module] = []
    for _ in range(count):
        if batch_norm:
            layers.append(BatchNorm(width))
        layers.append(Mish() if mish else nn.ReLU())
        layers.append(Linear(width, width))
    return nn.Sequential(*layers)


class CollaborativeExperts(nn.Module):
    """Embed M experts, each gated by the mean message of its pairs (`use_ce: "pairwise"`).

    Shapes: M vectors (B, in_dim_i), available (B, M) of 0/1 -> M vectors (B, S) of unit length.

    Two behaviours of the published system decide the numbers and are kept: experts are gated one
    after another, so the pairs of a later expert see the gated form of the earlier ones, and
    every pair is normalised by statistics of its own (see BatchNorm).
    """

    def __init__(
        self,
        in_dims: list[int],
        shared_dim: int,
        *,
        num_g_layers: int = 3,
        num_h_layers: int = 0,
        use_bn_reason: bool = True,
        use_mish: bool = True,
        include_self: bool = True,
    ) -> None:
        super().__init__()
        self.out_dims = [shared_dim] * len(in_dims)
        self.include_self = include_self
        self.reduce = nn.ModuleList(ReduceDim(in_dim, shared_dim) for in_dim in in_dims)
        self.pair_input = Linear(2 * shared_dim, shared_dim)
        style = {"batch_norm": use_bn_reason, "mish": use_mish}
        self.pair_network = residual_layers(num_g_layers - 1, shared_dim, **style)
        self.self_network = residual_layers(num_h_layers, shared_dim, **style)
        self.gates = nn.ModuleList(ContextGate(shared_dim, with_message=True) for _ in in_dims)

    def forward(self, vectors: list[torch.Tensor], available: torch.Tensor) -> list[torch.Tensor]:
        experts = [reduce(vector) for reduce, vector in zip(self.reduce, vectors, strict=True)]
        # g's first layer on cat(r_i, r_j) is a sum of two halves, so each expert passes each half
        # once, and the second half once more when it has been gated: 3M-1 products, not 2M^2.
        left, right = (h.contiguous() for h in self.pair_input.weight.chunk(2, dim=1))
        bias = self.pair_input.bias
        seconds = [linear(expert, right, bias) for expert in experts]
        embedded: list[torch.Tensor] = []
        for i, expert in enumerate(experts):
            partners = [j for j in range(len(experts)) if self.include_self or j != i]
            first = linear(expert, left)  # (B, S)
            pairs = first[:, None] + torch.stack([seconds[j] for j in partners], dim=1)
            message = self._mean(self.pair_network(pairs), self._both_there(available, i))
            gated = self.gates[i](expert, self.self_network(message))
            embedded.append(gated)
            if i + 1 < len(experts):  # later experts see this one gated
                seconds[i] = linear(gated, right, bias)
        return embedded

    def _both_there(self, available: torch.Tensor, i: int) -> torch.Tensor:
        """Return for each pair of expert i whether both are there: (B, M) -> (B, P) of 0/1.

        Indexed by a list, availabilities on a GPU would wait for a copy of the list.
        """
        partners = available
        if not self.include_self:
            partners = torch.cat([available[:, :i], available[:, i + 1 :]], dim=1)
        return available[:, i, None] * partners

    @staticmethod
    def _mean(pairs: torch.Tensor, both: torch.Tensor) -> torch.Tensor:
        """Average the messages (B, P, S) of pairs that count, both (B, P) of 0/1 -> (B, S)."""
        total = torch.einsum("bp,bps->bs", both, pairs)
        return total / (both.sum(dim=1, keepdim=True) + TINY)
