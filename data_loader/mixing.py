"""Mixing clips: two become one that has the captions of both (PairMix, Kim et al., 2022).

After mixup (Zhang et al., 2018), whose targets are mixed; joined captions keep them whole. E clips
of an epoch, B of a batch, R of them mixed, N tokens, W words, D or T their width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from data_loader.batches import Batch


def draw_partners(
    places: range, count: int, probability: float, draw: Callable[[int], np.random.Generator]
) -> tuple[list[int], list[int]]:
    """Draw which rows of a batch are mixed, and with which of the `count` places of the epoch.

    `places` are those of the rows, each of which draws from its own generator.
    """
    rows, partners = [], []
    for row, place in enumerate(places):
        generator = draw(place)
        if generator.random() < probability:
            rows.append(row)
            partners.append((place + 1 + int(generator.integers(count - 1))) % count)
    return rows, partners


def mix(batch: Batch, rows: list[int], others: Batch, *, averaged: bool) -> Batch:
    """Return a batch whose `rows` (R,) are mixed with the clips of another batch of R.

    Where captions are `averaged` words, so is the joined one.
    """
    text, experts, available = batch
    joined = text.float().clone()
    joined[rows] = join_words(text[rows], others[0], averaged=averaged)
    mixed, flags = {}, {}
    for name, features in experts.items():
        other = others[1][name]
        if not isinstance(features, Tensor) or not isinstance(other, Tensor):
            raise TypeError("frames with times cannot be mixed")
        mixed[name] = features.float().clone()
        mixed[name][rows] = mix_features(features[rows], other)
        flags[name] = available[name].clone()
        flags[name][rows] = torch.maximum(flags[name][rows], others[2][name])
    return joined, mixed, flags


def join_words(first: Tensor, second: Tensor, *, averaged: bool) -> Tensor:
    """Return captions (R, 1, W, T), the words of the second behind those of the first, cut to W.

    A row of zeros is padding. Captions of a single vector become the mean of both.
    """
    if averaged or first.shape[2] == 1:
        return (first.float() + second.float()) / 2
    both = torch.cat([first, second], dim=2).float()  # (R, 1, 2W, T)
    padding = (both == 0).all(dim=3)
    order = torch.argsort(padding.int(), dim=2, stable=True)[:, :, : first.shape[2], None]
    return both.gather(2, order.expand(-1, -1, -1, both.shape[3]))


def mix_features(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean of features (R, N, D) or (R, D), token by token.

    Where only one clip has a token, as when the other has ended, it stays as it is.
    """
    count = (first != 0).any(dim=-1, keepdim=True).float() + (second != 0).any(dim=-1, keepdim=True)
    return (first.float() + second.float()) / count.clamp(min=1)
