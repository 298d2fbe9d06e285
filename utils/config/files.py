"""Read configuration files and merge those they inherit from, remembering the file of each key."""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from utils.config.published_mmt import from_published_mmt, is_published_mmt
from utils.config.sections import File
from utils.declared import OneOf, keys_of
from utils.errors import ConfigError, DataError, nearest
from utils.files import read_json, read_text
from utils.kinds import shown

ROOT = Path(__file__).resolve().parents[2]
"""The repository: what `inherit_from` and other paths inside a configuration are relative to."""

MOST_BYTES = 1 << 20
MOST_FILES = 100
MOST_DEPTH = 100
YAML_SUFFIXES = (".yaml", ".yml")

MERGED_SECTIONS = {"experts", "arch", "data_loader", "optimizer", "loss", "trainer"}
"""A file that has them all is whole: it can do without the files it inherits from."""

BEGUN_ANEW = ("arch", "loss")
"""Sections in which another class keeps no arguments of the one before, not even by equal names."""

_logger = logging.getLogger(__name__)


@dataclass
class Merged:
    """Merged values, and for the path of every key the file that gave it last."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[tuple[str, ...], str] = field(default_factory=dict)
    _files_left: int = MOST_FILES

    def add(self, layer: Mapping[str, Any], label: str) -> None:
        """Lay one more layer over the others: dicts merge, everything else replaces."""
        self._merge(self.values, layer, label, ())

    def _merge(
        self, target: dict[str, Any], layer: Mapping[str, Any], label: str, path: tuple[str, ...]
    ) -> None:
        if len(path) > MOST_DEPTH:
            raise ConfigError(f"{label}: is nested too deeply")
        if {"type", "args"} <= target.keys() and layer.get("type") not in (None, target["type"]):
            kept = _kept(path, layer["type"], target.pop("args"))
            target |= {"args": kept} if kept else {}
        for name, value in layer.items():
            if not isinstance(name, str):
                raise ConfigError(f"{label}: the key {shown(name)} is not text")
            inner = (*path, name)
            self.origins[inner] = label
            if isinstance(value, Mapping):
                if not isinstance(target.get(name), dict):
                    target[name] = {}
                self._merge(target[name], value, label, inner)
            else:
                target[name] = copy.deepcopy(value)

    def add_file(self, path: Path, heirs: tuple[Path, ...] = ()) -> None:
        """Read a file below those that inherit from it, which `heirs` names."""
        self._files_left -= 1
        if self._files_left < 0:
            raise ConfigError(f"{label_of(heirs[0])}: inherits from more than {MOST_FILES} files")
        layer = read_config_file(path)
        if heirs:
            layer.pop("name", None)
        self.add_heir(layer, label_of(path), path.parent, (*heirs, path.resolve()))

    def add_heir(
        self,
        layer: Mapping[str, Any],
        label: str,
        folder: Path,
        heirs: tuple[Path, ...] = (),
    ) -> None:
        """Lay a layer over the files that it inherits from."""
        if is_published_mmt(layer):
            layer = from_published_mmt(layer, label)
        for parent in _parents(layer, label, folder):
            if parent in heirs:
                chain = " -> ".join(label_of(place) for place in (*heirs, parent))
                raise ConfigError(f"{label}: inherit_from leads back to itself: {chain}")
            self.add_file(parent, heirs)
        self.add({key: value for key, value in layer.items() if key != "inherit_from"}, label)


def _kept(path: tuple[str, ...], chosen: object, args: object) -> object:
    """Return the arguments that another class keeps: where they may be shared, those it has."""
    key = keys_of(File).get(".".join(path))
    if key is None or not isinstance(key.node, OneOf) or not isinstance(args, dict):
        return args
    if path[0] in BEGUN_ANEW or not isinstance(chosen, str) or chosen not in key.node.table():
        return {}
    known = key.node.args_of(chosen)
    return {name: value for name, value in args.items() if name in known}


def _parents(layer: Mapping[str, Any], label: str, folder: Path) -> list[Path]:
    """Return the files that a layer inherits from."""
    named = layer.get("inherit_from") or ""
    if not isinstance(named, str):
        raise ConfigError(
            f"{label}: inherit_from: found {shown(named)}, expected one text of file names "
            "separated by commas"
        )
    parents: list[Path] = []
    absent: list[Path] = []
    for name in (part.strip() for part in named.split(",") if named):
        parent = resolve_inside(name, folder)
        if parent is None or not name:
            raise ConfigError(
                f"{label}: inherit_from: found {shown(name)}, expected a file inside the "
                "repository or beside the configuration"
            )
        (parents if _is_file(parent) else absent).append(parent)
    if not absent:
        return parents
    names = [label_of(parent) for parent in absent]
    if not layer.keys() >= MERGED_SECTIONS:
        hint = _nearest_config(names[0])
        raise ConfigError(f"{label}: inherit_from: {names[0]} is not there{hint}")
    _logger.warning(
        "%s: inherit_from names %s, which is not here; the file is complete without it",
        label,
        ", ".join(names),
    )
    return []


def find_config(path: str | Path) -> Path:
    """Find a configuration a person named: as typed, or below the repository."""
    typed = Path(path)
    for place in (typed, ROOT / typed):
        if _is_file(place):
            return place
    if os.path.lexists(typed):
        raise ConfigError(f"{path}: is no plain file (but a folder, a pipe or a broken link)")
    raise ConfigError(f"{path}: there is no such file{_nearest_config(str(path))}")


def label_of(path: Path) -> str:
    """Return how a file is called in messages: relative to the repository where it is inside."""
    resolved = path.resolve()
    return str(resolved.relative_to(ROOT)) if resolved.is_relative_to(ROOT) else str(path)


def resolve_inside(named: str, folder: Path) -> Path | None:
    """Resolve a path written inside a configuration.

    Relative ones start at the repository; absolute ones have to be inside it or inside `folder`,
    the configuration's own. None: the path leads elsewhere.
    """
    try:
        path = (ROOT / named).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a NUL
        return None
    allowed = (ROOT, folder.resolve())
    return path if any(path.is_relative_to(place) for place in allowed) else None


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 (False for a name too long, where pathlib fails)


def _nearest_config(name: str) -> str:
    known = [str(place.relative_to(ROOT)) for place in (ROOT / "configs").rglob("*.json")]
    return nearest(name, known)


def read_config_file(path: Path) -> dict[str, Any]:
    """Read one JSON or YAML file; duplicate keys, NaN and deep nesting are errors."""
    try:
        content = (
            _read_yaml(path)
            if path.suffix in YAML_SUFFIXES
            else read_json(path, max_bytes=MOST_BYTES)
        )
    except DataError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{label_of(path)}: found {shown(content)}, expected keys and values")
    return content


class _StrictYaml(yaml.SafeLoader):
    """Plain values only: duplicate keys, keys that are not text and aliases are refused."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            # A few lines of aliases can mean more values than memory holds.
            raise _refused("aliases are not supported", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        # `!!map` before a list brings another kind of node here, which the parent refuses.
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _refused(f"the key {shown(key)} is not text", key_node.start_mark)
            if key in seen:
                raise _refused(f"the key {shown(key)} comes twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _refused(problem: str, place: yaml.Mark) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, place)


# Numbers as people write them: YAML 1.1 takes 010 for 8, 1:30 for 90 and 1e-3 for text.
NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9]*)$",
    "tag:yaml.org,2002:float": r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$",
}
_StrictYaml.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in NUMBERS]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for number, form in NUMBERS.items():
    _StrictYaml.add_implicit_resolver(number, re.compile(form), list("-+.0123456789"))


def _read_yaml(path: Path) -> object:
    text = read_text(path, MOST_BYTES)
    try:
        return _StrictYaml(text).get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        fault = " ".join(str(error).split())
        raise ConfigError(f"{label_of(path)}: cannot be read as YAML: {fault}") from error
    except RecursionError as error:
        raise ConfigError(f"{label_of(path)}: is nested too deeply") from error
