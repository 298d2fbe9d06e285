"""Rows of unit length, with a gradient of their own.

    x / max(|x|, EPS)        as F.normalize(x, dim=-1) does

Autograd takes a dozen small operations for the gradient; that of a unit vector is the part of the
arriving gradient that is orthogonal to it, divided by the length: four.
"""

from typing import Any

import torch
import torch.nn.functional as F

EPS = 1e-12  # that of F.normalize


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """Return rows (..., D) divided by their lengths; rows of zeros stay."""
    return F.normalize(x, dim=-1) if torch.compiler.is_compiling() else _UnitRows.apply(x)


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(EPS)
        unit = x / lengths
        ctx.save_for_backward(unit, lengths)
        return unit

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        unit, lengths = ctx.saved_tensors
        along = (grad * unit).sum(dim=-1, keepdim=True)
        return torch.addcmul(grad, unit, along, value=-1).div_(lengths)
