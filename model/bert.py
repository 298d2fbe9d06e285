"""A BERT encoder: tokens attend to tokens, layer after layer (Devlin et al., 2019).

S sequences, L tokens each, R of which are needed, A heads, H width of a token, I inner width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from model.kernels.linear import Linear

EPS = 1e-12  # of every layer norm, as published
DEVIATION = 0.02  # of fresh weights, as published for a width of 768


@dataclass(frozen=True)
class Size:
    """How large an encoder is, and what dropout does to it in training."""

    width: int
    layers: int
    heads: int
    inner: int
    dropout: float = 0.0
    """Of embeddings and of what each half of a layer adds."""
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not share a width of {self.width} evenly")


class Attention(nn.Module):
    """Let each token take a weighted mean of all tokens: (S, L, H) -> (S, R, H)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.dropout = size.attention_dropout
        self.query = Linear(size.width, size.width)
        self.key = Linear(size.width, size.width)
        self.value = Linear(size.width, size.width)
        self.join = Linear(size.width, size.width)

    def forward(
        self, tokens: torch.Tensor, attended: torch.Tensor | None, needed: int | None
    ) -> torch.Tensor:
        """Return what the first `needed` tokens (None: all) gather; attended (S, L) bool."""
        q = self._split(self.query(tokens[:, :needed]))  # (S, A, R, H/A)
        k, v = self._split(self.key(tokens)), self._split(self.value(tokens))  # (S, A, L, H/A)
        mask = None if attended is None else attended[:, None, None, :]  # the same for all queries
        gathered = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        return self.join(gathered.transpose(1, 2).flatten(2))

    def _split(self, rows: torch.Tensor) -> torch.Tensor:
        """Give each head its part: (S, L, H) -> (S, A, L, H/A)."""
        return rows.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """Attention, then two dense layers on each token; each is added to its input, then normed."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.attention = Attention(size)
        self.attention_norm = nn.LayerNorm(size.width, eps=EPS)
        self.widen = Linear(size.width, size.inner)
        self.narrow = Linear(size.inner, size.width)
        self.norm = nn.LayerNorm(size.width, eps=EPS)
        self.dropout = nn.Dropout(size.dropout)

    def forward(
        self, tokens: torch.Tensor, attended: torch.Tensor | None, needed: int | None = None
    ) -> torch.Tensor:
        """Return the first `needed` tokens (None: all) after the layer: (S, L, H) -> (S, R, H)."""
        gathered = self.dropout(self.attention(tokens, attended, needed))
        tokens = self.attention_norm(gathered + tokens[:, :needed])
        widened = F.gelu(self.widen(tokens))  # the erf form
        return self.norm(self.dropout(self.narrow(widened)) + tokens)


class Encoder(nn.Module):
    """Layers one after another; of the last one only the first `needed` tokens are computed."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))

    def forward(
        self, tokens: torch.Tensor, attended: torch.Tensor | None, needed: int | None = None
    ) -> torch.Tensor:
        """Return (S, L, H) -> (S, R, H). Attended (S, L) bool, at least one token of each row.

        Tokens that are not attended to weigh exactly 0, though they attend to others themselves.
        None: every token is attended to.
        """
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            tokens = layer(tokens, attended, needed if i == last else None)
        return tokens


class Bert(nn.Module):
    """BERT on word pieces: ids (S, L) -> tokens (S, R, H).

    `pooler` is a part of released weights that nothing here uses, and so never moves.
    """

    def __init__(
        self,
        size: Size,
        *,
        vocabulary: int,
        positions: int,
        segments: int = 2,
        deviation: float = DEVIATION,
    ) -> None:
        super().__init__()
        self.size = size
        self.word = nn.Embedding(vocabulary, size.width, padding_idx=0)  # [PAD] is never trained
        self.position = nn.Embedding(positions, size.width)
        self.segment = nn.Embedding(segments, size.width)
        self.norm = nn.LayerNorm(size.width, eps=EPS)
        self.dropout = nn.Dropout(size.dropout)
        self.encoder = Encoder(size)
        self.pooler = Linear(size.width, size.width)
        initialise(self, deviation)

    def forward(
        self, ids: torch.Tensor, attended: torch.Tensor, needed: int | None = None
    ) -> torch.Tensor:
        """Return the first `needed` tokens (None: all) of the last layer; attended (S, L) bool."""
        tokens = self.word(ids) + self.position.weight[: ids.shape[1]] + self.segment.weight[0]
        return self.encoder(self.dropout(self.norm(tokens)), attended, needed)


def initialise(module: nn.Module, deviation: float) -> None:
    """Draw weights as BERT does: N(0, deviation), biases and the padding's row 0, norms 1 and 0."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=deviation)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            with torch.no_grad():
                part.weight[part.padding_idx].zero_()


PUBLISHED = (  # ours, published; {norm} is LayerNorm or layer_norm, by author
    (r"^word\.", "embeddings.word_embeddings."),
    (r"^position\.", "embeddings.position_embeddings."),
    (r"^segment\.", "embeddings.token_type_embeddings."),
    (r"^norm\.", "embeddings.{norm}."),
    (r"^encoder\.layers\.(\d+)\.", r"encoder.layer.\1."),
    (r"(?<=\d)\.attention\.(query|key|value)\.", r".attention.self.\1."),
    (r"(?<=\d)\.attention\.join\.", ".attention.output.dense."),
    (r"(?<=\d)\.attention_norm\.", ".attention.output.{norm}."),
    (r"(?<=\d)\.widen\.", ".intermediate.dense."),
    (r"(?<=\d)\.narrow\.", ".output.dense."),
    (r"(?<=\d)\.norm\.", ".output.{norm}."),
    (r"^pooler\.", "pooler.dense."),
)


def published_name(name: str, *, norm: str = "LayerNorm") -> str:
    """Return the published name of one of our parameters."""
    for ours, published in PUBLISHED:
        name = re.sub(ours, published.replace("{norm}", norm), name)
    return name
