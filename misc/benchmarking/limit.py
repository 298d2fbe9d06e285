"""The least time of a step: its matrix products and one pass of an optimiser."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::_linear_pointwise")


TRIES = 5


class _Products(TorchDispatchMode):
    """Note every matrix product, done again on copies into memory that is there already."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Any]] = []
        self.flops = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        result = function(*args, **(kwargs or {}))
        name = function.name().split(".")[0]
        if name in PRODUCTS:
            copies = [_like(value) for value in args]
            self.calls.append(_fastest(_ways(name, copies, kwargs or {}, function, result)))
            left = args[1 if "add" in name else 0]  # after what is added to
            self.flops += 2 * result.numel() * left.shape[-1]
        return result


def _ways(
    name: str,
    args: list[Any],
    kwargs: dict[str, Any],
    function: Callable[..., Any],
    like: torch.Tensor,
) -> list[Callable[[], Any]]:
    """Return the ways of a product: by torch into memory of its own, and as it was called."""
    out = torch.empty_like(like)
    if name == "mkldnn::_linear_pointwise":
        rows, weight, bias = args[:3]
        if bias is None:
            return [
                lambda: torch.mm(rows, weight.t(), out=out),
                lambda: function(*args, **kwargs),
            ]
        return [
            lambda: torch.addmm(bias, rows, weight.t(), out=out),
            lambda: function(*args, **kwargs),
        ]
    by_torch = getattr(torch, name.removeprefix("aten::"))
    return [lambda: by_torch(*args, **kwargs, out=out)]


def _fastest(ways: list[Callable[[], Any]]) -> Callable[[], Any]:
    """Return the way that takes the least time at its best."""
    if len(ways) == 1:
        return ways[0]
    seconds = []
    for way in ways:
        tries = []
        for _ in range(TRIES):
            started = time.perf_counter()
            way()
            tries.append(time.perf_counter() - started)
        seconds.append(min(tries))
    return ways[seconds.index(min(seconds))]


def _like(value: Any) -> Any:  # noqa: ANN401  an argument of any operation
    """Return a copy of a tensor with the same strides; overlapping ones become dense."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().clone(memory_format=torch.preserve_format)


class Limit:
    """Run the matrix products of a step, then one fused optimiser pass over its parameters."""

    def __init__(self, step: Callable[[], torch.Tensor], parameters: int) -> None:
        """Note the products of `step`, which returns a loss, and of its gradients."""
        with _Products() as noted:
            step().backward()
        self.flops = noted.flops
        self._calls = noted.calls
        device = step().device
        flat = torch.nn.Parameter(torch.zeros(parameters, device=device))
        flat.grad = torch.randn_like(flat)
        self._optimizer = torch.optim.AdamW([flat], lr=1e-3, fused=True)

    def run(self) -> None:
        """Do it once."""
        for call in self._calls:
            call()
        self._optimizer.step()
