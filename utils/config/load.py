"""Load a configuration: read, merge, set, check, build."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, cast

from utils.config.build import build
from utils.config.configuration import Config
from utils.config.custom_args import custom_tag, parse_custom_args
from utils.config.files import Merged, find_config, label_of
from utils.config.sections import File
from utils.declared import Key, Section, leaves
from utils.kinds import PLACE
from utils.problems import CUSTOM_ARGS, OVERRIDES, Problems, split_path
from utils.problems import Path as KeyPath

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
    merged = Merged()
    merged.add_file(file)
    return _load(merged, file, overrides, data_dir, custom_args, tag)


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
    merged = Merged()
    merged.add_heir(raw, label_of(file), file.parent)
    return _load(merged, file, overrides, data_dir)


def _load(
    merged: Merged,
    file: Path,
    overrides: Mapping[str, object] | None,
    data_dir: str | Path | None,
    custom_args: str = "",
    tag: str = "",
) -> Config:
    label, raw = label_of(file), merged.values
    _set(merged, parse_custom_args(custom_args), CUSTOM_ARGS)
    _set(merged, overrides or {}, OVERRIDES)
    if data_dir is not None:
        _move_places(raw, data_dir)
    name = name_of(file) if raw.get("name") in (None, "") else raw["name"]
    # A name that is no text is left for the check to report.
    tag = custom_tag(custom_args) + tag
    raw["name"] = shortened(name + tag) if isinstance(name, str) else name
    problems = Problems(label, merged.origins)
    config = build(raw, problems, file)
    evaluation = _evaluation(raw, problems, file)
    problems.raise_if_any()
    if config is None:
        raise RuntimeError(f"{label}: was neither built nor refused")
    return dataclasses.replace(config, evaluation=evaluation)


def _set(merged: Merged, values: Mapping[str, object], label: str) -> None:
    """Lay values by dotted path over the files, all of them as one layer."""
    layer = Merged()
    for dotted, value in values.items():
        nested: object = str(value) if isinstance(value, PurePath) else value
        for name in reversed(split_path(dotted)):
            nested = {name: nested}
        layer.add(cast("dict[str, Any]", nested), label)
    merged.add(layer.values, label)


def _evaluation(raw: dict[str, Any], problems: Problems, file: Path) -> Config | None:
    """Build with `eval_settings` merged over; further mistakes are noted as theirs."""
    settings = raw.get("eval_settings")
    if not settings or problems.at(("eval_settings",)):
        return None
    tester = {k: v for k, v in (settings.get("tester") or {}).items() if v is not None}
    merged = Merged()
    for layer in (raw, {"data_loader": settings.get("data_loader") or {}, "trainer": tester}):
        merged.add(layer, problems.source)
    alone = Problems(problems.source)
    config = build(merged.values, alone, file)
    for path, message in alone.found:
        if (path, message) not in problems.found:
            problems.add(("eval_settings", *path), message)
    return config


def name_of(file: Path) -> str:
    """Return the name of a run: that of the folder below saved/models, or `<folder>-<file>`."""
    path = file.resolve()
    below_models = re.search(r".*/saved/models/([^/]+)/", path.as_posix())
    return below_models[1] if below_models else f"{path.parent.name}-{file.stem}"


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
    for path, key in leaves(Key(Section(File))):
        if PLACE in key.notes:
            _move(raw, path, key.default, data_dir)
            _move(raw.get("eval_settings"), path, None, data_dir)


def _move(section: Any, path: KeyPath, default: object, data_dir: str | Path) -> None:  # noqa: ANN401
    for name in path[:-1]:
        section = section.get(name) if isinstance(section, dict) else None
    place = section.get(path[-1], default) if isinstance(section, dict) else None
    if isinstance(place, str):
        first, *rest = PurePath(place).parts or ("",)
        section[path[-1]] = str(PurePath(data_dir, *rest)) if first == DATA else place
