"""Where each expert's features lie and how wide they are, by the published rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TOKEN_WIDTHS = {
    "audio": 128,
    "vggsound": 512,
    "pann": 2048,
    "syncnet": 1024,
    "speech": 300,
    "ocr": 300,
}
"""Experts of tokens whose place the data sets know, and the width of a token."""

WITHOUT_PLACE = ("detection-sem",)
"""Experts that the published tables of clusters name, but whose features nobody has released."""

FACE = "face"
"""The averaged expert whose place the data sets know; its width is experts.face_dim."""

TOKENS = "vlad"

Read = Callable[[str], Any]
"""Gives the value of a key of one expert's entry in the table of experts."""


def is_known_place(name: str) -> bool:
    """Say whether data sets know the file of an expert by its name."""
    return name in TOKEN_WIDTHS or name == FACE


def is_visual(name: str) -> bool:
    """Say whether a name is of the form `<type>.<model>.<n>`, which says where its files lie."""
    kind, _, rest = name.partition(".")
    model, _, number = rest.rpartition(".")
    return bool(kind) and bool(model) and number.isdigit() and "/" not in name


def expert_files(name: str, read: Read) -> tuple[str, ...] | None:
    """Return an expert's files below root_feat_folder; None: the data set knows the place.

    `aggregated_<type>_<fps>fps_<pixel_dim>px_stride<stride>[_offset<o>][_inner_stride<i>]
    [_num_segments<s>]/<model>-<aggregate>[-logits].pickle`, one file per aggregate; an option
    that is null is left out.
    """
    if read("file") is not None:
        return (read("file"),)
    if is_known_place(name):
        return None
    kind, _, rest = name.partition(".")
    model = rest.rpartition(".")[0]
    options = (
        ("fps", "{}fps"),
        ("pixel_dim", "{}px"),
        ("stride", "stride{}"),
        ("offset", "offset{}"),
        ("inner_stride", "inner_stride{}"),
        ("num_segments", "num_segments{}"),
    )
    parts = ["aggregated", kind.replace("-", "_")]
    parts += [form.format(read(key)) for key, form in options if read(key) is not None]
    ending = "-logits" if read("type") == "logits" else ""
    folder = "_".join(parts)
    return tuple(f"{folder}/{model}-{part}{ending}.pickle" for part in read("temporal").split("-"))


def expert_width(name: str, read: Read, face_dim: int | None) -> int | None:
    """Return the width of an expert's token or averaged vector; None: nothing says it."""
    if read("width") is not None:
        return int(read("width"))
    if name == FACE:
        return face_dim
    width: int | None = read(f"feat_dims.{read('type')}") or TOKEN_WIDTHS.get(name)
    if width is None or read("temporal") == TOKENS:
        return width
    return width * len(read("temporal").split("-"))


def place_problem(name: str, read: Read) -> str | None:
    """Say why it is not known where an expert's features lie or what form they have, or None."""
    tokens = read("temporal") == TOKENS
    if read("file") is not None:
        if read("width") is None:
            return "an expert with a `file` needs its `width`"
        if not tokens and "-" in read("temporal"):
            return f'one `file` holds one kind of average, found temporal "{read("temporal")}"'
        return None
    if is_known_place(name):
        if tokens != (name != FACE):
            right = "avg" if name == FACE else TOKENS
            return f'found temporal "{read("temporal")}", expected "{right}" for the features known'
        return None
    if not is_visual(name):
        return "it is not known where its features lie; give `file` and `width`"
    if tokens:
        return 'a sequence of tokens needs `file` and `width`, or temporal "avg" its folder'
    return None
