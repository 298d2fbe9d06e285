"""The table of experts: the files and the width of each, by the published rules."""

from __future__ import annotations

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
_FOLDER_OPTIONS = {
    "fps": "{}fps",
    "pixel_dim": "{}px",
    "stride": "stride{}",
    "offset": "offset{}",
    "inner_stride": "inner_stride{}",
    "num_segments": "num_segments{}",
}


def is_visual(name: str) -> bool:
    """Return whether a name has the form `<type>.<model>.<n>`, the rule of places."""
    kind, _, rest = name.partition(".")
    model, _, number = rest.rpartition(".")
    return bool(kind) and bool(model) and number.isdigit() and "/" not in name


def files_of(name: str, entry: FeatureEntry) -> tuple[str, ...] | None:
    """Return an expert's files below root_feat_folder; None: the data set has the place.

    `aggregated_<type>_<fps>fps_<pixel_dim>px_stride<stride>[_offset<o>][_inner_stride<i>]
    [_num_segments<s>]/<model>-<aggregate>[-logits].pickle`, one file per aggregate; an option
    that is null is left out.
    """
    if entry.file is not None:
        return (entry.file,)
    if name in PLACES:
        return None
    kind, _, rest = name.partition(".")
    model = rest.rpartition(".")[0]
    values = {option: getattr(entry, option) for option in _FOLDER_OPTIONS}
    parts = [form.format(values[option]) for option, form in _FOLDER_OPTIONS.items()
             if values[option] is not None]  # fmt: skip
    folder = "_".join(["aggregated", kind.replace("-", "_"), *parts])
    ending = "-logits" if entry.type == "logits" else ""
    return tuple(f"{folder}/{model}-{part}{ending}.pickle" for part in entry.temporal.split("-"))


def width_of(name: str, entry: FeatureEntry, face_dim: int | None) -> int | None:
    """Return the width of an expert's token or averaged vector; None: it is not known."""
    if entry.width is not None:
        return entry.width
    if name == FACE:
        return face_dim
    given: int | None = getattr(entry.feat_dims, entry.type)
    width = given or TOKEN_WIDTHS.get(name)
    if width is None or entry.temporal == TOKENS:
        return width
    return width * len(entry.temporal.split("-"))


def problem_of(name: str, entry: FeatureEntry, face_dim: int | None) -> str | None:
    """Return the reason why an expert's files, their form or their width are not known, or None."""
    tokens = entry.temporal == TOKENS
    if entry.file is not None:
        if entry.width is None:
            return "an expert with a `file` needs its `width`"
        if not tokens and "-" in entry.temporal:
            return f'one `file` holds one kind of average, found temporal "{entry.temporal}"'
    elif name in PLACES:
        if tokens != (name != FACE):
            right = "avg" if name == FACE else TOKENS
            return f'found temporal "{entry.temporal}", expected "{right}" for the features known'
    elif not is_visual(name):
        return "the place of its features is not known; give `file` and `width`"
    elif tokens:
        return 'a sequence of tokens needs `file` and `width`, or temporal "avg" its folder'
    if width_of(name, entry, face_dim) is None:
        return "its width is not known; give `width`"
    return None
