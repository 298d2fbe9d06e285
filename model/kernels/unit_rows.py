"""Rows of unit length, plain and gated, with gradients of their own.

    x / max(|x|, EPS)                    as F.normalize(x, dim=-1) does
    y / max(|y|, EPS), y = x * sigmoid(gate)

Autograd takes a dozen small operations for the gradient of the first line; that of a unit vector
is the part of the arriving gradient that is orthogonal to it, divided by the length: four.
"""

from typing import Any

import torch
import torch.nn.functional as F

EPS = 1e-12  # that of F.normalize


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """Return rows (..., D) divided by their lengths; rows of zeros stay."""
    if torch.compiler.is_compiling():
        return F.normalize(x, dim=-1)
    return _UnitRows.apply(x)


def gated_unit_rows(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Return x * sigmoid(gate), both (..., D), in rows of unit length."""
    if torch.compiler.is_compiling():
        return F.normalize(x * torch.sigmoid(gate), dim=-1)
    return _GatedUnitRows.apply(x, gate)


def _unit(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of unit length, and the lengths (..., 1) that they had."""
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min_(EPS)
    return rows / lengths, lengths


def _through_unit(grad: torch.Tensor, unit: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the gradient of rows from that of the same at unit length."""
    along = (grad * unit).sum(dim=-1, keepdim=True)
    return torch.addcmul(grad, unit, along, value=-1).div_(lengths)


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        unit, lengths = _unit(x)
        ctx.save_for_backward(unit, lengths)
        return unit

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        return _through_unit(grad, *ctx.saved_tensors)


class _GatedUnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        open_ = torch.sigmoid(gate)
        unit, lengths = _unit(x * open_)
        ctx.save_for_backward(x, open_, unit, lengths)
        return unit

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ANN401
        x, open_, unit, lengths = ctx.saved_tensors
        for_product = _through_unit(grad, unit, lengths)
        for_gate = torch.ops.aten.sigmoid_backward(for_product * x, open_)
        return for_product.mul_(open_), for_gate
