"""Linear layers by oneDNN.

    rows @ weight.T + bias

On the CPU torch leaves float32 products to MKL, which keeps its widest vectors for the processors
of its maker; oneDNN, which comes with torch, uses them on every processor: twice as fast on an AMD
one, no faster on an Intel one. A try at the first product decides. The same products by another
library differ by rounding alone.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

TRIED_ROWS, TRIED_WIDTH, TRIES = 128, 768, 11
WORTH_IT = 0.7  # of MKL's time


class Linear(nn.Linear):
    """torch's own linear layer, computed by `linear`: rows (..., in) -> (..., out)."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return linear(rows, self.weight, self.bias)


def linear(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return rows (..., in) @ weight (out, in).T + bias (out,) -> (..., out)."""
    flat = rows.reshape(-1, rows.shape[-1])
    if not _by_onednn(flat):
        return F.linear(rows, weight, bias)
    return _Linear.apply(flat, weight, bias).view(*rows.shape[:-1], len(weight))


def _by_onednn(rows: torch.Tensor) -> bool:
    """Whether oneDNN exists, is the faster one, and takes these products.

    Without rows it has no gradient of the weight. Autocast would be passed over, and a compiler
    knows what to do with torch's own layer alone.
    """
    return bool(
        rows.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and rows.dtype == torch.float32
        and len(rows) > 0
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and onednn_is_faster()
    )


@functools.cache
def onednn_is_faster() -> bool:
    """Try both libraries on a product of usual size; MKL has the benefit of the doubt.

    Pairs of tries on one thread, by the time of the thread alone, so that other programs do not
    change the choice from one run to the next.
    """
    if not _onednn_works():
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows, weight = torch.ones(TRIED_ROWS, TRIED_WIDTH), torch.ones(TRIED_WIDTH, TRIED_WIDTH)
        ratios = [
            _seconds(_product, rows, weight) / _seconds(F.linear, rows, weight)
            for _ in range(TRIES)
        ]
    finally:
        torch.set_num_threads(threads)
    return statistics.median(ratios) < WORTH_IT


def _seconds(product: Callable[..., torch.Tensor], *matrices: torch.Tensor) -> float:
    """Return the processor time of this thread for a product."""
    started = time.thread_time()
    product(*matrices)
    return time.thread_time() - started


@functools.cache
def _onednn_works() -> bool:
    """Try the operator once: it is torch's own, but not among those it promises to keep."""
    rows, weight = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
    try:
        product = _product(rows, weight)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool(torch.equal(product, rows @ weight.t()))


def _product(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return rows @ weight.T + bias by oneDNN; both may be transposed views."""
    return torch.ops.mkldnn._linear_pointwise(_dense(rows), _dense(weight), bias, "none", [], "")


def _dense(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix that fills its memory, as it is or transposed.

    For any other, such as half of the columns of a wider one, oneDNN falls back to a reference
    implementation a thousand times slower.
    """
    if matrix.is_contiguous() or matrix.t().is_contiguous():
        return matrix
    return matrix.contiguous()


class _Linear(torch.autograd.Function):
    """The three products of a linear layer: its output and the two gradients."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  typed by torch at run time only
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(rows, weight)
        return _product(rows, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        grad: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        for_rows, for_weight, for_bias = ctx.needs_input_grad
        return (
            _product(grad, weight.t()) if for_rows else None,
            _product(grad.t(), rows.t()) if for_weight else None,
            grad.sum(dim=0) if for_bias else None,
        )
