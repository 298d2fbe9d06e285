"""An MMT with fresh weights and one batch for it, both of made-up numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from model import bert
from model.mmt import MMT, ClipTransformer
from utils.batches import Frames

WIDTHS = {"audio": 128, "vggsound": 512}
FRAMES = {"audio": 10, "vggsound": 29}
"""Of a clip of ten seconds."""
WORDS = (7, 16)
"""Pieces of a caption, [CLS] and [SEP] among them."""
DROPOUT = 0.1

Batch = tuple[torch.Tensor, dict[str, Frames], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Size:
    """The sizes of both transformers and of a batch."""

    text: bert.Size
    clips: bert.Size
    vocabulary: int
    batch: int
    places: int
    """Of the frames of an expert."""
    words: int


SIZES = {  # small: as wide as the models of the reference numbers
    "small": Size(
        bert.Size(40, 2, 4, 56, DROPOUT, DROPOUT),
        bert.Size(24, 2, 4, 40, DROPOUT, DROPOUT),
        vocabulary=164,
        batch=32,
        places=32,
        words=52,
    ),
    "published": Size(
        bert.Size(768, 12, 12, 3072, DROPOUT, DROPOUT),
        bert.Size(512, 4, 4, 3072, DROPOUT, DROPOUT),
        vocabulary=28996,
        batch=32,
        places=32,
        words=52,
    ),
}


def without_dropout(size: Size) -> Size:
    """Return the size of networks that draw nothing."""
    text, clips = (
        replace(of, dropout=0.0, attention_dropout=0.0) for of in (size.text, size.clips)
    )
    return replace(size, text=text, clips=clips)


def build(size: Size) -> MMT:
    """Return an MMT of a size, its weights drawn from seed 0."""
    torch.manual_seed(0)
    text = bert.Bert(size.text, vocabulary=size.vocabulary, positions=512)
    return MMT(WIDTHS, text, ClipTransformer(size.clips, positions=102, types=10)).train()


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
