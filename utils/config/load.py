"""Load a configuration: read, merge, set, check, build."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from utils.config.build import Builder
from utils.config.check import check_keys
from utils.config.custom_args import FLAG, custom_tag, parse_custom_args
from utils.config.files import Merged, find_config, label_of, merge_dict, read_merged
from utils.config.kinds import Place
from utils.config.problems import OVERRIDES, Problems
from utils.config.schema import SCHEMA, TREE, Key, Tree, entry_below, split_path
from utils.config.sections import Config

DATA = "data"
"""The folder that --data_dir replaces where a place starts with it."""

LONGEST_NAME = 200


def load_config(
    path: str | Path,
    overrides: Mapping[str, object] | None = None,
    *,
    data_dir: str | Path | None = None,
    custom_args: str = "",
    tag: str = "",
) -> Config:
    """Load a configuration file (JSON or YAML) with all it inherits from.

    `custom_args` is the text of --custom_args, which also adds to the name of the run; `overrides`
    then sets keys by dotted path (a dot inside a key is written `_.`) and leaves the name alone;
    `tag` is added behind it. `data_dir` replaces the leading `data` of every place.
    Raises ConfigError with every mistake found, UsageError for custom arguments of no known key.
    """
    file = find_config(path)
    loader = _Loader(read_merged(file), label_of(file), file)
    return loader.load(overrides or {}, data_dir, custom_args, tag)


def config_from_dict(
    raw: Mapping[str, Any],
    path: str | Path,
    overrides: Mapping[str, object] | None = None,
    *,
    data_dir: str | Path | None = None,
) -> Config:
    """Make a configuration of a dict, as released checkpoints carry one.

    `path` is the file it came from: the name in messages, and the run's where `raw` has none.
    """
    file = Path(path)
    loader = _Loader(merge_dict(raw, label_of(file), file.parent), label_of(file), file)
    return loader.load(overrides or {}, data_dir, "", "")


class _Loader:
    def __init__(self, merged: Merged, label: str, file: Path) -> None:
        self._merged = merged
        self._label = label
        self._file = file

    def load(
        self,
        overrides: Mapping[str, object],
        data_dir: str | Path | None,
        custom_args: str,
        tag: str,
    ) -> Config:
        self._set(parse_custom_args(custom_args), FLAG)
        self._set(overrides, OVERRIDES)
        raw = self._merged.values
        if data_dir is not None:
            _move_places(raw, data_dir)
        raw["name"] = self._name(raw.get("name"), custom_tag(custom_args) + tag)
        problems = Problems(self._label, self._merged.origins)
        config = self._build(raw, problems)
        evaluation = self._build_evaluation(raw, problems)
        problems.raise_if_any()
        if config is None:
            raise RuntimeError(f"{self._label}: was neither built nor refused")
        return dataclasses.replace(config, evaluation=evaluation)

    def _set(self, values: Mapping[str, object], label: str) -> None:
        for dotted, value in values.items():
            *sections, last = split_path(dotted)
            layer: dict[str, Any] = {last: str(value) if isinstance(value, PurePath) else value}
            for section in reversed(sections):
                layer = {section: layer}
            self._merged.add(layer, label)

    def _name(self, given: object, tag: str) -> object:
        """Add the tag to the name; a name that is no text is left for the check to report."""
        name = name_of(self._file) if given in (None, "") else given
        return shortened(name + tag) if isinstance(name, str) else name

    def _build(self, raw: dict[str, Any], problems: Problems) -> Config | None:
        check_keys(raw, problems)
        builder = Builder(raw, problems, self._file.parent)
        return builder.build(str(self._file), str(raw["name"]))

    def _build_evaluation(self, raw: dict[str, Any], problems: Problems) -> Config | None:
        """Build with `eval_settings` merged over; what only then goes wrong is their mistake."""
        settings = raw.get("eval_settings")
        if not settings or problems.at(("eval_settings",)):
            return None
        merged = Merged()
        merged.add(raw, self._label)
        merged.add({key: value for key, value in settings.items() if key != "tester"}, self._label)
        tester = settings.get("tester", {})
        merged.add(
            {"trainer": {key: value for key, value in tester.items() if value is not None}},
            self._label,
        )
        alone = Problems(self._label)
        config = self._build(merged.values, alone)
        for path, message in alone.found:
            if (path, message) not in problems.found:
                problems.add(("eval_settings", *path), message)
        return config


def name_of(file: Path) -> str:
    """Return the name of a run: that of the folder below saved/models, or `<folder>-<file>`."""
    parts = file.resolve().parts
    for i in range(len(parts) - 3, 0, -1):
        if parts[i - 1 : i + 1] == ("saved", "models"):
            return parts[i + 1]
    return f"{file.resolve().parent.name}-{file.stem}"


def shortened(name: str) -> str:
    """Cut a name too long for a folder and mark it by a digest, so that it stays distinct."""
    encoded = name.encode(errors="replace")
    if len(encoded) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    kept = encoded[: LONGEST_NAME - len(digest) - 1].decode(errors="ignore")
    return f"{kept}-{digest}"


def _move_places(raw: dict[str, Any], data_dir: str | Path) -> None:
    """Replace the leading `data` of every place, those left to their defaults included."""
    _move_below(raw, TREE, data_dir)
    for path in (("data_loader", "args", "packed_dir"), ("trainer", "save_dir")):
        section: Any = raw
        for part in path[:-1]:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict):
            default = SCHEMA[".".join(path)].default
            section.setdefault(path[-1], _moved(str(default), data_dir))


def _move_below(section: dict[str, Any], tree: Tree, data_dir: str | Path) -> None:
    for name, value in section.items():
        entry = entry_below(tree, name)
        if isinstance(entry, Key) and isinstance(entry.kind, Place) and isinstance(value, str):
            section[name] = _moved(value, data_dir)
        elif isinstance(value, dict) and isinstance(entry, dict):
            _move_below(value, entry, data_dir)


def _moved(place: str, data_dir: str | Path) -> str:
    first, *rest = PurePath(place).parts or ("",)
    return str(PurePath(data_dir, *rest)) if first == DATA else place
