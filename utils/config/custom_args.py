"""The --custom_args of a command line: settings by dotted path, and the tags they give a run."""

from __future__ import annotations

import re

from utils.config.schema import SCHEMA, Key, entry_at, join_path, split_path
from utils.errors import UsageError, nearest

FLAG = "--custom_args"
FORM = "expected key@value, several joined by +"
NOT_HERE = ("inherit_from", "name")

_UNSAFE_IN_A_NAME = re.compile(r"[^\w.-]|\.{2,}")


def parse_custom_args(text: str) -> dict[str, object]:
    """Read `k.k@v+k@v` into dotted path -> value of the key's type.

    A dot inside a key is written `_.`; lists are comma-separated, and `audio,` is a list of one.
    Values that do not fit are left as text, for the check of the whole configuration to report.
    """
    found: dict[str, object] = {}
    for pair in text.split("+") if text else []:
        path, value = _split_pair(pair)
        key = join_path(split_path(path))
        if key in found:
            raise UsageError(f"{FLAG}: {key} is given twice")
        entry = entry_at(split_path(path))
        if not isinstance(entry, Key) or path in NOT_HERE:
            raise UsageError(f"{FLAG}: {_what_is_wrong(path, entry is not None)}")
        found[key] = entry.kind.parse(value)
    return found


def custom_tag(text: str) -> str:
    """Return what custom arguments add to the name of a run, "" for none.

    Each adds -, its key's last two parts joined by -, then - and its value; `_.` and `,` become
    --, and what has no place in a folder's name becomes -.
    """
    tag = ""
    for pair in text.split("+") if text else []:
        path, value = _split_pair(pair)
        parts = [*path.replace("_.", "--").split(".")[-2:], value.replace(",", "--")]
        tag += "-" + "-".join(_UNSAFE_IN_A_NAME.sub("-", part) for part in parts)
    return tag


def _split_pair(pair: str) -> tuple[str, str]:
    path, at, value = pair.partition("@")
    if not path or not at or "@" in value:
        raise UsageError(f"{FLAG}: found {pair!r}, {FORM}")
    return path, value


def _what_is_wrong(path: str, exists: bool) -> str:
    if path in NOT_HERE:
        return f"{path} cannot be set here"
    if exists:
        return f"{path} is a section, expected one of the keys in it"
    return f"unknown key {path!r}{nearest(path, SCHEMA)}"
