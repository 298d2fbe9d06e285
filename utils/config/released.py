"""Keys that only released files carry: accepted, and without effect."""

from __future__ import annotations

from utils.declared import ANY
from utils.kinds import EMPTY, FLAG, TEXT_OR_EMPTY, Kind, Range, checked, choice, nullable, whole
from utils.problems import Path

_TEXT = nullable(TEXT_OR_EMPTY)
_BOTH = ["t2v_metrics", "v2t_metrics"]
_EXPERT = f"data_loader.args.feat_aggregation.{ANY}"
_REPEATED = (
    "spatial_feats refresh_lru_cache cls_partitions challenge_test_root_feat_folder force_cpu_val "
    "cache_targets distil_loss distil_params manual_linear_init"
)

EMPTY_ONLY = {
    "": f"{_REPEATED} eval_config challenge_mode",
    "experts": _REPEATED,
    "arch": _REPEATED,
    "arch.args": "l2renorm randomise_feats freeze_weights kron_dets geometric_mlp rand_proj "
    "coord_dets spatial_feats concat_experts concat_mix_experts verbose num_classes",
    "data_loader": _REPEATED,
    "data_loader.args": f"{_REPEATED} trn_cat",
    _EXPERT: "binarise trn_seg",
    "trainer": _REPEATED,
}
"""Section -> keys whose work is not done here: accepted while they are false, zero or empty."""

WITHOUT_EFFECT: dict[str, Kind] = {
    "n_gpu": whole(Range()),
    "disable_gpu": FLAG,
    "disable_nan_checks": FLAG,
    "eval_settings.disable_gpu": FLAG,
    "task": choice("retrieval"),
    "metrics": Kind(
        f"a list of {' and '.join(_BOTH)}",
        lambda value: checked(value, isinstance(value, list) and sorted(map(str, value)) == _BOTH),
    ),
    "log_name": _TEXT,
    "eval_mode": _TEXT,
    "experts.use_zeros_for_missing": FLAG,
    f"{_EXPERT}.model": _TEXT,
    f"{_EXPERT}.feat_type": _TEXT,
    f"{_EXPERT}.aggregate": choice("concat"),
    f"{_EXPERT}.aggregate-axis": whole(Range(1, 1)),
    **{
        f"{section}.{name}".lstrip("."): EMPTY
        for section, names in EMPTY_ONLY.items()
        for name in names.split()
    },
}
"""Every key that is accepted without effect, and the values it may have."""

EXPERTS_WITHOUT_FEATURES = (
    "detection-sem",
    "audiocaps",
    "audiocaps_cnn14",
    "cnn10",
    "cnn14",
    "cnn14_16k",
)
"""Names in released tables of clusters and tokens that no data set has features of."""


def accepted(path: Path) -> Kind | None:
    """Return the kind of a key that is accepted without effect, None for an unknown key."""
    if path[:3] == ("data_loader", "args", "feat_aggregation") and len(path) > 3:
        path = (*path[:3], ANY, *path[4:])
    return WITHOUT_EFFECT.get(".".join(path))
