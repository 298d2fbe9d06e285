"""The multi-modal transformer: all frames of all experts attend to each other (Gabeur, 2020).

Letters as in model/retrieval_model.py; besides, L tokens of a clip and H the width of BERT. A clip
is the sequence [AGG_1] .. [AGG_M] [CLS] frames: each expert's aggregate asks for what the others
heard, and what comes out in its place is the clip's embedding by that expert. Frames are a set with
positions, so their order within the sequence does not matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from model import bert
from model.gating import GatedEmbeddingUnit, ReduceDim
from model.kernels.linear import Linear
from model.kernels.unit_rows import unit_rows
from model.retrieval_model import RetrievalModel, Rows, stacked
from model.similarity import concatenated
from utils.batches import Available, BatchNeeds, Experts, Frames

PUBLISHED_EXPERTS = {"audio": "vggish"}
"""Our names of experts -> those in released files, where they differ."""
PUBLISHED_PARTS = {
    "reduce": "video_dim_reduce",
    "heads": "text_GU",
    "mixture": "moe_fc_txt",
    "clip_mixture": "moe_fc_vid",
}
EXPERTS_OF_TYPES = ["s3d", "vggish", "vggsound", "audio", "rgb", "speech", "ocr", "flow", "scene"]
TYPES = {name: row for row, name in enumerate(EXPERTS_OF_TYPES, start=1)}
"""Published names of experts -> their row among the embeddings of types; row 0 is that of [CLS]."""
POSITION_NUMBERS = "txt_bert.embeddings.position_ids"
FIRST_POSITION = 2
"""Of a frame at time 0: aggregates have position 0, padding had 1."""
NO_WEIGHT = 1e-5
"""In place of a sum of weights that is 0: the published guard for a clip without any expert."""


@dataclass(frozen=True)
class Switches:
    """Choices of the published system; every published audio model has the defaults."""

    caption_from: Literal["first", "max", "mean"] = "first"
    """The caption: BERT's [CLS], or the maximum or mean of the tokens behind it, padding too."""
    text_head: Literal["gbn", "gem", "lin"] = "gbn"
    """What embeds a caption: a gated unit with or without batch norm, or a linear layer."""
    aggregate: Literal["mxp", "mnp", "sep"] = "mxp"
    """The feature of [AGG]: the maximum or mean of an expert's frames, or none."""
    positions: Literal["tint", "ordr", "type", "none"] = "tint"
    """Where a frame is: its time, its number, the same for all; or no positions at all."""
    weigh_clips: bool = False
    """Clips weigh their experts too, by [CLS]."""
    keep_missing: bool = True
    """An expert that a clip lacks counts as much as any other."""


class UnnormedGate(GatedEmbeddingUnit):
    """The gated unit as it is, save that its batch norm is passed over (`txt_pro: gem`)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the embedded vectors (B, in_dim) -> (B, out_dim) of unit length."""
        embedded = self.fc(x)
        return unit_rows(embedded * torch.sigmoid(self.gate.fc(embedded)))


HEADS: dict[str, type[GatedEmbeddingUnit] | type[ReduceDim]] = {
    "gbn": GatedEmbeddingUnit,
    "gem": UnnormedGate,
    "lin": ReduceDim,
}


