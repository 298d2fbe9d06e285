"""Gradients of a large batch that is embedded part by part (GradCache, Gao et al., 2021).

The loss compares all captions with all clips, so that gradients of parts cannot be added up. But
it needs their embeddings alone: these are computed part by part without gradients, the loss gives
the gradient of each embedding, and a second pass takes it on to the weights. Memory is that of one
part; time is that of one more forward pass.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from model import Rows
from trainer.cuda_graphs import plain_gradients
from trainer.distributed import equal_parts
from trainer.ranking_step import RankingStep
from utils.batches import gathered, rows_of

State = list[torch.Tensor]


class CachedGradients:
    """Compute the gradients of batches of which at most `at_once` clips are embedded at a time.

    They are those of the whole batch, to rounding, for a model that embeds each row by itself.
    Batch norm does not: it normalises each part by the part's own statistics, as it would a smaller
    batch, and its running statistics move once for each part; the loss still sees the whole batch.
    Dropout draws anew for each part, and the same in both passes.
    """

    def __init__(self, step: RankingStep, optimizer: Optimizer, at_once: int) -> None:
        self._step = step
        self._optimizer = optimizer
        self._at_once = at_once

    def __call__(self, batch: tuple[Any, ...]) -> torch.Tensor:
        """Leave the gradients of a batch in the parameters; return its loss, detached."""
        batch = gathered(batch)
        parts = [_part(batch, rows) for rows in parts_of(len(batch[0]), self._at_once)]
        if len(parts) == 1:
            return plain_gradients(self._step, self._optimizer, batch)
        self._optimizer.zero_grad(set_to_none=True)
        lucks = []
        captions, clips = [], []
        for part in parts:
            lucks.append(luck(part[0].device))
            with torch.no_grad():
                of_part = self._step.embed(*part)
            captions.append(_leaves(of_part[0]))
            clips.append(_leaves(of_part[1]))
        loss = self._step.compare(_joined(captions), _joined(clips), *batch)
        loss.backward()
        moved = [buffer.clone() for buffer in self._step.model.buffers()]
        for part, state, *leaves in zip(parts, lucks, captions, clips, strict=True):
            with luck_of(state, part[0].device):
                again = self._step.embed(*part)
            _backward(itertools.chain(*again), itertools.chain(*leaves))
        with torch.no_grad():  # the second pass has moved running statistics once more
            for buffer, value in zip(self._step.model.buffers(), moved, strict=True):
                buffer.copy_(value)
        return loss.detach()


def parts_of(count: int, at_once: int) -> list[slice]:
    """Return the fewest parts of at most `at_once` of `count` rows, equal to within one."""
    return equal_parts(count, math.ceil(count / at_once))


def luck(device: torch.device) -> State:
    """Return the states of the generators that computing on a device draws from."""
    of_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *of_device]


@contextmanager
def luck_of(state: State, device: torch.device) -> Iterator[None]:
    """Draw as from `state` for a while, then as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(state[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state[1], device)
        yield


def _part(batch: tuple[Any, ...], rows: slice) -> tuple[Any, ...]:
    """Return text, experts and availabilities of some rows of a batch."""
    text, experts, available, *_ = batch
    return (
        text[rows],
        {name: rows_of(features, rows) for name, features in experts.items()},
        {name: flags[rows] for name, flags in available.items()},
    )


def _leaves(rows: Rows) -> Rows:
    """Return rows that take up gradients; rows without gradient, such as availabilities, too."""
    return tuple(one.requires_grad_() for one in rows)


def _joined(parts: Sequence[Rows]) -> Rows:
    return tuple(torch.cat(rows) for rows in zip(*parts, strict=True))


def _backward(rows: Iterator[torch.Tensor], leaves: Iterator[torch.Tensor]) -> None:
    """Take the gradients that `leaves` have on through rows of the same values."""
    pairs = [
        (row, leaf.grad)
        for row, leaf in zip(rows, leaves, strict=True)
        if row.requires_grad and leaf.grad is not None
    ]
    torch.autograd.backward([row for row, _ in pairs], [grad for _, grad in pairs])
