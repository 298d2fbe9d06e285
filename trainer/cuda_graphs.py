"""Gradients of a training step: computed as usual, or replayed as a CUDA graph.

A step of Collaborative Experts is several hundred small kernels, and launching them takes longer
than running them. A CUDA graph records them once and launches them all together. Batches, or where
features are on the device the places they are gathered from, are copied to where the recorded
kernels read; gradients appear where they write. The optimiser stays outside: it is a handful of
launches, and its factors change with every step.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer

from utils.batches import gathered

logger = logging.getLogger(__name__)

WARM_UP = 3
"""Steps of one shape taken as usual before one is recorded: libraries choose and set up in them."""

Step = Callable[..., torch.Tensor]
"""Maps the parts of a batch to its loss; its parameters are those of the optimiser."""

Gradients = Callable[[tuple[Any, ...]], torch.Tensor]
"""Leaves the gradients of a batch in the parameters and returns its loss, detached; the next call
may write over both.
"""


def gradients_of(
    step: Step, optimizer: Optimizer, *, replay: bool, device: torch.device, alone: bool
) -> Gradients:
    """Return how the gradients of a step are computed: replayed where asked for and possible.

    That is on a GPU, by one process: what several exchange cannot be recorded.
    """
    if replay and device.type == "cuda":
        if alone:
            return ReplayedGradients(step, optimizer, device)
        logger.info("trainer.cuda_graphs is ignored: several processes train together")
    return partial(plain_gradients, step, optimizer)


def plain_gradients(step: Step, optimizer: Optimizer, batch: tuple[Any, ...]) -> torch.Tensor:
    """Compute the gradients of a batch operation by operation."""
    optimizer.zero_grad(set_to_none=True)
    loss = step(*gathered(batch))
    loss.backward()
    return loss.detach()


class ReplayedGradients:
    """Compute gradients by a graph recorded of the first shape that comes more than WARM_UP times.

    Batches of another shape, such as a short last one, are computed as usual. So are all of them,
    after a warning, where recording fails.
    """

    def __init__(self, step: Step, optimizer: Optimizer, device: torch.device) -> None:
        self._compute = partial(plain_gradients, step, optimizer)
        self._optimizer = optimizer
        self._stream = torch.cuda.Stream(device)
        self._shape: tuple[Any, ...] | None = None
        self._seen = 0
        self._recording: _Recording | None = None
        self._failed = False

    @property
    def is_recorded(self) -> bool:
        """Whether there is a graph to replay."""
        return self._recording is not None

    def __call__(self, batch: tuple[Any, ...]) -> torch.Tensor:
        """Leave the gradients of a batch in the parameters; return its loss."""
        shape = tuple((part.shape, part.dtype) for part in tensors_of(batch))
        if self._recording is None and not self._failed:
            self._seen = self._seen + 1 if shape == self._shape else 1
            self._shape = shape
            if self._seen <= WARM_UP:
                return self._warm_up(batch)
            self._record(batch)
        if self._recording is None or shape != self._shape:
            return self._compute(batch)
        return self._recording.replay(batch)

    def _warm_up(self, batch: tuple[Any, ...]) -> torch.Tensor:
        """Take a step on the stream that will record, as torch's documentation asks."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            loss = self._compute(batch)
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        return loss

    def _record(self, batch: tuple[Any, ...]) -> None:
        try:
            self._recording = _Recording(self._compute, self._optimizer, batch, self._stream)
        except RuntimeError as error:  # an operation that waits for the device, say
            self._failed = True
            logger.warning(
                "the training step cannot be recorded as a CUDA graph and is launched operation by "
                "operation (trainer.cuda_graphs: false avoids the attempt): %s",
                str(error).partition("\n")[0],
            )


class _Recording:
    """The recorded step: where it reads its batch, and where it leaves gradients and loss."""

    def __init__(
        self,
        compute: Gradients,
        optimizer: Optimizer,
        batch: tuple[Any, ...],
        stream: torch.cuda.Stream,
    ) -> None:
        inputs = copied(batch)
        self._inputs = tensors_of(inputs)
        optimizer.zero_grad(set_to_none=True)
        self._replay, self._loss = record(partial(compute, inputs), stream)
        self._gradients = [
            (parameter, parameter.grad)
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]

    def replay(self, batch: tuple[Any, ...]) -> torch.Tensor:
        """Compute the gradients of another batch of the same shape."""
        torch._foreach_copy_(self._inputs, tensors_of(batch), non_blocking=True)
        self._replay()
        for parameter, gradient in self._gradients:  # a batch computed as usual has its own
            parameter.grad = gradient
        return self._loss


def record(
    work: Callable[[], torch.Tensor], stream: torch.cuda.Stream
) -> tuple[Callable[[], None], torch.Tensor]:
    """Record what `work` launches without running it; return what runs it, and its result.

    Only this thread is kept from what cannot be recorded: another one may prepare batches.
    Raises RuntimeError for work that waits for the device.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = work()
    return graph.replay, result


def tensors_of(value: Any) -> list[torch.Tensor]:  # noqa: ANN401  any nesting
    """Return the tensors in nested tuples and mappings, in their order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return []
    return [tensor for part in value for tensor in tensors_of(part)]


def copied(value: Any) -> Any:  # noqa: ANN401  any nesting
    """Return nested tuples and mappings with copies of the tensors in them."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {name: copied(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [copied(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
