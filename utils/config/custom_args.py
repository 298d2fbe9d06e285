"""The --custom_args of a command line: settings by dotted path, and the tags they give a run."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from utils.config.build import all_keys
from utils.config.released import accepted
from utils.config.sections import File
from utils.declared import ANY, Key, Section, leaves
from utils.errors import UsageError, nearest
from utils.kinds import MAPPING, Kind, split_list
from utils.problems import CUSTOM_ARGS, Path, join_path, split_path

FORM = "expected key@value or key=value, several joined by +"
NOT_HERE = ("inherit_from", "name")
WORDS = {"true": True, "false": False, "null": None, "none": None}

_UNSAFE_IN_A_NAME = re.compile(r"[^\w.-]|\.{2,}")


def parse_custom_args(text: str) -> dict[str, object]:
    """Read `k.k@v+k@v` or `k.k=v+k=v` into dotted path -> value of the key's type.

    A dot inside a key is written `_.`; lists are comma-separated, and `audio,` is a list of one.
    Values that do not fit are left as text, for the check of the whole configuration to report.
    """
    found: dict[str, object] = {}
    for path, value in _pairs(text):
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
    parts = [
        part
        for path, value in _pairs(text)
        for part in (*path.replace("_.", "--").split(".")[-2:], value.replace(",", "--"))
    ]
    return "".join("-" + _UNSAFE_IN_A_NAME.sub("-", part) for part in parts)


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the value of each custom argument."""
    for pair in text.split("+") if text else ():
        path, at, value = pair.partition("@" if "@" in pair else "=")
        if not path or not at or "@" in value:
            raise UsageError(f"{CUSTOM_ARGS}: found {pair!r}, {FORM}")
        yield path, value


def _parsed(path: Path, text: str) -> object:
    """Read a value for a key, which several classes may have."""
    name = join_path(path)
    if name in NOT_HERE:
        raise UsageError(f"{CUSTOM_ARGS}: {name} cannot be set here")
    in_file = path[1:] if path[:2] == ("eval_settings", "data_loader") else path
    found = [(at, key) for at, key in leaves(Key(Section(File))) if _is_below(at, in_file)]
    nodes = [*(key.node for at, key in found if len(at) == len(in_file)), accepted(in_file)]
    kinds = [node for node in nodes if isinstance(node, Kind) and node is not MAPPING]
    if found and not kinds:
        raise UsageError(f"{CUSTOM_ARGS}: {name} is a section, expected one of the keys in it")
    if not kinds:
        known = [join_path(place) for place in all_keys().values()]
        raise UsageError(f"{CUSTOM_ARGS}: unknown key {name!r}{nearest(name, known)}")
    fitting = (value for value in _readings(text) if any(kind.accepts(value) for kind in kinds))
    return next(fitting, text)


def _readings(text: str) -> list[object]:
    """Return the values that a text can mean; the first of them that a key accepts is meant."""
    plain, words = _plain(text), split_list(text)
    lists = [[_plain(word) for word in words], words]
    return [*([] if plain is text else [plain]), *lists, text]


def _plain(text: str) -> object:
    """Return the number, switch or null that a text is; else the text."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def _is_below(place: Path, path: Path) -> bool:
    """Return whether a path means a key or a section that the key is in."""
    pairs = zip(place, path, strict=False)
    return len(path) <= len(place) and all(one in (ANY, other) for one, other in pairs)
