"""The kinds of values that configurations alone have."""

from __future__ import annotations

from pathlib import PurePosixPath

from utils.config import tables
from utils.kinds import Kind, Range, checked, is_text, nullable, texts, whole

AGGREGATES = ("avg", "max", "ent", "std")
TOKENS = "vlad"
TASKS = ("v2t", "t2v")
LONGEST_NAME = 255


def path_below(folder: str, *suffixes: str) -> Kind:
    """Accept relative paths that stay below the folder they are relative to."""

    def convert(value: object) -> object:
        path = PurePosixPath(value if isinstance(value, str) and is_text(value) else "/")
        inside = not path.is_absolute() and ".." not in path.parts and path.parts != ()
        return checked(value, inside and (not suffixes or path.suffix in suffixes))

    ending = f" ending in {' or '.join(suffixes)}" if suffixes else ""
    return Kind(f"a relative path below {folder}{ending}", convert)


def _name(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError
    fits = value.isprintable() and value not in (".", "..") and not set(value) & set("/\\")
    return checked(value, fits and len(value.encode(errors="replace")) <= LONGEST_NAME)


def _monitor(value: object) -> tuple[str, str]:
    if value is False or value == "off":  # YAML reads a bare off as false
        return ("off", "")
    mode, _, metric = value.partition(" ") if isinstance(value, str) else ("", "", "")
    checked(mode, mode in ("max", "min"), ("max", "min", "off"))
    known = [f"val_{task}_metrics_{name}" for task in TASKS for name in tables.METRICS()]
    return (mode, str(checked(metric, metric in known, known)))


def _temporal(value: object) -> object:
    parts = value.split("-") if isinstance(value, str) else []
    averages = bool(parts) and set(parts) <= set(AGGREGATES) and len(set(parts)) == len(parts)
    return checked(value, averages or value == TOKENS, (TOKENS, *AGGREGATES))


def _layout(value: object) -> object:
    known = tables.DATASETS()
    return checked(value, isinstance(value, str) and value in known, known)


NAME = Kind(f"a printable name without slashes, at most {LONGEST_NAME} bytes", _name)
BELOW_DATA = path_below("data_dir")
FEATURE_FILE = path_below("root_feat_folder", ".hickle", ".pkl", ".pickle")
LIST_FILE = path_below("root_feat_folder")
MASKS_FILE = path_below("root_feat_folder", ".pkl", ".pickle")
NULL_IS_0 = nullable(whole(Range()), 0)
DROPPED_NAMES = texts(may_be_empty=True, or_text=True)
MONITOR = Kind(
    '"off", or "max" or "min" and a metric such as val_t2v_metrics_geometric_mean_R1-R5-R10',
    _monitor,
)
TEMPORAL = Kind(f'"{TOKENS}" for tokens, or some of {", ".join(AGGREGATES)} joined by -', _temporal)
LAYOUT = Kind("the class of a data set, see below", _layout)
