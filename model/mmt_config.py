"""How the arguments of a configuration become an MMT, under their published names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from model import bert
from model.bert_files import load_bert, read_weights, weights_file
from model.mmt import MMT, Switches
from utils.batches import BatchNeeds
from utils.config import ExpertConfig, TextConfig
from utils.declared import Mistakes, built_with
from utils.errors import CheckpointError, DataError
from utils.files import open_regular
from utils.kinds import PLACE, at_least

CAPTION_FROM: dict[str, Literal["first", "max", "mean"]] = {
    "bertftn": "first",
    "bertftnmxp": "max",
    "bertftnmnp": "mean",
}
"""`txt_agg`: BERT, fine-tuned, and the place of the caption among its tokens."""


@dataclass(frozen=True, kw_only=True)
class TextBertParams(bert.BertParams):
    """The section `arch.args.txt_bert_params`; the defaults are those of bert-base-cased."""

    vocab_size: Annotated[bert.Count | None, "word pieces; null: as many as `vocab` has"] = None


@dataclass(frozen=True, kw_only=True)
class ClipBertParams(bert.BertParams):
    """The section `arch.args.vid_bert_params`, as published."""

    hidden_size: Annotated[bert.Count, "width of a token and of embeddings"] = 512
    num_hidden_layers: Annotated[bert.Count, "layers"] = 4
    num_attention_heads: Annotated[bert.Count, "heads, which share the width"] = 4
    max_position_embeddings: Annotated[bert.Count, "positions; later frames share the last one"] = (
        102
    )
    type_vocab_size: Annotated[bert.Count, "types: one for each expert and one besides"] = 10
    hidden_act: Annotated[Literal["gelu"], "between the two dense layers"] = "gelu"
    layer_norm_eps: Annotated[float, "no effect: 1e-12 everywhere"] = 1e-12
    vocab_size_or_config_json_file: Annotated[int, "no effect"] = 10


def check_mmt(
    experts: Sequence[ExpertConfig],
    text: TextConfig,
    *,
    txt_bert_params: TextBertParams,
    vid_bert_params: ClipBertParams,
    same_dim: int,
    **_: object,
) -> Mistakes:
    """Yield the key and the problem of arguments that do not go together."""
    if same_dim != vid_bert_params.hidden_size:
        message = f"found {same_dim}, expected vid_bert_params.hidden_size"
        yield "same_dim", f"{message}, which is {vid_bert_params.hidden_size}"
    if text.max_tokens > txt_bert_params.max_position_embeddings:
        message = f"found {txt_bert_params.max_position_embeddings}, expected at least"
        yield (
            "txt_bert_params.max_position_embeddings",
            f"{message} max_tokens.text, which is {text.max_tokens}",
        )
    if len(experts) >= vid_bert_params.type_vocab_size:
        found = vid_bert_params.type_vocab_size
        yield "vid_bert_params.type_vocab_size", f"found {found}, expected one more than experts"
    for expert in experts:
        if not expert.tokens:
            yield "vid_inp", f"expert {expert.name!r} is an average, expected a sequence of frames"


def needs_of_mmt(arguments: Mapping[str, Any]) -> BatchNeeds:
    """Return the form of batches that an MMT of these arguments reads."""
    return BatchNeeds(
        frames=True,
        token_ids=True,
        vocabulary=arguments["vocab"],
        pooling="mean" if arguments["out_tok"] == "mnp" else "max",
    )


def sized_as_released(
    arguments: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    """Return arguments with the sizes of BERT read off a released state dict.

    Released configurations lack them. Heads cannot be seen in the weights. Raises CheckpointError
    when the weights are of another model, or the configured heads do not fit their width.
    """
    params = replace(arguments["txt_bert_params"], **text_sizes_in(state))
    if any(params.check(**asdict(params))):
        raise CheckpointError(
            f"the weights have a txt_bert of width {params.hidden_size}, which "
            f"{params.num_attention_heads} heads cannot share; set "
            "arch.args.txt_bert_params.num_attention_heads to the number it was trained with"
        )
    return {**arguments, "txt_bert_params": params, "txt_bert_weights": None}


def text_sizes_in(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Return the sizes of `txt_bert` in a state dict; CheckpointError when it has none."""
    tables, first = "txt_bert.embeddings", "txt_bert.encoder.layer.0"
    layers = [re.match(r"txt_bert\.encoder\.layer\.(\d+)\.", key) for key in state]
    try:
        return {
            "vocab_size": len(state[f"{tables}.word_embeddings.weight"]),
            "hidden_size": len(state[f"{tables}.LayerNorm.weight"]),
            "num_hidden_layers": 1 + max(int(match[1]) for match in layers if match),
            "intermediate_size": len(state[f"{first}.intermediate.dense.bias"]),
            "max_position_embeddings": len(state[f"{tables}.position_embeddings.weight"]),
            "type_vocab_size": len(state[f"{tables}.token_type_embeddings.weight"]),
        }
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"the weights are not those of an MMT, whose configuration this is: {error} is missing"
        ) from None


