"""The contents of a batch, which data sets make and models read.

B clips or texts, N tokens or frames, D the width of an expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Union

if TYPE_CHECKING:  # configurations are read without torch
    import torch


class Frames(NamedTuple):
    """An expert of frames with their times, for models whose `needs` ask for `frames`."""

    tokens: torch.Tensor
    """(B, N, D), zeros where the mask is 0."""
    times: torch.Tensor
    """(B, N) the middle of each frame, counted in frames from the clip's beginning; 0 if masked."""
    mask: torch.Tensor
    """(B, N) 1 for a frame, 0 for padding."""
    maximum: torch.Tensor
    """(B, D) the greatest value over all frames of the clip, also those left out of `tokens`."""
    mean: torch.Tensor | None = None
    """(B, D) the mean over all frames of the clip, where a model asks for it."""


@dataclass(frozen=True)
class BatchNeeds:
    """The form in which a model takes its batches; a data set delivers it."""

    frames: bool = False
    """Experts that are sequences come as Frames; otherwise as tokens (B, N, D) alone."""
    token_ids: bool = False
    """Text is (T, K, W, 2), ids of word pieces and their mask; otherwise word vectors."""


Features = Union["torch.Tensor", Frames]
Experts = Mapping[str, Features]
Available = Union[Mapping[str, "torch.Tensor"], "torch.Tensor"]
