"""Build models from the arguments that reference numbers were recorded with."""

import json
from pathlib import Path

import numpy as np
import torch

from model.collaborative_experts import CollaborativeExperts
from model.expert_mixture import ExpertMixture, TextEncoder
from model.moee import MixtureOfEmbeddingExperts, SingleExpert
from model.net_vlad import NetVLAD

DATA = Path(__file__).resolve().parent / "data" / "golden"


def load_case(name, folder=DATA):
    """Return (arguments, arrays) of a recorded case."""
    case = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return case, dict(arrays)


def recorded_models():
    """Return the names of the recorded cases of whole models."""
    kinds = ("ce", "mimic", "moee", "extra")
    return sorted(path.stem for path in DATA.glob("*.json") if path.stem.startswith(kinds))


def published_state(arrays):
    """Return the recorded state dict, published names."""
    return {
        key.removeprefix("sd/"): torch.from_numpy(np.array(value))
        for key, value in arrays.items()
        if key.startswith("sd/")
    }


def build_recorded_model(constructor, state, *, average_captions=False):
    """Return the model of a recorded constructor with the recorded weights."""
    names = [name for name, _ in constructor["expert_dims"]]
    in_dims = [dims[0] for _, dims in constructor["expert_dims"]]
    out_dims = [dims[1] for _, dims in constructor["expert_dims"]]
    ghosts = constructor["ghost_clusters"]
    clusters = constructor["vlad_clusters"]
    pooling = {
        name: NetVLAD(in_dim // clusters[name], clusters[name], ghosts.get(name, 0))
        for name, in_dim in zip(names, in_dims, strict=True)
        if f"pooling.{name}.clusters" in state
    }
    if constructor["use_ce"] == "pairwise":
        clips = CollaborativeExperts(
            in_dims,
            constructor["ce_shared_dim"],
            num_g_layers=constructor["num_g_layers"],
            num_h_layers=constructor["num_h_layers"],
            use_bn_reason=bool(constructor["use_bn_reason"]),
            use_mish=bool(constructor["use_mish"]),
            include_self=bool(constructor["include_self"]),
        )
    elif constructor["mimic_ce_dims"]:
        clips = SingleExpert(in_dims[0], constructor["ce_shared_dim"])
    else:
        clips = MixtureOfEmbeddingExperts(in_dims, out_dims)
    text_pooling = NetVLAD(constructor["text_dim"], clusters["text"], ghosts.get("text", 0))
    model = ExpertMixture(
        names,
        text=TextEncoder(constructor["text_dim"], clips.out_dims, pooling=text_pooling),
        pooling=pooling,
        clips=clips,
        average_captions=average_captions,
        ignore_missing=constructor["keep_missing_modalities"],
    )
    model.load_published(state)
    return model


def model_inputs(arrays, run, names):
    """Return (text, experts, available) of a recorded run."""
    text = torch.from_numpy(arrays[f"{run}/in/text"])
    experts = {name: torch.from_numpy(arrays[f"{run}/in/experts/{name}"]) for name in names}
    available = {name: torch.from_numpy(arrays[f"{run}/in/ind/{name}"]) for name in names}
    return text, experts, available
