"""Several processes that train one model together, started by torchrun; one process is the rule.

Every process takes its share of each batch and embeds it; the embeddings of all are gathered, so
that the ranking loss sees the whole batch, and batch norms use the statistics of the whole batch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.batch_norm import BatchNorm
from utils.errors import UsageError


@dataclass(frozen=True)
class Processes:
    """One process among those that work together; alone unless torchrun started it."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.world_size == 1

    @property
    def is_writer(self) -> bool:
        """Whether this is the one process that writes files and lines."""
        return self.rank == 0

    def any(self, flag: bool, device: torch.device) -> bool:
        """Say whether the flag is set in any process, the same answer in all."""
        if self.is_alone:
            return flag
        told = torch.tensor([float(flag)], device=device)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return bool(told.item())

    def text_of_writer(self, text: str, device: torch.device) -> str:
        """Return the writer's text in every process."""
        if self.is_alone:
            return text
        data = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
        size = torch.tensor([len(data)], device=device)
        dist.broadcast(size, 0)
        if not self.is_writer:
            data = torch.empty(int(size.item()), dtype=torch.uint8, device=device)
        dist.broadcast(data, 0)
        return bytes(data.tolist()).decode()

    def numbers_of_writer(self, values: dict[str, float], device: torch.device) -> dict[str, float]:
        """Return the writer's numbers in every process, so that all decide alike."""
        if self.is_alone:
            return values
        told = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
        dist.broadcast(told, 0)
        return dict(zip(values, told.tolist(), strict=True))

    def share(self, count: int) -> slice:
        """Return the part of `count` things that is this process's: contiguous, nearly equal."""
        start = self.rank * count // self.world_size
        return slice(start, (self.rank + 1) * count // self.world_size)

    def wait(self) -> None:
        """Wait until every process is here."""
        if not self.is_alone:
            dist.barrier()


ALONE = Processes()


@contextmanager
def processes_of(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did.

    Raises UsageError when torchrun's settings are incomplete.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes()
        return
    if "RANK" not in os.environ:
        raise UsageError("WORLD_SIZE is set without RANK; start with: torchrun train.py ...")
    options: dict[str, Any] = {"device_id": device} if device.type == "cuda" else {}
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **options)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def local_device(name: str | None) -> str | None:
    """Return the GPU of this process: --device N counts from N in each machine."""
    rank = os.environ.get("LOCAL_RANK")
    if name is None or name == "cpu" or rank is None:
        return name
    first = name.removeprefix("cuda:")
    return str(int(first) + int(rank)) if first.isdecimal() else name


def share_training(step: nn.Module, processes: Processes, *, unused_parameters: bool) -> nn.Module:
    """Return the step with gradients averaged over all processes and batch norms shared."""
    if processes.is_alone:
        return step
    for module in step.modules():
        if isinstance(module, BatchNorm):
            module.shared = True
    return DistributedDataParallel(
        step, broadcast_buffers=False, find_unused_parameters=unused_parameters
    )


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows of all processes, in the order of ranks; they may hold different counts.

    Differentiable: rows (B_r, ...) -> (sum of B_r, ...). Every process must then compute the same
    loss, of which DistributedDataParallel averages the gradients.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    return _GatherRows.apply(rows)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(_size())]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        ctx.counts = [int(count.item()) for count in counts]
        longest = max(ctx.counts)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in ctx.counts]
        dist.all_gather(gathered, padded)
        parts = [part[:count] for part, count in zip(gathered, ctx.counts, strict=True)]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        total = gradient.contiguous()
        dist.all_reduce(total)  # what every process's loss says of these rows
        first = sum(ctx.counts[: dist.get_rank()])
        return total[first : first + ctx.counts[dist.get_rank()]]


def _size() -> int:
    return dist.get_world_size()
