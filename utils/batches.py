"""The contents of a batch, which data sets make and models read.

B clips or texts, N tokens or frames, D the width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union

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
    pooled: torch.Tensor
    """(B, D) the maximum, or as BatchNeeds has it the mean, of all frames of the clip.

    Those left out of `tokens` count too.
    """


class PlannedBatch(NamedTuple):
    """A batch that is still to be gathered, on the device that holds the features."""

    gather: Callable[..., tuple[Any, ...]]
    """Makes the batch of the places; it waits for nothing, so that it can be recorded."""
    places: tuple[torch.Tensor, ...]
    """(B,) each, on the device: of its clips, say, and of their captions."""


def rows_of(features: Features, rows: slice) -> Features:
    """Return some rows of an expert."""
    if isinstance(features, Frames):
        return Frames(*(part[rows] for part in features))
    return features[rows]


def gathered(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a batch as it is, a planned one gathered."""
    return batch.gather(*batch.places) if isinstance(batch, PlannedBatch) else batch


@dataclass(frozen=True)
class BatchNeeds:
    """The form in which a model takes its batches; a data set delivers it."""

    frames: bool = False
    """Experts that are sequences come as Frames; otherwise as tokens (B, N, D) alone."""
    token_ids: bool = False
    """Text is (T, K, W, 2), ids of word pieces and their mask; otherwise word vectors."""
    vocabulary: str | None = None
    """The file of word pieces, where text is their ids."""
    pooling: Literal["max", "mean"] = "max"
    """What `Frames.pooled` is of all frames."""


def needs_of(builder: Callable[..., Any], arguments: Mapping[str, Any]) -> BatchNeeds:
    """Return the form of batches of the model that a builder, or a class, makes of arguments."""
    needs: Callable[[Mapping[str, Any]], BatchNeeds] | BatchNeeds = getattr(
        builder, "needs", BatchNeeds()
    )
    return needs if isinstance(needs, BatchNeeds) else needs(arguments)


Features = Union["torch.Tensor", Frames]
Experts = Mapping[str, Features]
Available = Union[Mapping[str, "torch.Tensor"], "torch.Tensor"]


class EvaluationData(NamedTuple):
    """A whole split: V clips, the first K captions of each."""

    text: torch.Tensor
    """(V, K, N, T)"""
    experts: Experts
    """{name: (V, N, D) or (V, D)}"""
    available: Mapping[str, torch.Tensor]
    """{name: (V,)}"""
    query_masks: torch.Tensor
    """(V, K), 0 for a caption that does not exist."""
    clips: Sequence[str]
    """V names."""
