"""Read configuration files and merge those they inherit from, remembering the file of each key."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from utils.config.published_mmt import from_published_mmt, is_published_mmt
from utils.errors import ConfigError, DataError, nearest
from utils.files import read_json
from utils.kinds import shown

ROOT = Path(__file__).resolve().parents[2]
"""The repository: what `inherit_from` and other paths inside a configuration are relative to."""

MOST_BYTES = 1 << 20
MOST_FILES = 100
MOST_DEPTH = 100
YAML_SUFFIXES = (".yaml", ".yml")

MERGED_SECTIONS = {"experts", "arch", "data_loader", "optimizer", "loss", "trainer"}
"""A file that has them all is whole: it can do without the files it inherits from."""

OF_A_CLASS = (("arch",), ("loss",))
"""Sections whose arguments belong to a class: a layer with another class starts without them."""

_logger = logging.getLogger(__name__)


@dataclass
class Merged:
    """Merged values, and for the path of every key the file that gave it last."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[tuple[str, ...], str] = field(default_factory=dict)
    layers: dict[tuple[str, ...], int] = field(default_factory=dict)
    """The number of the layer that gave each key last; for a type, that changed it."""
    _labels: list[str] = field(default_factory=list)

    def add(self, layer: Mapping[str, Any], label: str) -> None:
        """Lay one more file over what is there: dicts merge, everything else replaces."""
        if self._labels[-1:] != [label]:
            self._labels.append(label)
        self._merge(self.values, layer, label, ())

    def _merge(
        self, target: dict[str, Any], layer: Mapping[str, Any], label: str, path: tuple[str, ...]
    ) -> None:
        if len(path) > MOST_DEPTH:
            raise ConfigError(f"{label}: is nested too deeply")
        if path in OF_A_CLASS and layer.get("type", target.get("type")) != target.get("type"):
            target.pop("args", None)
        for name, value in layer.items():
            if not isinstance(name, str):
                raise ConfigError(f"{label}: the key {shown(name)} is not text")
            inner = (*path, name)
            self.origins[inner] = label
            if name != "type" or target.get(name) != value:
                self.layers[inner] = len(self._labels)
            if isinstance(value, Mapping):
                if not isinstance(target.get(name), dict):
                    target[name] = {}
                self._merge(target[name], value, label, inner)
            else:
                target[name] = copy.deepcopy(value)


def read_merged(path: Path) -> Merged:
    """Read a configuration and all it inherits from."""
    merged = Merged()
    _Reader().add_file(path, merged, ())
    return merged


def merge_dict(raw: Mapping[str, Any], label: str, folder: Path) -> Merged:
    """Merge a configuration given as a dict over the files it inherits from."""
    merged = Merged()
    _Reader().add_layer(raw, label, folder, merged, ())
    return merged


def find_config(path: str | Path) -> Path:
    """Find a configuration a person named: as typed, or below the repository."""
    typed = Path(path)
    for place in (typed, ROOT / typed):
        if _is_file(place):
            return place
    raise ConfigError(f"{path}: there is no such file{_nearest_config(str(path))}")


def label_of(path: Path) -> str:
    """Return how a file is called in messages: relative to the repository where it is inside."""
    resolved = path.resolve()
    return str(resolved.relative_to(ROOT)) if resolved.is_relative_to(ROOT) else str(path)


def resolve_inside(named: str, folder: Path) -> Path | None:
    """Resolve a path written inside a configuration.

    Relative ones start at the repository; absolute ones must lie inside it or inside `folder`,
    the configuration's own. None: the path leads elsewhere.
    """
    try:
        path = (ROOT / named).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a NUL
        return None
    allowed = (ROOT, folder.resolve())
    return path if any(path.is_relative_to(place) for place in allowed) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a NUL
        return False


def _nearest_config(name: str) -> str:
    known = [str(place.relative_to(ROOT)) for place in (ROOT / "configs").rglob("*.json")]
    return nearest(name, known)


class _Reader:
    """Follows `inherit_from` through files, each layer below the one that names it."""

    def __init__(self) -> None:
        self._files_left = MOST_FILES

    def add_file(self, path: Path, merged: Merged, heirs: tuple[Path, ...]) -> None:
        self._files_left -= 1
        if self._files_left < 0:
            raise ConfigError(f"{label_of(heirs[0])}: inherits from more than {MOST_FILES} files")
        layer = read_config_file(path)
        if heirs:
            layer.pop("name", None)
        self.add_layer(layer, label_of(path), path.parent, merged, (*heirs, path.resolve()))

    def add_layer(
        self,
        layer: Mapping[str, Any],
        label: str,
        folder: Path,
        merged: Merged,
        heirs: tuple[Path, ...],
    ) -> None:
        if is_published_mmt(layer):
            layer = from_published_mmt(layer, label)
        for parent in self._parents(layer, label, folder):
            if parent in heirs:
                chain = " -> ".join(label_of(place) for place in (*heirs, parent))
                raise ConfigError(f"{label}: inherit_from leads back to itself: {chain}")
            self.add_file(parent, merged, heirs)
        merged.add({key: value for key, value in layer.items() if key != "inherit_from"}, label)

    def _parents(self, layer: Mapping[str, Any], label: str, folder: Path) -> list[Path]:
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
        if absent and layer.keys() >= MERGED_SECTIONS:
            _logger.warning(
                "%s: inherit_from names %s, which is not here; the file is complete without it",
                label,
                ", ".join(label_of(parent) for parent in absent),
            )
            return []
        if absent:
            name = label_of(absent[0])
            raise ConfigError(f"{label}: inherit_from: {name} is not there{_nearest_config(name)}")
        return parents


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
            # A few lines of aliases can stand for more values than memory holds.
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


def _refused(what: str, where: yaml.Mark) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, what, where)


# YAML 1.1 takes 1e-3 for text, which it is not meant for.
_StrictYaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _read_yaml(path: Path) -> object:
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{label_of(path)}: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{label_of(path)}: is larger than {MOST_BYTES} bytes")
    try:
        loader = _StrictYaml(content)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        fault = " ".join(str(error).split())
        raise ConfigError(f"{label_of(path)}: cannot be read as YAML: {fault}") from error
    except RecursionError as error:
        raise ConfigError(f"{label_of(path)}: is nested too deeply") from error
