"""Frames of experts with their times: which of them are kept, and what is pooled of all.

V clips in the split, B in a batch, N frames that are kept of an expert, D its width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_loader.batches import HOST, Sequences, bytes_to_move
from data_loader.split import SplitExpert
from utils.batches import Frames

Places = NDArray[np.int64]
Draw = Callable[[int], np.random.Generator]
"""The generator that draws the frames of a row of a batch."""
Pooling = Literal["max", "mean"]
NO_FRAME = -1


class ClipFrames:
    """The frames of a split's experts on one device."""

    def __init__(
        self, experts: list[SplitExpert], *, pooling: Pooling = "max", device: torch.device = HOST
    ) -> None:
        self._device = device
        self._experts = {
            expert.config.name: _ExpertFrames(expert, pooling, device) for expert in experts
        }

    def choose(self, clips: NDArray[np.int64], draw: Draw | None = None) -> dict[str, Places]:
        """Choose the frames of clips (B,) that are kept: {expert: places (B, N)}, -1 behind.

        Of more than N frames, training keeps an even draw, in order of time; without `draw` it is
        the draw that published evaluations use, the same for all clips of one length.
        """
        generators = None if draw is None else [draw(row) for row in range(len(clips))]
        return {name: expert.choose(clips, generators) for name, expert in self._experts.items()}

    def take(
        self, clips: NDArray[np.int64], places: Mapping[str, Places], *, pin: bool = False
    ) -> dict[str, Frames]:
        """Return the frames of clips (B,) at places (B, N), as `choose` has them."""
        taken = {}
        for name, expert in self._experts.items():
            tokens = expert.take(clips, places[name], pin=pin)
            exists = torch.from_numpy(places[name] != NO_FRAME).to(self._device)
            middle = torch.from_numpy(places[name]).to(self._device) + 0.5
            pooled = torch.from_numpy(expert.pooled(clips)).to(self._device)
            times = torch.where(exists, middle, 0.0).float()
            taken[name] = Frames(tokens, times, exists.float(), pooled)
        return taken


class FrameTensors:
    """A split as MMT reads it: captions as ids of word pieces, experts as frames.

    It takes the place of ClipTensors. A "word" is a whole caption here; ids (C + 1, W, 2), of which
    the last is used for a caption that does not exist.
    """

    def __init__(
        self,
        experts: list[SplitExpert],
        ids: Tensor,
        pooling: Pooling = "max",
        device: torch.device = HOST,
    ) -> None:
        self.device = device
        self._sources = (experts, ids, pooling)
        self._ids = ids.to(device)
        self._frames = ClipFrames(experts, pooling=pooling, device=device)
        self._available = {
            expert.config.name: torch.from_numpy(expert.available.astype(np.float32)).to(device)
            for expert in experts
        }

    def to(self, device: torch.device) -> FrameTensors:
        """Return the same on another device."""
        return FrameTensors(*self._sources, device)

    def bytes_to_move(self, device: torch.device) -> int:
        """Return what `to` would copy: files that are on the device already cost nothing."""
        experts, ids, _ = self._sources
        files = [part for expert in experts for part in expert.parts]
        return bytes_to_move(files, device) + ids.nbytes

    def words(self, captions: Tensor) -> Tensor:
        """Return captions (B,) as they are."""
        return captions

    def no_words(self, count: int) -> Tensor:
        """Return captions (count,) that do not exist."""
        return torch.full((count,), len(self._ids) - 1, device=self.device)

    def text(self, words: Tensor, *, pin: bool = False) -> Tensor:
        """Return the ids of captions (B,) and where there is one: (B, W, 2) int64."""
        taken = self._ids[words].long()
        return taken.pin_memory() if pin else taken

    def experts(
        self, clips: Tensor, *, pin: bool = False, draw: Draw | None = None
    ) -> tuple[dict[str, Frames], dict[str, Tensor]]:
        """Return the frames and availabilities of clips (B,); `draw` is that of training."""
        places = clips.cpu().numpy()
        frames = self._frames.take(places, self._frames.choose(places, draw), pin=pin)
        return frames, {name: table[clips] for name, table in self._available.items()}


class _ExpertFrames:
    def __init__(self, expert: SplitExpert, pooling: Pooling, device: torch.device) -> None:
        if expert.config.max_tokens is None:
            raise ValueError(f"expert {expert.config.name!r} has no frames")
        self._expert = expert
        self._pooling = pooling
        self._most = expert.config.max_tokens
        self._sequences = Sequences.of_expert(expert, device)
        self._lengths = np.min(expert.lengths, axis=0)  # (V,)
        width = sum(part.width for part in expert.parts)
        self._pooled = np.zeros((len(self._lengths), width), np.float32)
        self._known = np.zeros(len(self._lengths), bool)

    def choose(
        self, clips: NDArray[np.int64], generators: list[np.random.Generator] | None
    ) -> Places:
        places = np.full((len(clips), self._most), NO_FRAME)
        for b, length in enumerate(self._lengths[clips].tolist()):
            if length <= self._most:
                places[b, :length] = np.arange(length)
            elif generators is None:
                places[b] = published_draw(length, self._most)
            else:
                places[b] = np.sort(generators[b].choice(length, self._most, replace=False))
        return places

    def take(self, clips: NDArray[np.int64], places: Places, *, pin: bool) -> Tensor:
        parts = []
        for sequences in self._sequences:
            longest = int(self._lengths[clips].max(initial=0))
            sequences.announce(torch.from_numpy(clips), longest)
            sequences.verify(torch.from_numpy(clips), longest)
            starts = sequences.starts[torch.from_numpy(clips).to(sequences.starts.device), None]
            there = torch.from_numpy(places).to(starts.device)
            index = torch.where(there == NO_FRAME, sequences.padding, starts + there)
            parts.append(sequences.take(index, pin=pin).float())
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def pooled(self, clips: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return what is pooled of all frames of clips (B,): (B, D), 0 without frames.

        It is rounded as in the published files of pooled vectors, which hold float16.
        """
        for clip in np.unique(clips[~self._known[clips]]):
            if self._lengths[clip]:
                self._pooled[clip] = rounded(self._pool(clip))
            self._known[clip] = True
        return self._pooled[clips]

    def _pool(self, clip: int) -> NDArray[np.float32]:
        length, vectors = self._lengths[clip], []
        for part, starts in zip(self._expert.parts, self._expert.starts, strict=True):
            frames = part.rows[starts[clip] : starts[clip] + length].astype(np.float32)
            vectors.append(frames.max(axis=0) if self._pooling == "max" else frames.mean(axis=0))
        return np.concatenate(vectors)


@functools.cache
def published_draw(count: int, most: int) -> Places:
    """Return which `most` of `count` frames every published evaluation keeps, in order."""
    return np.sort(np.random.RandomState(0).choice(count, most, replace=False))


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to float16; values too large for it stay as they are."""
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16).astype(np.float32)
    return np.where(np.isfinite(halves), halves, values)
