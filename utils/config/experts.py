"""The experts in use: the files and the width of each, by the published rules."""

from __future__ import annotations

import re

from utils.config.configuration import ExpertConfig
from utils.config.sections import FeatureEntry
from utils.config.values import TOKENS

TOKEN_WIDTHS = {
    "audio": 128,
    "vggsound": 512,
    "pann": 2048,
    "syncnet": 1024,
    "speech": 300,
    "ocr": 300,
}
"""Experts of tokens that data sets have a place for, and the width of a token."""

FACE = "face"
"""The averaged expert that data sets have a place for; its width is experts.face_dim."""

PLACES = (*TOKEN_WIDTHS, FACE)

VISUAL = re.compile(r"([^./]+)\.([^/]+)\.\d+")
"""`<type>.<model>.<n>`, the name of a visual expert: the place of its files follows from it."""
FOLDER_OPTIONS = {
    "fps": "{}fps",
    "pixel_dim": "{}px",
    "stride": "stride{}",
    "offset": "offset{}",
    "inner_stride": "inner_stride{}",
    "num_segments": "num_segments{}",
}


def expert_of(
    name: str, entry: FeatureEntry, face_dim: int | None, max_tokens: int | None
) -> ExpertConfig:
    """Return an expert in use; ValueError where its files, their form or its width is not known."""
    tokens = entry.temporal == TOKENS
    averages = [] if tokens else entry.temporal.split("-")
    files: tuple[str, ...] | None = None
    if entry.file is not None:
        files = (entry.file,)
        if entry.width is None:
            raise ValueError("an expert with a `file` needs its `width`")
        if len(averages) > 1:
            raise ValueError(f'one `file` holds one kind of average, found "{entry.temporal}"')
    elif name in PLACES:
        if tokens == (name == FACE):
            right = "avg" if tokens else TOKENS
            found = f'found temporal "{entry.temporal}"'
            raise ValueError(f'{found}, expected "{right}" for the features known')
    elif not (visual := VISUAL.fullmatch(name)):
        raise ValueError("the place of its features is not known; give `file` and `width`")
    elif tokens:
        raise ValueError('tokens need `file` and `width`, or temporal "avg" their folder')
    else:
        files = visual_files(visual[1], visual[2], entry)
    known = getattr(entry.feat_dims, entry.type) or TOKEN_WIDTHS.get(name)
    of_all = face_dim if name == FACE else known and known * max(1, len(averages))
    width = entry.width or of_all
    if width is None:
        raise ValueError("its width is not known; give `width`")
    return ExpertConfig(name, width, tokens, max_tokens if tokens else None, entry.flaky, files)


def visual_files(kind: str, model: str, entry: FeatureEntry) -> tuple[str, ...]:
    """Return the files of a visual expert, one per average, by the published rule.

    `aggregated_<type>_<fps>fps_<pixel_dim>px_stride<stride>[_offset<o>][_inner_stride<i>]
    [_num_segments<s>]/<model>-<average>[-logits].pickle`; an option that is null is left out.
    """
    options = [(form, getattr(entry, option)) for option, form in FOLDER_OPTIONS.items()]
    parts = [form.format(value) for form, value in options if value is not None]
    folder = "_".join(["aggregated", kind.replace("-", "_"), *parts])
    ending = "-logits" if entry.type == "logits" else ""
    return tuple(f"{folder}/{model}-{part}{ending}.pickle" for part in entry.temporal.split("-"))