def drop_unattended(
    tokens: torch.Tensor, attended: torch.Tensor, keep: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop tokens (B, L, d) that none attends to, behind the first `keep`: nothing depends on them.

    What is left is as long as the longest row, so on a GPU its shape would have to be waited for.
    """
    rest = attended[:, keep:]
    longest = int(rest.sum(dim=1).max()) if rest.numel() else 0
    if longest == rest.shape[1]:
        return tokens, attended
    order = torch.argsort(~rest, dim=1, stable=True)[:, :longest]  # those attended to come first
    index = order[..., None].expand(-1, -1, tokens.shape[2])
    kept = torch.cat([tokens[:, :keep], tokens[:, keep:].gather(1, index)], dim=1)
    return kept, torch.cat([attended[:, :keep], rest.gather(1, order)], dim=1)


class MMT(RetrievalModel):
    """Compare captions that BERT reads with clips that a transformer of all experts hears.

    Rows of captions are M embeddings (Q, d) and the weights of the experts (Q, M); rows of clips
    are M embeddings (B, d) and the clip's own weights (B, M).

    Two published behaviours decide the numbers and are kept: a missing expert counts with its full
    weight, through what its aggregate finds out from the others; and positions saturate, so that
    all frames after the last position share it.
    """

    needs: ClassVar[BatchNeeds] = BatchNeeds(frames=True, token_ids=True)
    has_unused_parameters = True  # the poolers

    def __init__(
        self,
        widths: Mapping[str, int],
        text_bert: bert.Bert,
        clip_bert: bert.Bert,
        *,
        switches: Switches = Switches(),
        average_captions: bool = False,
    ) -> None:
        """Make the parts in the order of released state dicts; widths {expert: D}.

        Raises ValueError when the clips' transformer has too few types for the experts.
        """
        super().__init__()
        self.switches = switches
        self.average_captions = average_captions
        self.names = names = sorted(widths, key=published_expert)
        self.types = types_of(names, clip_bert.params.type_vocab_size)
        text_width, width = text_bert.params.hidden_size, clip_bert.params.hidden_size
        head = HEADS[switches.text_head]
        self.reduce = nn.ModuleDict({name: ReduceDim(widths[name], width) for name in names})
        self.clip_bert = clip_bert
        self.text_bert = text_bert
        self.heads = nn.ModuleDict({name: head(text_width, width) for name in names})
        self.mixture = nn.ModuleDict({name: Linear(text_width, 1) for name in names})
        if switches.weigh_clips:
            self.clip_mixture = nn.ModuleDict({name: Linear(width, 1) for name in names})
        self.dropout = nn.Dropout(text_bert.params.hidden_dropout_prob)

    def encode_captions(self, text: torch.Tensor) -> Rows:
        """Encode ids of word pieces and their mask (T, K, W, 2) -> M x (Q, d), weights (Q, M)."""
        ids, mask = text.flatten(0, 1).long().unbind(dim=2)  # (Q, W) each
        first = self.switches.caption_from == "first"
        if first and ids.device.type == "cpu" and not torch.compiler.is_compiling():
            longest = int(mask.sum(dim=1).max()) if len(mask) else 1  # padding is behind
            ids, mask = ids[:, :longest], mask[:, :longest]
        tokens = self.text_bert(ids, mask > 0, needed=1 if first else None)  # (Q, 1 or W, H)
        if first:
            caption = tokens[:, 0]
        elif self.switches.caption_from == "max":
            caption = tokens[:, 1:].amax(dim=1)
        else:
            caption = tokens[:, 1:].mean(dim=1)
        texts = [self.heads[name](caption) for name in self.names]
        thinned = self.dropout(caption)
        weights = torch.cat([self.mixture[name](thinned) for name in self.names], dim=1)
        return (*texts, F.softmax(weights, dim=1))

    def encode_clips(self, experts: Experts, available: Available) -> Rows:
        """Encode Frames of each expert -> M x (B, d), the clips' weights of experts (B, M)."""
        present = self._present(available)
        kinds, first = self.clip_bert.segment.weight, self._first_position()
        aggregates, frames, attended = [], [], []
        for i, name in enumerate(self.names):
            features = experts[name]
            if not isinstance(features, Frames):
                raise TypeError(f"expert {name!r} came without times; expected Frames")
            kind, reduce = kinds[self.types[name]], self.reduce[name]
            there = present[:, i, None]  # (B, 1)
            heard = (features.mask > 0) & there  # (B, N)
            aggregate = (kind + first).expand(len(there), -1)  # (B, d)
            if self.switches.aggregate != "sep":
                aggregate = aggregate + reduce(torch.where(there, features.pooled, 0.0))
            tokens = reduce(torch.where(heard[..., None], features.tokens, 0.0))
            aggregates.append(aggregate)
            frames.append(tokens + kind + self._positions(features.times))  # (B, N, d)
            attended.append(heard)
        summary = (kinds[0] + first).expand(len(present), -1)  # [CLS]
        tokens = torch.cat([torch.stack([*aggregates, summary], dim=1), *frames], dim=1)
        attends = torch.cat([present, torch.ones_like(present[:, :1]), *attended], dim=1)
        needed = len(self.names) + 1
        if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
            tokens, attends = drop_unattended(tokens, attends, keep=needed)
        embedded = self.clip_bert.encode(tokens, attends, needed)
        clips = F.normalize(embedded[:, :-1], dim=-1).unbind(dim=1)
        return (*clips, self._clip_weights(embedded[:, -1], present))

    def score(self, captions: Rows, clips: Rows) -> torch.Tensor:
        """Return sum_e w_qe v_be <text_qe, clip_be> / sum_e w_qe v_be: (Q, B)."""
        (*texts, weights), (*embedded, shares) = captions, clips
        total = weights @ shares.T
        products = concatenated(texts, weights) @ concatenated(embedded, shares).T
        return products / torch.where(total == 0, NO_WEIGHT, total)

    def vectors(self, rows: Rows) -> torch.Tensor:
        """Return captions or clips as one vector each (n, M*d).

        Their inner products, divided by (Q, M) @ (M, B) products of the weights, are `score`.
        """
        *embedded, scales = rows
        return concatenated(embedded, scales)

    def published_name(self, name: str) -> str:
        """Return the published name of one of this model's parameters or buffers."""
        part, _, rest = name.partition(".")
        if part == "text_bert":
            return f"txt_bert.{bert.published_name(rest)}"
        if part == "clip_bert":
            return f"vid_bert.{bert.published_name(rest, norm='layer_norm')}"
        expert, _, inner = rest.partition(".")
        inner = inner.replace("gate.", "cg.", 1) if part == "heads" else inner
        return f"{PUBLISHED_PARTS[part]}.{published_expert(expert)}.{inner}"

    def load_published(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load released weights, with or without the numbers of BERT's positions, 0, 1, 2 ..."""
        super().load_published({key: state[key] for key in state if key != POSITION_NUMBERS})

    def _present(self, available: Available) -> torch.Tensor:
        """Return what is available as bool (B, M) in the order of the experts.

        A tensor (B, M) has the experts sorted by our names.
        """
        if isinstance(available, torch.Tensor):
            available = dict(zip(sorted(self.names), available.unbind(dim=1), strict=True))
        return stacked(available, self.names) > 0

    def _first_position(self) -> torch.Tensor:
        """Return the embedding of the position of aggregates and [CLS] (d,)."""
        first = self.clip_bert.position.weight[0]
        return torch.zeros_like(first) if self.switches.positions == "none" else first

    def _positions(self, times: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of the positions of frames at times (B, N): (B, N, d)."""
        table, kind = self.clip_bert.position.weight, self.switches.positions
        if kind == "tint":
            places = (times + FIRST_POSITION).clamp(0, len(table) - 1).long()
        elif kind == "ordr":
            places = torch.arange(1, times.shape[1] + 1, device=times.device).expand_as(times)
        elif kind == "type":
            places = torch.ones_like(times, dtype=torch.long)
        else:
            return torch.zeros_like(table[0])
        return F.embedding(places, table)

    def _clip_weights(self, summary: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Return how much each expert of a clip counts (B, M), from [CLS] (B, d)."""
        if self.switches.weigh_clips:
            parts = [self.clip_mixture[name](summary) for name in self.names]
            weights = F.softmax(torch.cat(parts, dim=1), dim=1)
        else:
            weights = torch.ones_like(present, dtype=summary.dtype)
        if not self.switches.keep_missing:
            weights = weights * present
        return F.normalize(weights, p=1.0, dim=1)


def published_expert(name: str) -> str:
    """Return the name of an expert in released files."""
    return PUBLISHED_EXPERTS.get(name, name)


def types_of(names: list[str], count: int) -> dict[str, int]:
    """Give each expert a row of the embeddings of types: the published one, or one of the others.

    Raises ValueError when `count` rows do not suffice.
    """
    known = {name: TYPES.get(published_expert(name)) for name in names}
    free = iter(sorted(set(range(1, count)) - set(known.values())))
    types = {name: row or next(free, count) for name, row in known.items()}
    if max(types.values()) >= count:
        raise ValueError(
            f"experts {', '.join(names)} need types up to {max(types.values())}; type_vocab_size "
            f"is {count}"
        )
    return types
