"""Check a merged configuration against the schema, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from utils.config.kinds import shown
from utils.config.problems import Path, Problems
from utils.config.schema import (
    EXPERT,
    OPTIONAL_SECTIONS,
    REQUIRED,
    TREE,
    Key,
    Tree,
    entry_at,
    entry_below,
    join_path,
)
from utils.errors import nearest, nearest_word

TABLE_OF_EXPERTS = ("data_loader", "args", "feat_aggregation")


Value = Any
"""What a key holds: its kind says of which type."""


def check_keys(raw: Mapping[str, Any], problems: Problems) -> None:
    """Note every unknown key, wrong value and missing key of a merged configuration."""
    _check_section(raw, TREE, (), problems)
    for path in _required_paths(TREE, ()):
        if path[0] in OPTIONAL_SECTIONS and not raw.get(path[0]):
            continue
        if not _present(raw, path) and not problems.at(path):
            problems.add(path, f"missing, expected {_key_at(path).kind.expected}")


def value_at(raw: Mapping[str, Any], path: Path) -> Value:
    """Return the checked value at a path in its one type, or the key's default."""
    key = _key_at(path)
    place: Any = raw
    for part in path:
        if not isinstance(place, Mapping) or part not in place:
            return None if key.default is None else key.kind.normal(key.default)
        place = place[part]
    return key.kind.normal(place)


def _check_section(section: object, tree: Tree, path: Path, problems: Problems) -> None:
    if section is None and path and path[0] in OPTIONAL_SECTIONS and len(path) == 1:
        return
    if not isinstance(section, Mapping):
        problems.add(path, f"found {shown(section)}, expected a section with keys")
        return
    for name, value in section.items():
        inner = (*path, name)
        entry = entry_below(tree, name)
        if entry is None:
            hint = "" if problems.are_many else _suggestion(name, tree, path)
            problems.add(inner, f"unknown key{hint}")
        elif isinstance(entry, Key):
            mistake = entry.kind.problem(value)
            if mistake is not None:
                problems.add(inner, mistake)
        elif path == TABLE_OF_EXPERTS:
            _check_expert(value, entry, inner, section, problems)
        else:
            _check_section(value, entry, inner, problems)


def _check_expert(
    value: object, tree: Tree, path: Path, table: Mapping[str, Any], problems: Problems
) -> None:
    """Check one expert's entry; a misspelt name makes an entry that lacks all else."""
    _check_section(value, tree, path, problems)
    if isinstance(value, Mapping) and "temporal" not in value:
        expected = _key_at((*path, "temporal")).kind.expected
        hint = "" if problems.are_many else nearest(path[-1], _whole_experts(table))
        problems.add(path, f"temporal is missing, expected {expected}{hint}")


def _whole_experts(table: Mapping[str, Any]) -> list[str]:
    return [
        name for name, entry in table.items() if isinstance(entry, Mapping) and "temporal" in entry
    ]


def _suggestion(name: str, tree: Tree, path: Path) -> str:
    """Name the known key nearest to an unknown one: in its own section, or the same elsewhere."""
    near = nearest(name, tree)
    if not near:
        others = {elsewhere[-1]: elsewhere for elsewhere in _all_paths(TREE, ())}
        word = nearest_word(name, others)
        near = "" if word is None else f"; did you mean {join_path(others[word])!r}?"
    known = sorted(key for key, entry in tree.items() if _has_effect(entry))
    return f"{near} (known: {', '.join(known)})"


def _has_effect(entry: Tree | Key) -> bool:
    return entry.has_effect if isinstance(entry, Key) else True


def _all_paths(tree: Tree, path: Path) -> Iterator[Path]:
    for name, entry in tree.items():
        if isinstance(entry, Key):
            yield (*path, name)
        elif (*path, name) != ("eval_settings", "data_loader"):
            yield from _all_paths(entry, (*path, name))


def _required_paths(tree: Tree, path: Path) -> Iterator[Path]:
    for inner in _all_paths(tree, path):
        if EXPERT not in inner and _key_at(inner).default is REQUIRED:
            yield inner


def _present(raw: Mapping[str, Any], path: Path) -> bool:
    place: Any = raw
    for part in path:
        if not isinstance(place, Mapping) or part not in place:
            return False
        place = place[part]
    return True


def _key_at(path: Path) -> Key:
    entry = entry_at(path)
    if not isinstance(entry, Key):
        raise KeyError(join_path(path))
    return entry
