"""The Mish non-linearity (Misra, 2019).

x tanh(log(1 + e^x))
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

LEVEL = 20.0  # beyond, tanh(log(1 + e^x)) is 1 in double precision too


class Mish(nn.Module):
    """Apply Mish to every entry, of any shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = (
            x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.float64)
            and not torch.compiler.is_compiling()
        )
        return _Mish.apply(x) if own else F.mish(x)


class _Mish(torch.autograd.Function):
    """Mish by one exponential, where torch's kernel for the CPU takes four functions.

    With e = e^x and n = e (e + 2), tanh(log(1 + e)) is t = n / (n + 2), and its derivative
    t' = 4 e (e + 1) / (n + 2)^2. The square of e^LEVEL overflows in half precision.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        e = x.clamp(max=LEVEL).exp_()
        n = (e + 2).mul_(e)
        inverse = (n + 2).reciprocal_()
        t = n.mul_(inverse)
        ctx.save_for_backward(x, e, inverse, t)
        return x * t

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        x, e, inverse, t = ctx.saved_tensors
        slope = (e + 1).mul_(e).mul_(inverse).mul_(inverse)  # t' / 4
        slope.mul_(x.clamp(max=LEVEL))
        return torch.add(t, slope, alpha=4).mul_(grad)
