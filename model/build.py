"""The whole model, and how a configuration becomes one.

T texts, K captions each, Q = T*K, N tokens, B clips, M experts, D feature width, d embedding width.
"""

from collections.abc import Mapping

import torch
from torch import nn

from model.collaborative_experts import CollaborativeExperts
from model.moee import MixtureOfEmbeddingExperts, SingleExpert
from model.net_vlad import NetVLAD
from model.published_names import from_published, published_name
from model.similarity import plain_similarity, similarity
from model.text_encoder import TextEncoder
from utils.config import Config
from utils.errors import DataError

ClipEncoder = CollaborativeExperts | MixtureOfEmbeddingExperts | SingleExpert


class RetrievalModel(nn.Module):
    """Compare captions with clips by a mixture of experts.

    `names` orders the experts (sorted by name); `pooling` holds a NetVLAD for each expert that
    is a sequence of tokens; `clips` embeds the M resulting vectors.
    """

    def __init__(
        self,
        names: list[str],
        *,
        text: TextEncoder,
        pooling: Mapping[str, NetVLAD],
        clips: ClipEncoder,
        form: str,
        average_captions: bool = False,
        ignore_missing: bool = False,
    ) -> None:
        super().__init__()
        self.names = names
        self.form = form
        self.average_captions = average_captions
        self.ignore_missing = ignore_missing
        self.pooling = nn.ModuleDict(pooling)
        self.text = text
        self.clips = clips

    def forward(
        self,
        text: torch.Tensor,
        experts: Mapping[str, torch.Tensor],
        available: Mapping[str, torch.Tensor] | torch.Tensor,
    ) -> torch.Tensor:
        """Return the similarities of captions and clips.

        Shapes: text (T, K, N, D), experts {name: (B, N, D) or (B, D)}, available {name: (B,)} or
        (B, M) -> (T*K, B); (T, B), averaged over captions, in training and in mode "avg".
        Raises DataError naming a clip without any expert: it has no similarity to anything.
        """
        captions = text.shape[1]
        texts, weights = self.encode_text(text)
        present = self.availability(available)
        if not self.ignore_missing and not (present > 0).any(dim=1).all():
            clip = int((present > 0).any(dim=1).int().argmin())
            raise DataError(f"clip {clip} of the batch has no expert at all; leave it out")
        sims = self.compare(texts, self.encode_clips(experts, present), weights, present)
        if captions > 1 and (self.training or self.average_captions):
            sims = sims.view(-1, captions, sims.shape[1]).mean(dim=1)
        return sims

    def embed_text(self, text: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Embed captions: text (T, K, N, D) -> {name: (T, K, d)}, weights (T, K, M)."""
        texts, weights = self.encode_text(text)
        shape = text.shape[:2]
        named = {name: one.view(*shape, -1) for name, one in zip(self.names, texts, strict=True)}
        return named, weights.view(*shape, -1)

    def embed_clips(
        self,
        experts: Mapping[str, torch.Tensor],
        available: Mapping[str, torch.Tensor] | torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Embed clips: experts {name: (B, N, D) or (B, D)} -> {name: (B, d)}."""
        clips = self.encode_clips(experts, self.availability(available))
        return dict(zip(self.names, clips, strict=True))

    def compare(
        self,
        texts: list[torch.Tensor],
        clips: list[torch.Tensor],
        weights: torch.Tensor,
        available: torch.Tensor,
    ) -> torch.Tensor:
        """Compare embedded captions M x (Q, d) with embedded clips M x (B, d) -> (Q, B)."""
        if self.ignore_missing:
            return plain_similarity(texts, clips)
        return similarity(texts, clips, weights, available)

    def availability(self, available: Mapping[str, torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Return availabilities as floats (B, M) in the order of the experts."""
        if isinstance(available, torch.Tensor):
            return available.to(self.dtype)
        return torch.stack([available[name] for name in self.names], dim=1).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.text.mixture.weight.dtype

    def load_published(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load weights under their published names, strictly.

        Raises CheckpointError naming the keys that are missing, unknown or of another shape.
        """
        self.load_state_dict(from_published(state, self.state_dict(), form=self.form))

    def published_state_dict(self) -> dict[str, torch.Tensor]:
        """Return weights and buffers under their published names."""
        return {self.published_name(name): value for name, value in self.state_dict().items()}

    def published_name(self, name: str) -> str:
        """Return the published name of one of this model's parameters or buffers."""
        return published_name(name, form=self.form)

    def encode_text(self, text: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Embed captions in the order of the experts: (T, K, N, D) -> M x (Q, d), (Q, M)."""
        return self.text(text.flatten(0, 1))

    def encode_clips(
        self, experts: Mapping[str, torch.Tensor], available: torch.Tensor
    ) -> list[torch.Tensor]:
        """Embed clips in the order of the experts: {name: (B, ...)}, (B, M) -> M x (B, d)."""
        vectors = []
        for i, name in enumerate(self.names):
            features = experts[name]
            there = (available[:, i] > 0).view(-1, *(1 for _ in features.shape[1:]))
            features = torch.where(there, features, 0.0)  # also NaN: times 0 would keep it
            vectors.append(self.pooling[name](features) if name in self.pooling else features)
        return self.clips(vectors, available)


def build_model(config: Config) -> RetrievalModel:
    """Return the configured model, its weights drawn from torch's generator."""
    arch, text = config.arch, config.text
    pooling = {
        expert.name: NetVLAD(expert.width, expert.clusters, expert.ghost_clusters)
        for expert in config.experts
        if expert.clusters is not None
    }
    text_pooling = (
        NetVLAD(text.width, text.clusters, text.ghost_clusters) if text.clusters else None
    )
    clips = _build_clip_encoder(config)
    return RetrievalModel(
        [expert.name for expert in config.experts],
        text=TextEncoder(text.width, clips.out_dims, pooling=text_pooling),
        pooling=pooling,
        clips=clips,
        form=arch.form,
        average_captions=arch.test_caption_mode == "avg",
        ignore_missing=arch.keep_missing_modalities,
    )


def _build_clip_encoder(config: Config) -> ClipEncoder:
    """Return the clip side of the configured form."""
    arch = config.arch
    in_dims = [expert.in_dim for expert in config.experts]
    if arch.form == "moee":
        return MixtureOfEmbeddingExperts(in_dims, [e.output_width for e in config.experts])
    if arch.form == "ce_single":
        return SingleExpert(in_dims[0], arch.shared_dim)
    return CollaborativeExperts(
        in_dims,
        arch.shared_dim,
        num_g_layers=arch.num_g_layers,
        num_h_layers=arch.num_h_layers,
        use_bn_reason=arch.use_bn_reason,
        use_mish=arch.use_mish,
        include_self=arch.include_self,
    )


def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
