"""A training step of MMT as its formulas are printed: every row, padding too, plain attention.

Letters as in model/mmt.py, whose parameters are used. Dropout is where the paper has it. Batch norm
takes the statistics of the batch and keeps none.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from model import bert
from model.gating import GatedEmbeddingUnit
from model.mmt import FIRST_POSITION, MMT
from utils.batches import Frames

NEVER = -10000.0
PADDING = 1
"""The position of a frame that is not there."""


def similarities(
    model: MMT, text: torch.Tensor, experts: dict[str, Frames], available: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Compare captions (T, K, W, 2) with clips in training: (T, B), the mean over K."""
    ids, mask = text.flatten(0, 1).long().unbind(dim=2)
    tokens = _text_tokens(model.text_bert, ids)
    caption = _encoded(model.text_bert, tokens, mask)[:, 0]  # (Q, H)
    heads = [cast(GatedEmbeddingUnit, model.heads[name]) for name in model.names]
    texts = torch.stack([_gated(head, caption) for head in heads], dim=1)  # (Q, M, d)
    thinned = model.dropout(caption)
    logits = [_dense(cast(nn.Linear, model.mixture[name]), thinned) for name in model.names]
    weights = F.softmax(torch.cat(logits, dim=1), dim=1)  # (Q, M)
    clips = _clips(model, experts, available)  # (B, M, d)
    shares = torch.full(clips.shape[:2], 1 / clips.shape[1], device=clips.device)
    each = weights[:, None] * shares[None]  # (Q, B, M)
    each = each / each.sum(dim=2, keepdim=True)
    products = torch.einsum("qmd,bmd->qbm", texts, clips)
    return (each * products).sum(dim=2).unflatten(0, (-1, text.shape[1])).mean(dim=1)


def _text_tokens(network: bert.Bert, ids: torch.Tensor) -> torch.Tensor:
    tokens = network.word(ids) + network.position.weight[: ids.shape[1]] + network.segment.weight[0]
    return network.dropout(network.norm(tokens))


def _clips(
    model: MMT, experts: dict[str, Frames], available: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Return what comes out at [AGG] of each expert, at unit length: (B, M, d)."""
    network = model.clip_bert
    first, kinds = network.position.weight[0], network.segment.weight
    batch = len(next(iter(available.values())))
    tokens, masks = [(kinds[0] + first).expand(batch, 1, -1)], [torch.ones(batch, 1)]  # [CLS]
    aggregates, length = [], 1
    for name in model.names:
        frames, there = experts[name], (available[name] > 0).float()
        heard = frames.mask.float() * there[:, None]  # (B, N)
        reduce = cast(nn.Linear, model.reduce[name].fc)
        kind = kinds[model.types[name]]
        pooled = F.normalize(_dense(reduce, frames.pooled * there[:, None]), dim=-1)
        places = (frames.times + FIRST_POSITION).clamp(0, len(network.position.weight) - 1).long()
        places = torch.where(heard > 0, places, PADDING)
        reduced = F.normalize(_dense(reduce, frames.tokens * heard[..., None]), dim=-1)
        tokens += [(pooled + kind + first)[:, None], reduced + kind + network.position(places)]
        masks += [there[:, None], heard]
        aggregates.append(length)
        length += 1 + heard.shape[1]
    joined = network.dropout(network.norm(torch.cat(tokens, dim=1)))  # (B, 1 + M (1 + N), d)
    encoded = _encoded(network, joined, torch.cat(masks, dim=1))
    return F.normalize(encoded[:, aggregates], dim=-1)


def _encoded(network: bert.Bert, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return all tokens (S, L, H) after all layers; mask (S, L) of 0 and 1."""
    refused = ((1 - mask.float()) * NEVER)[:, None, None]  # (S, 1, 1, L)
    for layer in network.layers:
        tokens = _layer(cast(bert.Layer, layer), tokens, refused)
    return tokens


def _layer(layer: bert.Layer, tokens: torch.Tensor, refused: torch.Tensor) -> torch.Tensor:
    own = layer.attention
    parts = [_dense(part, tokens) for part in (own.query, own.key, own.value)]
    q, k, v = (part.unflatten(2, (own.heads, -1)).transpose(1, 2) for part in parts)
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3]) + refused  # (S, A, L, L)
    shares = F.dropout(scores.softmax(dim=3), own.dropout, own.training)
    gathered = _dense(own.join, (shares @ v).transpose(1, 2).flatten(2))
    tokens = layer.attention_norm(layer.dropout(gathered) + tokens)
    widened = F.gelu(_dense(layer.widen, tokens))
    return layer.norm(layer.dropout(_dense(layer.narrow, widened)) + tokens)


def _gated(unit: GatedEmbeddingUnit, x: torch.Tensor) -> torch.Tensor:
    y = _dense(unit.fc, x)
    norm = unit.gate.batch_norm
    gate = _dense(unit.gate.fc, y)
    gate = F.batch_norm(gate, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    return F.normalize(y * torch.sigmoid(gate), dim=-1)


def _dense(layer: nn.Linear, rows: torch.Tensor) -> torch.Tensor:
    """Return a linear layer by torch's own product."""
    return F.linear(rows, layer.weight, layer.bias)
