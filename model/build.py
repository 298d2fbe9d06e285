"""Models by their names in configurations, and how a configuration becomes one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import nn

from model.collaborative_experts import CollaborativeExperts
from model.expert_mixture import ClipSide, ExpertMixture, TextEncoder
from model.kernel_alignment import KernelAlignment
from model.linear_alignment import LinearAlignment
from model.mmt_config import build_mmt
from model.moee import MixtureOfEmbeddingExperts, SingleExpert
from model.net_vlad import NetVLAD
from model.pooling import POOLINGS, VLAD, Pooling
from model.retrieval_model import RetrievalModel
from utils.config import Config, ExpertConfig, TextConfig
from utils.declared import Mistakes, built_with
from utils.kinds import at_least, choice

__all__ = ["MODELS", "RetrievalModel", "build_model", "count_parameters"]


def check_cenet(
    experts: Sequence[ExpertConfig],
    text: TextConfig,
    *,
    vlad_clusters: Mapping[str, int],
    pooling: Mapping[str, str] | None,
    use_ce: str,
    mimic_ce_dims: bool,
    **_: object,
) -> Mistakes:
    """Yield the key and the problem of arguments that do not go together."""
    pairwise, several = 'use_ce "pairwise"', len(experts) > 1
    if use_ce and mimic_ce_dims:
        yield "mimic_ce_dims", f"found true, expected false beside {pairwise}"
    elif use_ce and not several:
        expected = 'use_ce "" with mimic_ce_dims true'
        yield "use_ce", f'found "pairwise" with one expert, expected {expected}'
    elif mimic_ce_dims and several:
        found = f"found true with {len(experts)} experts"
        yield "mimic_ce_dims", f"{found}, expected false and {pairwise}"
    kinds = pooling or {}
    for name in [expert.name for expert in experts if expert.tokens]:
        if kinds.get(name, VLAD) == VLAD and vlad_clusters.get(name, 0) < 1:
            found = f"found {vlad_clusters[name]}" if name in vlad_clusters else "missing"
            yield (
                f"vlad_clusters.{name}",
                f"{found}, expected a number from 1 up: the expert is a token sequence",
            )
    if kinds.get("text", VLAD) != VLAD:
        return
    if "text" not in vlad_clusters:
        yield "vlad_clusters.text", "missing, expected a number of clusters of captions"
    elif not vlad_clusters["text"] and text.max_tokens != 1:
        yield (
            "vlad_clusters.text",
            f"found 0, expected 1 or more, because max_tokens.text is {text.max_tokens}",
        )


@built_with(check=check_cenet)
def build_cenet(
    experts: Sequence[ExpertConfig],
    text: TextConfig,
    *,
    vlad_clusters: Annotated[
        dict[str, int],
        "NetVLAD clusters of captions (`text`; 0: no pooling, for captions of one token) and of "
        "each expert of tokens",
    ],
    ghost_clusters: Annotated[
        dict[str, int] | None, "further clusters, by the same names, that are thrown away"
    ] = None,
    pooling: Annotated[
        dict[str, Literal["vlad", "statistics", "attention"]] | None,
        "how tokens, by the same names, become a vector: NetVLAD, or without padding by mean, "
        "maximum and deviation, or by attention",
    ] = None,
    ce_shared_dim: Annotated[int, at_least(1), "width of the shared space of CE"] = 768,
    use_ce: Annotated[
        str,
        choice("pairwise", "", off=(None, False, 0)),
        '"pairwise": Collaborative Experts, two experts or more; "": MoEE, or with `mimic_ce_dims` '
        "CE of one expert",
    ],
    mimic_ce_dims: Annotated[bool, "CE of one expert, with the widths of CE"] = False,
    use_mish: Annotated[bool, "Mish in the pair network; false: ReLU"] = True,
    use_bn_reason: Annotated[bool, "batch norm in the pair network"] = True,
    num_g_layers: Annotated[int, at_least(1), "layers of the pair network g"] = 3,
    num_h_layers: Annotated[int, "layers of the network h after it"] = 0,
    include_self: Annotated[bool, "an expert is paired with itself too"] = True,
    keep_missing_modalities: Annotated[
        bool, "similarity is the plain sum over experts; weights and availability unused"
    ] = False,
    test_caption_mode: Annotated[
        Literal["indep", "avg"],
        'several captions per clip at evaluation: "indep" each by itself, "avg" their mean score',
    ] = "indep",
) -> ExpertMixture:
    """Return CE, CE of one expert or MoEE; `use_ce` and `mimic_ce_dims` choose.

    `vlad_clusters` and `ghost_clusters` are those of each expert of tokens, and of "text"; text
    with 0 clusters is not pooled. The arguments are the keys of `arch.args`, as published.
    """
    kinds, ghosts = pooling or {}, ghost_clusters or {}

    def pool(name: str, width: int) -> Pooling:
        kind = kinds.get(name, VLAD)
        if kind == VLAD:
            return NetVLAD(width, vlad_clusters[name], ghosts.get(name, 0))
        return POOLINGS[kind](width)

    pools = {one.name: pool(one.name, one.width) for one in experts if one.tokens}
    pools_words = kinds.get("text", VLAD) != VLAD or vlad_clusters["text"]
    text_pooling = pool("text", text.width) if pools_words else None
    in_dims = [pools[one.name].out_dim if one.tokens else one.width for one in experts]
    clips: ClipSide
    if use_ce:
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
        clips = SingleExpert(in_dims[0], ce_shared_dim)
    else:
        clips = MixtureOfEmbeddingExperts(in_dims, [one.width for one in experts])
    return ExpertMixture(
        [one.name for one in experts],
        text=TextEncoder(text.width, clips.out_dims, pooling=text_pooling),
        pooling=pools,
        clips=clips,
        average_captions=test_caption_mode == "avg",
        ignore_missing=keep_missing_modalities,
    )


MODELS: dict[str, Callable[..., RetrievalModel]] = {
    "CENet": build_cenet,
    "KernelAlignment": KernelAlignment,
    "LinearAlignment": LinearAlignment,
    "MMT": build_mmt,
}
"""`arch.type` -> (experts, text, **arch.args) -> a model. Yours is a class and a line here."""


def build_model(
    config: Config, released: Mapping[str, torch.Tensor] | None = None
) -> RetrievalModel:
    """Return the configured model, its weights drawn from torch's generator.

    Sizes that released configurations leave out are read off `released`, the weights that the
    model is for. Raises CheckpointError when they are of another model.
    """
    builder, arguments = MODELS[config.arch.type], config.arch.args
    sized = getattr(builder, "sized", None)
    if released is not None and sized is not None:
        arguments = sized(arguments, released)
    return builder(config.experts, config.text, **arguments)


def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
