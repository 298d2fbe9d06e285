"""A mixture of experts: each compares captions and clips by itself, the caption weighs them."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from model.collaborative_experts import CollaborativeExperts
from model.gating import GatedEmbeddingUnit
from model.kernels.linear import Linear
from model.moee import MixtureOfEmbeddingExperts, SingleExpert
from model.pooling import Pooling
from model.retrieval_model import RetrievalModel, Rows, stacked, tokens_of
from model.similarity import concatenated, similarity
from utils.batches import Available, Experts
from utils.errors import DataError

ClipSide = CollaborativeExperts | SingleExpert | MixtureOfEmbeddingExperts
"""Embeds M vectors: M x (B, D), available (B, M) -> M x (B, d)."""


class TextEncoder(nn.Module):
    """Pool the words of a caption, embed it once for every expert, and weigh the experts.

    Shapes: (Q, N, D) words -> M embeddings (Q, out_dim_i) of unit length, weights (Q, M).
    Without pooling the caption is its single word vector: N must be 1.
    """

    def __init__(self, width: int, out_dims: list[int], *, pooling: Pooling | None) -> None:
        super().__init__()
        self.pooling = pooling
        pooled = width if pooling is None else pooling.out_dim
        self.mixture = Linear(pooled, len(out_dims))
        self.gates = nn.ModuleList(GatedEmbeddingUnit(pooled, out_dim) for out_dim in out_dims)

    def forward(self, words: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the embeddings and the mixture weights, which sum to 1."""
        if self.pooling is not None:
            caption = self.pooling(words)
        elif words.shape[1] == 1:
            caption = words[:, 0]
        else:
            raise ValueError(f"captions of {words.shape[1]} tokens need a text pooling; expected 1")
        return [gate(caption) for gate in self.gates], F.softmax(self.mixture(caption), dim=1)


class ExpertMixture(RetrievalModel):
    """Embed captions and clips once for each expert (Miech et al., 2018).

    `names` orders the experts (sorted by name); `pooling` holds that of each expert that is
    a sequence of tokens. Rows of captions are M embeddings and the weights of the experts (Q, M);
    rows of clips are M embeddings and the availabilities (B, M). With `ignore_missing` the
    similarity is the plain sum over experts.
    """

    published: ClassVar[dict[str, str]] = {
        "text.pooling.": "text_pooling.",
        "text.mixture.": "ce.moe_fc.",
        "text.gates.*.gate.": "ce.text_GU.*.cg.",
        "text.gates.": "ce.text_GU.",
        "clips.reduce.": "ce.video_dim_reduce.",
        "clips.pair_input.": "ce.g_reason_1.",
        "clips.pair_network.": "ce.g_reason_shared.",
        "clips.self_network.": "ce.h_reason.",
        "clips.gates.*.": "ce.video_GU.*.cg.",
        "clips.units.*.gate.": "ce.video_GU.*.cg.",
        "clips.units.": "ce.video_GU.",
    }
    obsolete = ("ce.moe_fc_bottleneck1.", "ce.moe_cg.", "ce.moe_fc_proj.")

    def __init__(
        self,
        names: Sequence[str],
        *,
        text: TextEncoder,
        pooling: Mapping[str, Pooling],
        clips: ClipSide,
        average_captions: bool = False,
        ignore_missing: bool = False,
    ) -> None:
        super().__init__()
        self.names = list(names)
        self.average_captions = average_captions
        self.ignore_missing = ignore_missing
        self.has_unused_parameters = ignore_missing  # those of the weights
        self.pooling = nn.ModuleDict(pooling)
        self.text = text
        self.clips = clips

    def encode_captions(self, text: torch.Tensor) -> Rows:
        """Embed words (T, K, N, D) -> M x (Q, d) and weights (Q, M)."""
        embedded, weights = self.text(text.flatten(0, 1))
        return (*embedded, weights)

    def encode_clips(self, experts: Experts, available: Available) -> Rows:
        """Embed experts {name: (B, N, D) or (B, D)} -> M x (B, d) and availabilities (B, M)."""
        present = self._present(available)
        vectors = []
        for i, name in enumerate(self.names):
            features = _there_alone(tokens_of(experts[name]), present[:, i] > 0)
            vectors.append(self.pooling[name](features) if name in self.pooling else features)
        return (*self.clips(vectors, present), present)

    def score(self, captions: Rows, clips: Rows) -> torch.Tensor:
        """Compare M x (Q, d) and weights with M x (B, d) and availabilities -> (Q, B)."""
        (*texts, weights), (*embedded, present) = captions, clips
        if self.ignore_missing:
            return concatenated(texts) @ concatenated(embedded).T
        return similarity(texts, embedded, weights, present)

    def expert_weights(self, captions: Rows) -> dict[str, torch.Tensor]:
        """Return the weights (Q,) of the experts, before any is found missing."""
        if self.ignore_missing:
            return {}
        return dict(zip(self.names, captions[-1].unbind(dim=1), strict=True))

    def vectors(self, rows: Rows) -> torch.Tensor:
        """Return captions or clips as one vector each (n, sum of d).

        Their inner products are `score` times the share of the weights that the clip has experts
        for, (Q, M) weights @ (M, B) availabilities; with `ignore_missing` they are `score`.
        """
        *embedded, scales = rows
        return concatenated(embedded, None if self.ignore_missing else scales)

    def forward(self, text: torch.Tensor, experts: Experts, available: Available) -> torch.Tensor:
        """Return the similarities; raises DataError naming a clip without any expert."""
        if not self.ignore_missing:
            found = (self._present(available) > 0).any(dim=1)
            if not found.all():
                clip = int(found.int().argmin())
                raise DataError(f"clip {clip} of the batch has no expert at all; leave it out")
        return super().forward(text, experts, available)

    def embed_text(self, text: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Embed captions: text (T, K, N, D) -> {name: (T, K, d)}, weights (T, K, M)."""
        shape = text.shape[:2]
        *embedded, weights = (one.view(*shape, -1) for one in self.encode_captions(text))
        return dict(zip(self.names, embedded, strict=True)), weights

    def embed_clips(self, experts: Experts, available: Available) -> dict[str, torch.Tensor]:
        """Embed clips: experts {name: (B, N, D) or (B, D)} -> {name: (B, d)}."""
        *embedded, _ = self.encode_clips(experts, available)
        return dict(zip(self.names, embedded, strict=True))

    def _present(self, available: Available) -> torch.Tensor:
        """Return availabilities as floats (B, M) in the order of the experts."""
        return stacked(available, self.names).to(self.text.mixture.weight.dtype)


def _there_alone(features: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Return features (B, ...) with zeros where there (B,) is False, also in place of NaN.

    On the CPU they are not copied where nothing is missing; a GPU would have to be waited for.
    """
    if features.device.type == "cpu" and not torch.compiler.is_compiling() and bool(there.all()):
        return features
    return torch.where(there.view(-1, *(1 for _ in features.shape[1:])), features, 0.0)
