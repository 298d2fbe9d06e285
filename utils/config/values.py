"""The kinds of values that configurations alone have."""

from __future__ import annotations

from pathlib import PurePosixPath

from utils.config.tables import DATASETS, METRICS, table
from utils.errors import nearest
from utils.kinds import Kind, is_text, texts

FEATURE_SUFFIXES = (".hickle", ".pkl", ".pickle")
AGGREGATES = ("avg", "max", "ent", "std")
TOKENS = "vlad"
TASKS = ("v2t", "t2v")


def path_below(folder: str, *suffixes: str) -> Kind:
    """Accept relative paths that stay below the folder they are relative to."""

    def accepts(value: object) -> bool:
        if not isinstance(value, str) or not is_text(value):
            return False
        path = PurePosixPath(value)
        inside = not path.is_absolute() and ".." not in path.parts and path.parts != ()
        return inside and (not suffixes or path.suffix in suffixes)

    ending = f" ending in {' or '.join(suffixes)}" if suffixes else ""
    return Kind(f"a relative path below {folder}{ending}", accepts)


def _is_name(value: object) -> bool:
    fits = isinstance(value, str) and (value == "" or is_text(value))
    return fits and value not in (".", "..") and not set(value) & set("/\\") and _is_short(value)  # type: ignore[arg-type,call-overload]


def _is_short(name: str) -> bool:
    return len(name.encode(errors="replace")) <= 255


def _metrics() -> tuple[str, ...]:
    return tuple(f"val_{task}_metrics_{name}" for task in TASKS for name in table(METRICS)())


def _split_monitor(value: object) -> tuple[str, str]:
    words = ("off" if value is False else value).split() if isinstance(value, str | bool) else []  # type: ignore[union-attr]
    return (words[0] if words else "", " ".join(words[1:]))


def _is_monitor(value: object) -> bool:
    if value is False or value == "off":  # YAML reads a bare off as false
        return True
    mode, metric = _split_monitor(value) if isinstance(value, str) else ("", "")
    return mode in ("max", "min") and metric in _metrics()


def _monitor_hint(value: object) -> str:
    mode, metric = _split_monitor(value) if isinstance(value, str) else ("", "")
    if mode in ("max", "min"):
        return nearest(metric, _metrics())
    return nearest(mode, ("max", "min", "off")) if mode else ""


def _is_temporal(value: object) -> bool:
    parts = value.split("-") if isinstance(value, str) else []
    averages = bool(parts) and set(parts) <= set(AGGREGATES) and len(set(parts)) == len(parts)
    return value == TOKENS or averages


NAME = Kind("a printable name without slashes, at most 255 bytes", _is_name)
FEATURE_FILE = path_below("root_feat_folder", *FEATURE_SUFFIXES)
LIST_FILE = path_below("root_feat_folder")
MASKS_FILE = path_below("root_feat_folder", ".pkl", ".pickle")
DROPPED_NAMES = texts(may_be_empty=True, or_text=True)
MONITOR = Kind(
    '"off", or "max" or "min" and a metric such as val_t2v_metrics_geometric_mean_R1-R5-R10',
    _is_monitor,
    _split_monitor,
    hint=_monitor_hint,
)
TEMPORAL = Kind(
    f'"{TOKENS}" for tokens, or some of {", ".join(AGGREGATES)} joined by -',
    _is_temporal,
    hint=lambda value: nearest(value, (TOKENS, *AGGREGATES)) if isinstance(value, str) else "",
)
LAYOUT = Kind(
    "the class of a data set, see below",
    lambda value: isinstance(value, str) and value in table(DATASETS)(),
    hint=lambda value: nearest(value, table(DATASETS)()) if isinstance(value, str) else "",
)
