"""The names of released checkpoints, and how ours map to them."""

import logging
import re
from collections.abc import Mapping

import torch

from utils.errors import CheckpointError

logger = logging.getLogger(__name__)

PUBLISHED = {  # our prefix: the published prefix
    "text.pooling.": "text_pooling.",
    "text.mixture.": "ce.moe_fc.",
    "text.gates.": "ce.text_GU.",
    "pooling.": "pooling.",
    "clips.reduce.": "ce.video_dim_reduce.",
    "clips.pair_input.": "ce.g_reason_1.",
    "clips.pair_network.": "ce.g_reason_shared.",
    "clips.self_network.": "ce.h_reason.",
    "clips.gates.": "ce.video_GU.",
}
OBSOLETE = ("ce.moe_fc_bottleneck1.", "ce.moe_cg.", "ce.moe_fc_proj.")  # in older releases, unused
SHOWN = 6  # keys named in a message


def published_name(name: str, *, form: str) -> str:
    """Return the published name of one of our parameters or buffers."""
    ours = next(prefix for prefix in PUBLISHED if name.startswith(prefix))
    rest = name[len(ours) :]
    if ours == "text.gates." or (ours == "clips.gates." and form == "moee"):
        rest = re.sub(r"^(\d+)\.gate\.", r"\1.cg.", rest)
    elif ours == "clips.gates.":  # the gate alone; its projection is video_dim_reduce
        rest = re.sub(r"^(\d+)\.", r"\1.cg.", rest)
    return PUBLISHED[ours] + rest


def from_published(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], *, form: str
) -> dict[str, torch.Tensor]:
    """Turn a published state dict into ours; `expected` is the model's own state dict.

    Keys that older releases carried without use are dropped with a warning. Raises
    CheckpointError naming the keys when any other is missing, unknown or of another shape.
    """
    dropped = [key for key in state if key.startswith(OBSOLETE)]
    if dropped:
        logger.warning("ignored %d unused keys of an older release: %s", len(dropped), dropped)
    names = {published_name(name, form=form): name for name in expected}
    given = {key: value for key, value in state.items() if key not in dropped}
    missing = [key for key in names if key not in given]
    unknown = [key for key in given if key not in names]
    shapes = [
        f"{key} {tuple(value.shape)}, expected {tuple(expected[names[key]].shape)}"
        for key, value in given.items()
        if key in names and value.shape != expected[names[key]].shape
    ]
    if missing or unknown or shapes:
        lines = ["the weights belong to another architecture than the configuration:"]
        for what, keys in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", shapes),
        ):
            if keys:
                more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
                lines.append(f"  {len(keys)} {what}: {', '.join(keys[:SHOWN])}{more}")
        lines.append("use the config.json that lies beside the checkpoint")
        raise CheckpointError("\n".join(lines))
    return {names[key]: value for key, value in given.items()}
