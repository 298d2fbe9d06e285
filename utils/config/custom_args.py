"""The --custom_args of a command line: settings by dotted path, and the tags they give a run."""

from __future__ import annotations

import re

from utils.config.build import all_keys
from utils.config.released import accepted
from utils.config.sections import File
from utils.declared import ANY, Key, Section, leaves
from utils.errors import UsageError, nearest
from utils.kinds import MAPPING, Kind
from utils.problems import CUSTOM_ARGS, Path, join_path, split_path

FORM = "expected key@value or key=value, several joined by +"
NOT_HERE = ("inherit_from", "name")

_UNSAFE_IN_A_NAME = re.compile(r"[^\w.-]|\.{2,}")


def parse_custom_args(text: str) -> dict[str, object]:
    """Read `k.k@v+k@v` or `k.k=v+k=v` into dotted path -> value of the key's type.

    A dot inside a key is written `_.`; lists are comma-separated, and `audio,` is a list of one.
    Values that do not fit are left as text, for the check of the whole configuration to report.
    """
    found: dict[str, object] = {}
    for pair in text.split("+") if text else []:
        path, value = _split_pair(pair)
        key = join_path(split_path(path))
        if key in found:
            raise UsageError(f"{CUSTOM_ARGS}: {key} is given twice")
        found[key] = _parsed(split_path(path), value)
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
    path, at, value = pair.partition("@" if "@" in pair else "=")
    if not path or not at or "@" in value:
        raise UsageError(f"{CUSTOM_ARGS}: found {pair!r}, {FORM}")
    return path, value


def _parsed(path: Path, text: str) -> object:
    """Read a value for a key; where classes share its name, for the first that accepts it."""
    name = join_path(path)
    if name in NOT_HERE:
        raise UsageError(f"{CUSTOM_ARGS}: {name} cannot be set here")
    in_file = path[1:] if path[:2] == ("eval_settings", "data_loader") else path
    found = [(at, key) for at, key in leaves(Key(Section(File))) if _is_below(at, in_file)]
    nodes = [key.node for at, key in found if len(at) == len(in_file)]
    kinds = [node for node in [*nodes, accepted(in_file)] if isinstance(node, Kind)]
    kinds = [kind for kind in kinds if kind is not MAPPING]
    if found and not kinds:
        raise UsageError(f"{CUSTOM_ARGS}: {name} is a section, expected one of the keys in it")
    if not kinds:
        known = [join_path(place) for place in all_keys().values()]
        raise UsageError(f"{CUSTOM_ARGS}: unknown key {name!r}{nearest(name, known)}")
    values = [kind.parse(text) for kind in kinds]
    fitting = [value for kind, value in zip(kinds, values, strict=True) if kind.accepts(value)]
    return [*fitting, *values][0]


def _is_below(place: Path, path: Path) -> bool:
    """Return whether a path means a key or a section that the key is in."""
    pairs = zip(place, path, strict=False)
    return len(path) <= len(place) and all(one in (ANY, other) for one, other in pairs)
