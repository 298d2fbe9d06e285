"""An extractor makes tokens of a sound: one class here, one line in `audio/extractors.py`.

    wave (n,) float32 in [-1, 1] at `rate`  ->  tokens (N, width) float32

A token covers `window` samples; tokens, or groups of `group` of them, begin every `step` samples.
N depends on n alone. Sounds of any length may come in blocks: the tokens are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audio.reading import Wave
from audio.weights import load_state, locate_weights, read_weights
from utils.extraction_record import ExtractionRecord
from utils.files import sha256_of

Tokens = NDArray[np.float32]
"""(N, width)."""

GPU_FACTOR = 16
"""How many times as many patches a GPU takes at once as a CPU."""
CHUNK = 120.0
"""Seconds of a long sound that are worked on at once."""


class Extractor(ABC):
    """What is known of an extractor without running it, and how to run it.

    `version` is raised by every change that makes other numbers: features of two versions are not
    mixed. `file` is the place of its features in a data set, as in configs/experts.json.
    """

    name: ClassVar[str]
    expert: ClassVar[str]
    """Name of the expert in configs: `audio` for VGGish, as published; else that of the extractor.
    """
    file: ClassVar[str]
    width: ClassVar[int]
    rate: ClassVar[int]
    step: ClassVar[int]
    window: ClassVar[int]
    group: ClassVar[int] = 1
    context: ClassVar[int] = 0
    """Groups of tokens on each side whose samples a token depends on besides its window."""
    version: ClassVar[int] = 1
    needs_weights: ClassVar[bool] = False
    extras: ClassVar[tuple[str, ...]] = ()
    """Names of further files of configs/extractors.json that it can use."""

    def __init__(
        self,
        weights: Path | None = None,
        device: torch.device | str = "cpu",
        extra: Mapping[str, Path | None] | None = None,
    ) -> None:
        """Make it ready to run; `weights` and `device` mean something to networks alone.

        `extra` are files by the names in `extras`; None means the published one.
        """
        self.extra = dict(extra or {})
        self.device = torch.device(device)
        self.load(weights)

    def load(self, weights: Path | None) -> None:
        """Load the weights of a network; signal processing has none."""
        self.weights_sha256: str | None = None

    @property
    def tokens_per_second(self) -> float:
        """How many tokens a long sound has in a second."""
        return self.group * self.rate / self.step

    @property
    def options(self) -> dict[str, bool]:
        """What besides version and weights makes other numbers."""
        return {}

    def record(self) -> ExtractionRecord:
        """Return the record beside the features, which keeps those of other extractors out."""
        return ExtractionRecord(
            extractor=self.name,
            version=self.version,
            weights_sha256=self.weights_sha256,
            options=self.options,
        )

    @abstractmethod
    def __call__(self, waves: Sequence[Wave]) -> list[Tokens]:
        """Return the tokens of each sound (n,) at `rate`: at least one token each."""

    def tokens(self, wave: Wave) -> Tokens:
        """Return the tokens of one sound: (N, width)."""
        return self([wave])[0]

    def tokens_of_blocks(self, blocks: Iterable[Wave]) -> Tokens:
        """Return the tokens of a sound that comes in blocks: those of the whole, in little memory.

        Extraction continues as soon as CHUNK seconds and one more window are read, so that
        `tokens` treats the end as the end of any sound.
        """
        found = [self.tokens(chunk)[skip:keep] for chunk, skip, keep in self._chunks(blocks)]
        return np.concatenate(found)

    def _chunks(self, blocks: Iterable[Wave]) -> Iterator[tuple[Wave, int, int | None]]:
        """Yield (chunk, first token, last token) so that these tokens are those of the whole."""
        steps = max(1, round(CHUNK * self.rate / self.step))
        before = 0  # steps of context at the beginning of what waits
        waiting: Wave = np.zeros(0, np.float32)
        overlap = self.window - self.step
        for block in blocks:
            waiting = np.concatenate([waiting, block])
            while True:
                size = (before + steps + self.context) * self.step + overlap
                if len(waiting) < size + self.window:
                    break
                first = before * self.group
                yield waiting[:size], first, first + steps * self.group
                start = max(0, before + steps - self.context)
                waiting = waiting[start * self.step :]
                before += steps - start
        yield waiting, before * self.group, None


class NetworkExtractor(Extractor):
    """An extractor that is a torch network on patches of a sound."""

    needs_weights: ClassVar[bool] = True
    batch: ClassVar[int] = 8
    """Patches that go through the network at once on a CPU, whose cache more would overflow."""

    def load(self, weights: Path | None) -> None:
        """Load the weights; without a path they are looked for, and fetched once.

        Raises DataError when they are damaged or another network's, DownloadError when they cannot
        be fetched.
        """
        path = locate_weights(self.name, weights)
        self.weights_sha256 = sha256_of(path)
        state = self.state_of(read_weights(path))
        network = self.build(state)
        load_state(network, state, path)
        network = network.eval().requires_grad_(False).to(self.device)
        # a fifth faster on CPUs than channels first
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @staticmethod
    @abstractmethod
    def build(state: object) -> nn.Module:
        """Return the network for a state dict.

        It makes tokens (n, width), or groups of them (n, group, width), of patches (n, ...).
        """

    @staticmethod
    def state_of(content: object) -> object:
        """Return the state dict inside what the file of the weights holds."""
        return content

    @abstractmethod
    def patches(self, wave: Wave) -> Tensor:
        """Return what the network takes of one sound: (n, ...), n at least 1."""

    def finish(self, tokens: Tensor, wave: Wave) -> Tensor:
        """Return the tokens (N, width) of a sound from the network's output for its patches."""
        return tokens

    @torch.inference_mode()
    def __call__(self, waves: Sequence[Wave]) -> list[Tokens]:
        """Run all patches of all sounds in batches; those of one shape share them."""
        patches = [self.patches(wave) for wave in waves]
        outputs: dict[int, Tensor] = {}
        for shape in dict.fromkeys(one.shape[1:] for one in patches):
            same = [index for index, one in enumerate(patches) if one.shape[1:] == shape]
            ran = self._run(torch.cat([patches[index] for index in same]))
            parts = ran.split([len(patches[index]) for index in same])
            outputs.update(zip(same, parts, strict=True))
        return [self.finish(outputs[i], wave).numpy() for i, wave in enumerate(waves)]

    def _run(self, patches: Tensor) -> Tensor:
        size = self.batch if self.device.type == "cpu" else GPU_FACTOR * self.batch
        parts = patches.split(size)
        return torch.cat([self.network(part.to(self.device)).float().cpu() for part in parts])
