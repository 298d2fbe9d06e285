"""NetVLAD pooling: a sequence of tokens becomes one vector (Arandjelovic et al., CVPR 2016)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from model.batch_norm import BatchNorm
from model.linear import linear

EPS = 1e-12


class NetVLAD(nn.Module):
    """Pool tokens by their residuals to learned clusters, ghost clusters taking what fits nowhere.

    Shapes: (B, N, D) tokens -> (B, D*C), of unit length, laid out as d*C + c.
    Padding tokens (zeros) count like real ones, as in the published models, so the number of
    tokens is part of the model; pass `mask` to leave them out.
    """

    def __init__(
        self,
        feature_size: int,
        cluster_size: int,
        ghost_clusters: int = 0,
        add_batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.cluster_size = cluster_size
        spread = feature_size**-0.5
        columns = cluster_size + ghost_clusters
        self.clusters = nn.Parameter(spread * torch.randn(feature_size, columns))
        self.clusters2 = nn.Parameter(spread * torch.randn(1, feature_size, cluster_size))
        self.batch_norm = BatchNorm(columns) if add_batch_norm else nn.Identity()

    @property
    def out_dim(self) -> int:
        """Width of the pooled vector, D*C."""
        return self.clusters2[0].numel()

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the pooled vectors; `mask` (B, N) holds 1 for tokens that count, 0 for others."""
        batch, count, width = tokens.shape
        scores = linear(tokens.reshape(-1, width), self.clusters.t())  # (B*N, C+G)
        shares = F.softmax(self.batch_norm(scores), dim=1)[:, : self.cluster_size]
        shares = shares.reshape(batch, count, self.cluster_size)  # (B, N, C), ghosts dropped
        if mask is not None:
            shares = shares * mask.to(shares.dtype)[..., None]
        return _UnitResiduals.apply(tokens, shares, self.clusters2).flatten(1)


class _UnitResiduals(torch.autograd.Function):
    """Sum what tokens differ from their clusters, each column and then the whole at unit length.

    tokens (B, N, D), shares (B, N, C), clusters2 (1, D, C) -> (B, D, C). The same by autograd
    passes over arrays of this size three times as often, which is most of what NetVLAD costs
    besides its products.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        tokens: torch.Tensor,
        shares: torch.Tensor,
        clusters2: torch.Tensor,
    ) -> torch.Tensor:
        totals = shares.sum(dim=1, keepdim=True)  # (B, 1, C)
        drawn = torch.bmm(tokens.transpose(1, 2), shares).to(clusters2.dtype)
        residuals = drawn.addcmul_(totals, clusters2, value=-1)  # (B, D, C)
        squares = (residuals * residuals).sum(dim=1, keepdim=True)
        lengths = squares.sqrt().clamp_min_(EPS)
        # Columns get unit length, or stay zero: the whole is as long as the root of their number.
        whole = (squares / lengths.square()).sum(dim=2, keepdim=True).sqrt_().clamp_min_(EPS)
        scale = (lengths * whole).reciprocal_()  # (B, 1, C)
        unit = residuals.mul_(scale)
        ctx.save_for_backward(tokens, shares, clusters2, totals, unit, scale, whole / lengths)
        return unit

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        tokens, shares, clusters2, totals, unit, scale, ratio = ctx.saved_tensors
        # Of the gradient counts what is orthogonal to each unit column; the length of the whole
        # does not change. From here on `grad` is that of the residuals.
        along = (grad * unit).sum(dim=1, keepdim=True) * ratio  # (B, 1, C)
        grad = (grad * scale).addcmul_(unit, along, value=-1)
        for_totals = -(grad * clusters2).sum(dim=1, keepdim=True)
        return (
            torch.bmm(shares, grad.transpose(1, 2)) if ctx.needs_input_grad[0] else None,
            torch.baddbmm(for_totals, tokens, grad),
            -(grad * totals).sum(dim=0, keepdim=True),
        )
