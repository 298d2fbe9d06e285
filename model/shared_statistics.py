"""Batch statistics over several processes, each holding a share of the batch's rows."""

import torch


def normalise_across_processes(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise rows (B, P, C) of this process by the statistics of all processes' rows.

    torch's SyncBatchNorm refuses tensors on the CPU; this is the same by two differentiable sums.
    Returns the normalised rows, and mean and unbiased variance of each group, (P, C). A process
    may hold no row at all.
    """
    from torch.distributed import all_reduce as sum_in_place
    from torch.distributed.nn.functional import all_reduce

    count = rows.new_tensor([len(rows)])
    sum_in_place(count)
    mean = all_reduce(rows.sum(dim=0)) / count  # (P, C)
    centred = rows - mean
    variance = all_reduce(centred.square().sum(dim=0)) / count
    normalised = centred * torch.rsqrt(variance + eps) * weight + bias
    return normalised, mean.detach(), variance.detach() * (count / (count - 1).clamp(min=1))
