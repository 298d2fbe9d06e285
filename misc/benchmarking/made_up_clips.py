"""Clips with something to learn, made in memory or on a GPU: captions and features share topics.

V clips, K captions, N tokens, W words, D or T features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from data_loader.batches import ClipTensors, EpochPlan, TrainingBatch, plan_epoch
from data_loader.packed_sources import PackedFeatures, PackedText
from data_loader.split import SplitCaptions, SplitExpert
from misc.benchmarking.made_up_data import TOKENS, WORDS
from utils.batches import EvaluationData, PlannedBatch
from utils.config import Config

TOPIC = 64
NOISE = 8.0  # beside topics of about 1
CLIPS_AT_ONCE = 4096


@dataclass(frozen=True)
class _Rows:
    """Rows on a device, as a packed file gives them."""

    rows: torch.Tensor

    def tensor(self, device: torch.device) -> torch.Tensor:
        return self.rows.to(device)

    def will_need(self, *_: object) -> None:
        """Nothing has to be read."""

    def verify(self, *_: object) -> None:
        """Nothing was read from a file."""


class MadeUpClips:
    """Clips of the experts of a configuration, their features on `device` from the start.

    Everything is a function of (config, seed, clips), drawn on `draw_on`.
    """

    def __init__(
        self,
        config: Config,
        clips: int,
        *,
        seed: int,
        device: torch.device,
        draw_on: torch.device | None = None,
        captions: int = 1,
    ) -> None:
        self.device = device
        self.clips = clips
        self._captions = captions
        self._batch_size = config.data.batch_size
        self._draw = torch.Generator(draw_on or device).manual_seed(seed)
        self._maps = torch.Generator(draw_on or device).manual_seed(0)  # alike in every split
        topics = self._random(clips, TOPIC, by=self._draw)
        lengths = np.random.default_rng(seed).integers(*WORDS, clips * captions, endpoint=True)
        text = self._features(topics.repeat_interleave(captions, 0), lengths, config.text.width)
        experts = []
        for expert in config.experts:
            tokens = TOKENS.get(expert.name, 1) if expert.tokens else 1
            of_clip = np.full(clips, tokens)
            rows = self._features(topics, of_clip, expert.width)
            experts.append(
                SplitExpert(
                    expert,
                    (cast(PackedFeatures, _Rows(rows)),),
                    (np.arange(clips) * tokens,),
                    (of_clip,),
                    np.ones(clips, dtype=bool),
                )
            )
        starts = np.cumsum(lengths) - lengths
        first, counts = np.arange(clips) * captions, np.full(clips, captions)
        self._choices = counts
        split = SplitCaptions(starts, lengths, first, counts, counts)
        self._tensors = ClipTensors(
            config.text, cast(PackedText, _Rows(text)), split, experts, device
        )

    def __len__(self) -> int:
        return self.clips

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches of an epoch."""
        return len(self._plan(1, 0))

    def epoch(
        self, epoch: int, seed: int, *, first_batch: int = 0, **_: object
    ) -> Iterator[PlannedBatch]:
        """Yield the batches of an epoch, to be gathered as they are used."""
        plan = self._plan(epoch, seed)
        clips = torch.from_numpy(plan.order).to(self.device)
        captions = torch.from_numpy(plan.order * self._captions + plan.picks).to(self.device)
        for number in range(first_batch, len(plan)):
            share = plan.share(number)
            yield PlannedBatch(self._gather, (clips[share], captions[share]))

    def _gather(self, clips: torch.Tensor, captions: torch.Tensor) -> TrainingBatch:
        text = self._tensors.text(self._tensors.words(captions))[:, None]
        return text, *self._tensors.experts(clips), clips

    def evaluation(self) -> EvaluationData:
        """Return all clips with all their captions."""
        every = torch.arange(self.clips, device=self.device)
        captions = torch.arange(self.clips * self._captions, device=self.device)
        text = self._tensors.text(self._tensors.words(captions))
        return EvaluationData(
            text.view(self.clips, self._captions, *text.shape[1:]),
            *self._tensors.experts(every),
            torch.ones(self.clips, self._captions, device=self.device),
            [f"clip {number}" for number in range(self.clips)],
        )

    def _plan(self, epoch: int, seed: int) -> EpochPlan:
        return plan_epoch(
            self._choices, epoch=epoch, seed=seed, batch_size=self._batch_size, drop_last=False
        )

    def _features(self, topics: torch.Tensor, lengths: np.ndarray, width: int) -> torch.Tensor:
        """Return lengths[i] rows near topic i, for each, and a row of zeros: (rows + 1, width)."""
        shown = self._random(TOPIC, width, by=self._maps) / TOPIC**0.5
        ends = np.cumsum(lengths)
        rows = torch.empty(int(ends[-1]) + 1, width, device=self.device)
        rows[-1] = 0.0
        for start in range(0, len(lengths), CLIPS_AT_ONCE):
            some = slice(start, start + CLIPS_AT_ONCE)
            counts = torch.from_numpy(lengths[some]).to(topics.device)
            near = (topics[some] @ shown).repeat_interleave(counts, 0)
            near += NOISE * self._random(*near.shape, by=self._draw)
            rows[int(ends[start] - lengths[start]) :][: len(near)] = near.to(self.device)
        return rows

    @staticmethod
    def _random(*shape: int, by: torch.Generator) -> torch.Tensor:
        return torch.randn(*shape, generator=by, device=by.device)
