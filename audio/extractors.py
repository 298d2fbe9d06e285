"""The extractors by name; one of your own is a class and a line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from audio.aisfx import Aisfx
from audio.builtin import LogMel, Modulation
from audio.extractor import Extractor
from audio.vggish import VGGish
from audio.vggsound import VGGSound
from audio.yamnet import Yamnet
from utils.errors import UsageError, nearest

EXTRACTORS: dict[str, type[Extractor]] = {
    extractor.name: extractor
    for extractor in (
        LogMel,
        Modulation,
        VGGish,
        VGGSound,
        Aisfx,
        Yamnet,
    )
}


def build_extractors(
    names: Sequence[str],
    weights: Mapping[str, Path | None] | None = None,
    device: torch.device | str = "cpu",
) -> list[Extractor]:
    """Build extractors by name, with files of weights by the names of configs/extractors.json.

    Raises UsageError for an unknown name, and for weights of nothing that is built.
    """
    for name in names:
        if name not in EXTRACTORS:
            known = ", ".join(EXTRACTORS)
            raise UsageError(
                f"there is no extractor {name!r}{nearest(name, EXTRACTORS)} (known: {known})"
            )
    kinds = [EXTRACTORS[name] for name in dict.fromkeys(names)]
    given = dict(weights or {})
    usable = {name for kind in kinds if kind.needs_weights for name in (kind.name, *kind.extras)}
    for name in given:
        if name not in usable:
            raise UsageError(
                f"--weights {name}: none of {', '.join(names)} uses it{nearest(name, usable)} "
                f"(usable: {', '.join(sorted(usable)) or 'none'})"
            )
    return [
        kind(given.get(kind.name), device, {key: given[key] for key in kind.extras if key in given})
        for kind in kinds
    ]
