"""A BERT encoder: tokens attend to tokens, layer after layer (Devlin et al., 2019).

S sequences, L tokens each, R of which are needed, A heads, H width of a token, I inner width.
"""

import re
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from model.kernels.linear import Linear
from utils.declared import Mistakes
from utils.kinds import Range, above, at_least

EPS = 1e-12  # of every layer norm, as published
Count = Annotated[int, at_least(1)]
Dropout = Annotated[float, Range(0, 1, open_high=True)]


@dataclass(frozen=True, kw_only=True)
class BertParams:
    """The size of a transformer, under published names; by default that of bert-base-cased."""

    hidden_size: Annotated[Count, "width of a token"] = 768
    num_hidden_layers: Annotated[Count, "layers"] = 12
    num_attention_heads: Annotated[Count, "heads, which share the width"] = 12
    intermediate_size: Annotated[Count, "width between the two dense layers"] = 3072
    max_position_embeddings: Annotated[Count, "longest sequence"] = 512
    type_vocab_size: Annotated[Count, "kinds of segments, of which the first is used"] = 2
    initializer_range: Annotated[float, above(0), "standard deviation of fresh weights"] = 0.02
    hidden_dropout_prob: Annotated[Dropout, "dropout of tokens"] = 0.1
    attention_probs_dropout_prob: Annotated[Dropout, "dropout of attention"] = 0.1

    @staticmethod
    def check(*, hidden_size: int, num_attention_heads: int, **_: object) -> Mistakes:
        """Yield the problem of heads that cannot share the width."""
        if hidden_size % num_attention_heads:
            message = f"found {num_attention_heads}, expected a divisor of hidden_size"
            yield "num_attention_heads", f"{message}, which is {hidden_size}"


class Attention(nn.Module):
    """Let each token take a weighted mean of all tokens: (S, L, H) -> (S, R, H)."""

    def __init__(self, params: BertParams) -> None:
        super().__init__()
        width = params.hidden_size
        self.heads = params.num_attention_heads
        self.dropout = params.attention_probs_dropout_prob
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.join = Linear(width, width)

    def forward(
        self, tokens: torch.Tensor, attended: torch.Tensor, needed: int | None
    ) -> torch.Tensor:
        """Return what the first `needed` tokens (None: all) gather; attended (S, L) bool."""
        q = self._split(self.query(tokens[:, :needed]))  # (S, A, R, H/A)
        k, v = self._split(self.key(tokens)), self._split(self.value(tokens))  # (S, A, L, H/A)
        mask = attended[:, None, None, :]  # the same for all heads and queries
        dropout = self.dropout if self.training else 0.0
        gathered = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.join(gathered.transpose(1, 2).flatten(2))

    def _split(self, rows: torch.Tensor) -> torch.Tensor:
        """Give each head its part: (S, L, H) -> (S, A, L, H/A)."""
        return rows.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """Attention, then two dense layers on each token; each is added to its input, then normed."""

    def __init__(self, params: BertParams) -> None:
        super().__init__()
        width, inner = params.hidden_size, params.intermediate_size
        self.attention = Attention(params)
        self.attention_norm = nn.LayerNorm(width, eps=EPS)
        self.widen = Linear(width, inner)
        self.narrow = Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.dropout = nn.Dropout(params.hidden_dropout_prob)

    def forward(
        self, tokens: torch.Tensor, attended: torch.Tensor, needed: int | None
    ) -> torch.Tensor:
        """Return the first `needed` tokens (None: all) after the layer: (S, L, H) -> (S, R, H)."""
        gathered = self.dropout(self.attention(tokens, attended, needed))
        tokens = self.attention_norm(gathered + tokens[:, :needed])
        widened = F.gelu(self.widen(tokens))  # the erf form
        return self.norm(self.dropout(self.narrow(widened)) + tokens)


class Bert(nn.Module):
    """BERT on word pieces: ids (S, L) -> tokens (S, R, H); without `words`, on embedded tokens.

    `pooler` is a part of released weights that nothing here uses, and so never moves.
    """

    def __init__(self, params: BertParams, *, words: int | None = None) -> None:
        super().__init__()
        self.params, width = params, params.hidden_size
        if words is not None:
            self.word = nn.Embedding(words, width, padding_idx=0)  # [PAD] is never trained
        self.position = nn.Embedding(params.max_position_embeddings, width)
        self.segment = nn.Embedding(params.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.dropout = nn.Dropout(params.hidden_dropout_prob)
        self.layers = nn.ModuleList(Layer(params) for _ in range(params.num_hidden_layers))
        self.pooler = Linear(width, width)
        self._initialise(params.initializer_range)

    def _initialise(self, deviation: float) -> None:
        """Draw weights N(0, deviation); biases and the row of [PAD] are 0, norms 1 and 0."""
        for part in self.modules():
            if isinstance(part, (nn.Linear, nn.Embedding)):
                nn.init.normal_(part.weight, std=deviation)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)
            if isinstance(part, nn.Embedding) and part.padding_idx is not None:
                with torch.no_grad():
                    part.weight[part.padding_idx].zero_()

    def forward(
        self, ids: torch.Tensor, attended: torch.Tensor, needed: int | None = None
    ) -> torch.Tensor:
        """Return the first `needed` tokens (None: all) of the last layer; attended (S, L) bool."""
        tokens = self.word(ids) + self.position.weight[: ids.shape[1]] + self.segment.weight[0]
        return self.encode(tokens, attended, needed)

    def encode(
        self, tokens: torch.Tensor, attended: torch.Tensor, needed: int | None = None
    ) -> torch.Tensor:
        """Pass embedded tokens through all layers: (S, L, H) -> (S, R, H).

        Attended (S, L) bool, at least one token of each row. Tokens that are not attended to weigh
        exactly 0, though they attend to others themselves.
        """
        tokens = self.dropout(self.norm(tokens))
        *others, last = self.layers
        for layer in others:
            tokens = layer(tokens, attended, None)
        return last(tokens, attended, needed)


PUBLISHED = (  # ours, published; {norm} is LayerNorm or layer_norm, by author
    (r"^word\.", "embeddings.word_embeddings."),
    (r"^position\.", "embeddings.position_embeddings."),
    (r"^segment\.", "embeddings.token_type_embeddings."),
    (r"^norm\.", "embeddings.{norm}."),
    (r"^layers\.(\d+)\.", r"encoder.layer.\1."),
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
