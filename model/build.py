"""Models by their names in configurations, and how a configuration becomes one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from model.collaborative_experts import CollaborativeExperts, CollaborativeModel
from model.expert_mixture import ExpertMixture
from model.moee import (
    MixtureModel,
    MixtureOfEmbeddingExperts,
    SingleExpert,
    SingleExpertModel,
)
from model.net_vlad import NetVLAD
from model.retrieval_model import RetrievalModel
from model.text_encoder import TextEncoder
from utils.config import Config, ExpertConfig, TextConfig

__all__ = ["MODELS", "RetrievalModel", "build_model", "count_parameters"]


def build_cenet(
    experts: Sequence[ExpertConfig],
    text: TextConfig,
    *,
    vlad_clusters: Mapping[str, int],
    ghost_clusters: Mapping[str, int] | None = None,
    ce_shared_dim: int = 768,
    use_ce: Literal["pairwise", ""] = "pairwise",
    mimic_ce_dims: bool = False,
    use_mish: bool = True,
    use_bn_reason: bool = True,
    num_g_layers: int = 3,
    num_h_layers: int = 0,
    include_self: bool = True,
    keep_missing_modalities: bool = False,
    test_caption_mode: Literal["indep", "avg"] = "indep",
) -> ExpertMixture:
    """Return CE, CE of one expert or MoEE; `use_ce` and `mimic_ce_dims` choose.

    `vlad_clusters` and `ghost_clusters` are those of each expert of tokens, and of "text"; text
    with 0 clusters is not pooled. The arguments are the keys of `arch.args`, as published.
    """
    ghosts = ghost_clusters or {}
    pooling = {
        expert.name: NetVLAD(expert.width, vlad_clusters[expert.name], ghosts.get(expert.name, 0))
        for expert in experts
        if expert.tokens
    }
    words = vlad_clusters["text"]
    text_pooling = NetVLAD(text.width, words, ghosts.get("text", 0)) if words else None
    in_dims = [
        pooling[expert.name].out_dim if expert.name in pooling else expert.width
        for expert in experts
    ]
    kind: type[ExpertMixture]
    clips: CollaborativeExperts | SingleExpert | MixtureOfEmbeddingExperts
    if use_ce:
        kind = CollaborativeModel
        clips = CollaborativeExperts(
            in_dims,
            ce_shared_dim,
            num_g_layers=num_g_layers,
            num_h_layers=num_h_layers,
            use_bn_reason=use_bn_reason,
            use_mish=use_mish,
            include_self=include_self,
        )
    elif mimic_ce_dims:
        kind, clips = SingleExpertModel, SingleExpert(in_dims[0], ce_shared_dim)
    else:
        widths = [expert.width for expert in experts]
        kind, clips = MixtureModel, MixtureOfEmbeddingExperts(in_dims, widths)
    return kind(
        [expert.name for expert in experts],
        text=TextEncoder(text.width, clips.out_dims, pooling=text_pooling),
        pooling=pooling,
        clips=clips,
        average_captions=test_caption_mode == "avg",
        ignore_missing=keep_missing_modalities,
    )


MODELS: dict[str, Callable[..., RetrievalModel]] = {"CENet": build_cenet}
"""`arch.type` -> (experts, text, **arch.args) -> a model. Yours is a class and a line here."""


def build_model(config: Config) -> RetrievalModel:
    """Return the configured model, its weights drawn from torch's generator."""
    return MODELS["CENet"](config.experts, config.text, **_arguments(config))


def _arguments(config: Config) -> dict[str, Any]:
    """Return `arch.args` of a configuration, with the sizes its other sections hold."""
    sizes: dict[str, ExpertConfig | TextConfig] = {e.name: e for e in config.experts if e.tokens}
    sizes["text"] = config.text
    return {
        **vars(config.arch),
        "vlad_clusters": {name: one.clusters for name, one in sizes.items()},
        "ghost_clusters": {name: one.ghost_clusters for name, one in sizes.items()},
    }


def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
