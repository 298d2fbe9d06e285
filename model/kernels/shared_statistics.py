"""Batch normalisation over several processes, each holding a share of the batch's rows.

    mean, variance = those of the rows of all processes
    (rows - mean) / sqrt(variance + eps) * weight + bias

On one process this is F.batch_norm in training. torch's SyncBatchNorm refuses tensors on the CPU.
"""

from typing import Any

import torch
import torch.distributed as dist


def normalise_across_processes(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise rows (B, P, C) of this process by the statistics of all processes' rows.

    Two differentiable sums over the processes, in the precision of the weights. Returns the
    normalised rows, and mean and unbiased variance of each group, (P, C). A process may hold no
    row at all.
    """
    exact = rows.to(weight.dtype)
    count = torch.full((1,), len(rows), dtype=weight.dtype, device=rows.device)
    dist.all_reduce(count)
    mean = _SumOverProcesses.apply(exact.sum(dim=0)) / count  # (P, C)
    centred = exact - mean
    variance = _SumOverProcesses.apply(centred.square().sum(dim=0)) / count
    normalised = centred * torch.rsqrt(variance + eps) * weight + bias
    unbiased = variance.detach() * (count / (count - 1).clamp(min=1))
    return normalised.to(rows.dtype), mean.detach(), unbiased


class _SumOverProcesses(torch.autograd.Function):
    """Sum a tensor over all processes; on the way back, sum the gradients of all of them.

    torch's own, torch.distributed.nn.functional.all_reduce, is deprecated.
    """

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        return _summed(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        return _summed(grad)


def _summed(values: torch.Tensor) -> torch.Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