@built_with(check=check_mmt, needs=needs_of_mmt, sized=sized_as_released)
def build_mmt(
    experts: Sequence[ExpertConfig],
    text: TextConfig,
    *,
    vocab: Annotated[str, PLACE, "file of word pieces, one a line, such as vocab.txt of BERT"],
    txt_bert_weights: Annotated[
        str | None, PLACE, "file or folder of BERT's weights to start from; null: random ones"
    ] = None,
    txt_bert_params: Annotated[TextBertParams, "the captions' transformer"] = TextBertParams(),
    vid_bert_params: Annotated[ClipBertParams, "the clips' transformer"] = ClipBertParams(),
    same_dim: Annotated[
        int, at_least(1), "width of embeddings, that of the clips' transformer"
    ] = 512,
    txt_agg: Annotated[
        Literal["bertftn", "bertftnmxp", "bertftnmnp"],
        "the caption: BERT's first token, or the maximum or mean of the others",
    ] = "bertftn",
    txt_pro: Annotated[
        Literal["gbn", "gem", "lin"], "its embedding: gated with batch norm, gated, linear"
    ] = "gbn",
    out_tok: Annotated[
        Literal["mxp", "mnp", "sep"], "an expert's aggregate: maximum, mean, or nothing"
    ] = "mxp",
    pos_enc: Annotated[
        Literal["tint", "ordr", "type", "none"], "positions of frames: time, order, one, none"
    ] = "tint",
    vid_wgh: Annotated[Literal["none", "emb"], "clips weigh their experts too"] = "none",
    keep_missing_modalities: Annotated[bool, "missing experts keep their weight"] = True,
    test_caption_mode: Annotated[
        Literal["indep", "avg"],
        'several captions per clip at evaluation: "indep" each by itself, "avg" their mean score',
    ] = "indep",
    txt_inp: Annotated[Literal["bertftn"], "no effect"] = "bertftn",
    txt_wgh: Annotated[Literal["emb"], "no effect"] = "emb",
    vid_cont: Annotated[Literal["bert"], "no effect"] = "bert",
    vid_inp: Annotated[Literal["both"], "no effect"] = "both",
    l2renorm: Annotated[bool, "no effect"] = False,
    normalize_experts: Annotated[bool, "no effect"] = True,
) -> MMT:
    """Return the multi-modal transformer; raises DataError for a vocabulary that does not fit."""
    return MMT(
        {expert.name: expert.width for expert in experts},
        build_text_bert(txt_bert_params, vocab, txt_bert_weights),
        bert.Bert(vid_bert_params),
        switches=Switches(
            caption_from=CAPTION_FROM[txt_agg],
            text_head=txt_pro,
            aggregate=out_tok,
            positions=pos_enc,
            weigh_clips=vid_wgh == "emb",
            keep_missing=keep_missing_modalities,
        ),
        average_captions=test_caption_mode == "avg",
    )


def build_text_bert(params: TextBertParams, vocab: str, weights: str | None) -> bert.Bert:
    """Return the captions' transformer, as large as the vocabulary unless `params` says a size."""
    with open_regular(vocab) as content:
        pieces = content.read().rstrip(b"\r\n").count(b"\n") + 1
    known = params.vocab_size or pieces
    if pieces > known:
        raise DataError(f"{vocab}: has {pieces} word pieces, but the network knows {known}")
    network = bert.Bert(params, words=known)
    if weights is not None:
        file = weights_file(Path(weights))
        load_bert(network, read_weights(file), file)
    return network
