"""Several processes that train one model together, started by torchrun; one process is the rule.

Every process takes its share of each batch and embeds it; the embeddings of all are gathered, so
that the ranking loss sees the whole batch, and batch norms use the statistics of the whole batch.
"""

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.batch_norm import BatchNorm
from utils.errors import UsageError

T = TypeVar("T")


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
        flags = torch.tensor([float(flag)], device=device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def of_writer(self, make: Callable[[], T], device: torch.device) -> T:
        """Let the writer alone call `make`; return its value in every process."""
        if self.is_alone:
            return make()
        values = [make() if self.is_writer else None]
        dist.broadcast_object_list(values, device=device)
        return cast("T", values[0])

    def share(self, count: int) -> slice:
        """Return the part of `count` things that is this process's, one of `equal_parts`."""
        return equal_parts(count, self.world_size)[self.rank]

    def share_sizes(self, count: int) -> list[int]:
        """Return how many of `count` things are each process's."""
        return [part.stop - part.start for part in equal_parts(count, self.world_size)]

    def wait(self) -> None:
        """Wait until every process is here."""
        if not self.is_alone:
            dist.barrier()


ALONE = Processes()


def equal_parts(count: int, parts: int) -> list[slice]:
    """Split a range into contiguous parts, equal to within one: some empty if there are more."""
    ends = [part * count // parts for part in range(parts + 1)]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


@contextmanager
def processes_of(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did.

    Raises UsageError when torchrun's settings are incomplete.
    """
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        if not os.environ.get(name, "0").isdecimal():
            raise UsageError(f"{name} is {os.environ[name]!r}; torchrun sets it to a number")
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes()
        return
    if "RANK" not in os.environ:
        raise UsageError("WORLD_SIZE is set without RANK; start with: torchrun train.py ...")
    options: dict[str, Any] = {}
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL and barriers use the current one
        options["device_id"] = device
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **options)
    yield Processes(dist.get_rank(), dist.get_world_size())
    # Only now: where this process alone failed, leaving could wait for the others forever.
    dist.destroy_process_group()


def share_training(step: nn.Module, processes: Processes, *, unused_parameters: bool) -> nn.Module:
    """Return the step with gradients averaged over all processes and batch norms shared."""
    if processes.is_alone:
        return step
    for module in step.modules():
        if isinstance(module, BatchNorm):
            module.shared = True
    together = DistributedDataParallel(step, find_unused_parameters=unused_parameters)
    # Shared batch norms keep the same statistics in all processes. As an argument this is
    # deprecated, and torch before 2.13 lacks its replacement.
    together.broadcast_buffers = False
    return together


def gather_sizes(own: int, device: torch.device) -> list[int]:
    """Return how many rows each process holds, in the order of ranks; this one holds `own`."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
    sizes[dist.get_rank()] = own
    dist.all_reduce(sizes)
    counts: list[int] = sizes.tolist()
    return counts


def gather_rows(parts: Sequence[torch.Tensor], sizes: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Return the rows of all processes, in the order of ranks, for each of several tensors.

    Differentiable: parts (B_r, ...) with B_r = sizes[rank], which may be 0 -> (sum of sizes, ...).
    Every process must then compute the same loss, of which DistributedDataParallel averages the
    gradients.
    """
    if len(sizes) == 1:
        return tuple(parts)
    widths = [math.prod(part.shape[1:]) for part in parts]
    flat = [part.reshape(len(part), width) for part, width in zip(parts, widths, strict=True)]
    pieces = _GatherRows.apply(torch.cat(flat, dim=1), sizes).split(widths, dim=1)  # all at once
    return tuple(
        piece.reshape(len(piece), *part.shape[1:])
        for piece, part in zip(pieces, parts, strict=True)
    )


def gather_batch(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a batch whole, of which each process holds a share: text, {name: tensor}, ..."""
    sizes = gather_sizes(len(batch[0]), batch[0].device)
    return tuple(_gather_part(part, sizes) for part in batch)


def _gather_part(part: Any, sizes: Sequence[int]) -> Any:  # noqa: ANN401
    if isinstance(part, torch.Tensor):
        return gather_rows((part,), sizes)[0]
    if isinstance(part, dict):
        return {name: _gather_part(one, sizes) for name, one in part.items()}
    return type(part)(*gather_rows(part, sizes))  # Frames


class _GatherRows(torch.autograd.Function):
    """Sum matrices in which each process has filled its own rows alone."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:  # noqa: ANN401
        first = sum(sizes[: dist.get_rank()])
        ctx.own = slice(first, first + len(rows))
        whole = rows.new_zeros(sum(sizes), rows.shape[1])
        whole[ctx.own] = rows
        dist.all_reduce(whole)
        return whole

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)  # the gradients of all processes' losses
        return total[ctx.own], None
