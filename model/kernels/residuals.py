"""The residuals of NetVLAD, each column and then the whole at unit length.

    v = tokens^T shares - totals clusters2          totals = sum_n shares
    columns = v / max(|v|, EPS), over d             as F.normalize does
    result = columns / max(|columns|, EPS), over d and c

Through these three lines autograd passes over arrays of (B, D, C) three times as often, which is
most of the time that NetVLAD takes besides its products.
"""

from typing import Any

import torch
import torch.nn.functional as F

EPS = 1e-12


def plain_unit_residuals(
    tokens: torch.Tensor, shares: torch.Tensor, clusters2: torch.Tensor
) -> torch.Tensor:
    """Return the formula, line by line: (B, N, D), (B, N, C), (1, D, C) -> (B, D, C)."""
    residuals = tokens.transpose(1, 2) @ shares - shares.sum(dim=1, keepdim=True) * clusters2
    columns = F.normalize(residuals, dim=1, eps=EPS)
    return F.normalize(columns.flatten(1), dim=1, eps=EPS).view_as(columns)


def unit_residuals(
    tokens: torch.Tensor, shares: torch.Tensor, clusters2: torch.Tensor
) -> torch.Tensor:
    """Return the same in one step: (B, N, D), (B, N, C), (1, D, C) -> (B, D, C).

    A compiler gets the plain formula: traced by torch 2.11 on a GPU, the step below passed no
    gradient back.
    """
    if torch.compiler.is_compiling():
        return plain_unit_residuals(tokens, shares, clusters2)
    return _UnitResiduals.apply(tokens, shares, clusters2)


class _UnitResiduals(torch.autograd.Function):
    """Both normalisations as one scaling of each column; autograd would keep three such arrays."""

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
