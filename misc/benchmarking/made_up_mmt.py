"""An MMT with fresh weights and one batch for it, both of made-up numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from model import bert
from model.mmt import MMT
from model.mmt_config import ClipBertParams, TextBertParams
from utils.batches import Frames

WIDTHS = {"audio": 128, "vggsound": 512}
FRAMES = {"audio": 10, "vggsound": 29}
"""Of a clip of ten seconds."""
WORDS = (7, 16)
"""Pieces of a caption, [CLS] and [SEP] among them."""

Batch = tuple[torch.Tensor, dict[str, Frames], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Size:
    """The sizes of both transformers and of a batch."""

    text: TextBertParams
    clips: ClipBertParams
    vocabulary: int
    batch: int
    places: int
    """Of the frames of an expert."""
    words: int


SMALL: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4}
SIZES = {  # small: as wide as the models of the reference numbers
    "small": Size(
        TextBertParams(hidden_size=40, intermediate_size=56, **SMALL),
        ClipBertParams(hidden_size=24, intermediate_size=40, **SMALL),
        vocabulary=164,
        batch=32,
        places=32,
        words=52,
    ),
    "published": Size(
        TextBertParams(), ClipBertParams(), vocabulary=28996, batch=32, places=32, words=52
    ),
}


def without_dropout(size: Size) -> Size:
    """Return the size of networks that draw nothing."""
    none: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return replace(size, text=replace(size.text, **none), clips=replace(size.clips, **none))


def build(size: Size) -> MMT:
    """Return an MMT of a size, its weights drawn from seed 0."""
    torch.manual_seed(0)
    text = bert.Bert(size.text, words=size.vocabulary)
    return MMT(WIDTHS, text, bert.Bert(size.clips)).train()


def make_batch(size: Size, *, filled: bool) -> Batch:
    """Return captions (B, 1, W, 2), frames and availabilities; `filled`: no place is empty."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, size.vocabulary, (size.batch, 1, size.words), generator=draw)
    lengths = torch.randint(*WORDS, (size.batch, 1, 1), generator=draw)
    used = torch.arange(size.words) < (size.words if filled else lengths)
    experts = {}
    for name, width in WIDTHS.items():
        count = size.places if filled else min(FRAMES[name], size.places)
        mask = (torch.arange(size.places) < count).long().expand(size.batch, -1)
        frames = torch.randn(size.batch, size.places, width, generator=draw) * mask[..., None]
        times = torch.arange(size.places).expand(size.batch, -1) + 0.5
        experts[name] = Frames(frames, times, mask, frames.amax(dim=1))
    available = {name: torch.ones(size.batch) for name in WIDTHS}
    return torch.stack([ids * used, used.expand_as(ids).long()], dim=3), experts, available
