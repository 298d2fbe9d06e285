"""Training steps that are timed: ours, and the opponent's on the same clips."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data_loader import BaseDataset
from misc.benchmarking import reference
from model import build_model
from model.loss import build_loss
from model.retrieval_model import RetrievalModel
from trainer.optimizer import build_optimizer
from trainer.ranking_step import build_step
from utils.allocator import SETTLED, keep_memory, set_thresholds
from utils.config import Config

REFERENCE_CLIPS = 512


@dataclass
class Steps:
    """Training steps whose parts can be timed."""

    device: torch.device
    optimizer: Any
    batch: Callable[[], Any]
    loss: Callable[..., torch.Tensor]

    def take(self) -> None:
        """Take a whole step."""
        batch = self.batch()
        self.optimizer.zero_grad()
        self.loss(*batch).backward()
        self.optimizer.step()

    def take_apart(self) -> Iterator[tuple[str, float]]:
        """Take a step and yield its parts with their seconds."""
        watch = Watch(self.device)
        batch = self.batch()
        yield "batch", watch.lap()
        self.optimizer.zero_grad()
        loss = self.loss(*batch)
        yield "forward", watch.lap()
        loss.backward()
        yield "backward", watch.lap()
        self.optimizer.step()
        yield "optimiser", watch.lap()


def own_steps(
    config: Config, model: RetrievalModel, data: BaseDataset, device: torch.device
) -> Steps:
    """Return training steps on the data set's own batches."""
    batches = _endless(data, device)

    def batch() -> Any:  # noqa: ANN401
        keep_memory()
        return next(batches)

    step = build_step(config, model.train(), build_loss(config.loss).to(device))
    optimizer = build_optimizer(config.optimizer, model.parameters())
    return Steps(device, optimizer, batch, step)


def reference_steps(config: Config, data: BaseDataset, device: torch.device) -> Steps:
    """Return the opponent's training steps, on clips that it holds in memory one by one."""
    model = reference.with_plain_layers(seeded_model(config, device).train())
    args = config.optimizer.args
    held = min(REFERENCE_CLIPS, len(data))
    text, experts, _ = data.batch(range(held), [0] * held)
    clips: list[reference.Clip] = [
        ([_without_padding(text[i, 0])], {n: _without_padding(f[i]) for n, f in experts.items()})
        for i in range(held)
    ]
    places = {expert.name: expert.max_tokens for expert in config.experts}
    size = min(config.data.batch_size, held)
    draw = np.random.default_rng(0)

    def batch() -> Any:  # noqa: ANN401
        set_thresholds(*SETTLED)  # glibc's own, where nothing is set
        chosen = [clips[i] for i in draw.choice(held, size, replace=False)]
        text, *features = reference.collate(chosen, places, config.text.max_tokens, [0] * size)
        moved = ({name: one.to(device) for name, one in of.items()} for of in features)
        return text.to(device), *moved

    def loss(*batch: Any) -> torch.Tensor:  # noqa: ANN401
        return reference.ranking_loss(
            reference.similarities(model, *batch), config.loss.args["margin"]
        )

    optimizer = reference.Ranger(model.parameters(), args["lr"], args["weight_decay"])
    return Steps(device, optimizer, batch, loss)


class Watch:
    """A stopwatch that waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = self._now()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        last, self._last = self._last, self._now()
        return self._last - last

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def timed(work: Callable[[], Any], device: torch.device, *, times: int = 1) -> float:
    """Return the seconds that doing the work takes, of `times` in a row without a pause."""
    watch = Watch(device)
    for _ in range(times):
        work()
    return watch.lap() / times


def seeded_model(config: Config, device: torch.device) -> RetrievalModel:
    torch.manual_seed(0)
    return build_model(config).to(device)


def _endless(data: BaseDataset, device: torch.device) -> Iterator[Any]:
    """Yield full batches, epoch after epoch."""
    full = len(data) // data.settings.batch_size
    for number in itertools.count(1):
        yield from itertools.islice(data.epoch(number, 0, device=device), full)


def _without_padding(rows: torch.Tensor) -> np.ndarray:
    values = rows.cpu().numpy()
    return values[values.any(axis=1)] if values.ndim == 2 else values
