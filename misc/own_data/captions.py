"""A table of files, captions and splits, as a person writes it in a spreadsheet."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audio.listing import (
    FILE_COLUMN,
    Table,
    check_name,
    column_of,
    read_table,
    refuse_outside,
)
from utils.errors import DataError, nearest

SPLITS = ("train", "val", "test")
SPLIT_COLUMN = "split"
SPLIT_NAMES = {
    "train": "train", "training": "train", "development": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
CAPTION = "caption"
HELD_OUT = 0.1
"""Share of the clips that validation and test have each where the table names no split."""


@dataclass(frozen=True)
class Captioned:
    """Clips in the order of the table: their captions, and their splits if the table has them."""

    captions: dict[str, list[str]]
    splits: dict[str, str]


def read_captioned(path: Path, columns: Sequence[str] = ()) -> Captioned:
    """Read a csv with columns `file`, captions and perhaps `split`.

    `columns` names those of the captions, by default all whose name begins with "caption". A file
    may come in several rows, each with captions. Raises DataError naming line and remedy.
    """
    table = read_table(path)
    file = column_of(table, FILE_COLUMN, path)
    places = _caption_columns(table, columns, path)
    lower = [column.lower() for column in table.columns]
    split = column_of(table, SPLIT_COLUMN, path) if SPLIT_COLUMN in lower else None
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for line, row in table.rows:
        fields = [field.strip() for field in row] + [""] * (len(table.columns) - len(row))
        name = fields[file]
        if not name:
            raise DataError(f"{path}: line {line} names no file")
        name = posixpath.normpath(name)  # "./a.wav" is a.wav, not another clip
        check_name(name, path)
        refuse_outside(name, f"{path}: line {line}")
        of_clip = captions.setdefault(name, [])
        for place in places:
            text = " ".join(fields[place].split())
            if text and text not in of_clip:
                of_clip.append(text)
        if split is not None:
            _note_split(splits, name, fields[split], f"{path}: line {line}")
    wordless = [name for name, texts in captions.items() if not texts]
    if wordless:
        raise DataError(
            f"{path}: {len(wordless)} files have no caption ({', '.join(wordless[:3])}); write "
            "one, or take them out of the table"
        )
    if not captions:
        raise DataError(f"{path}: names no files below its first line")
    return Captioned(captions, splits)


def split_clips(captioned: Captioned, usable: Sequence[str], seed: int = 0) -> dict[str, list[str]]:
    """Return the clips of train, val and test, those of `usable` alone, in order.

    Without a column `split`, a tenth of the clips each is drawn for val and test; clips that share
    a caption stay together, so that a test is of captions that were not trained on. Raises
    DataError when a split is too small.
    """
    kept = set(usable)
    clips = [name for name in captioned.captions if name in kept]
    splits: Mapping[str, str] = captioned.splits or _draw(captioned, clips, seed)
    found = {name: [clip for clip in clips if splits[clip] == name] for name in SPLITS}
    for name, least in (("train", 2), ("val", 1), ("test", 1)):
        if len(found[name]) < least:
            counts = ", ".join(f"{key} {len(value)}" for key, value in found.items())
            raise DataError(
                f"{len(clips)} usable clips make splits that are too small ({counts}); expected at "
                "least 2 for train and 1 for val and test each: add clips, or a column `split`"
            )
    return found


def _draw(captioned: Captioned, clips: Sequence[str], seed: int) -> dict[str, str]:
    """Draw the split of each clip, the same on every machine."""
    above: dict[str, str] = {}

    def group_of(text: str) -> str:
        while (higher := above[text]) != text:
            text = higher
        return text

    for clip in clips:
        # clips belong together when they share a caption, also by way of other clips
        texts = [text.lower() for text in captioned.captions[clip]]
        tops = [group_of(text) for text in texts if text in above] or texts[:1]
        new = (text for text in texts if text not in above)
        above.update(dict.fromkeys([*tops, *new], tops[0]))
    groups: dict[str, list[str]] = {}
    for clip in clips:
        groups.setdefault(group_of(captioned.captions[clip][0].lower()), []).append(clip)
    order = sorted(groups, key=lambda text: hashlib.sha256(f"{seed}|{text}".encode()).digest())
    wanted = max(1, round(HELD_OUT * len(clips)))
    splits: dict[str, str] = {}
    counts = {"val": 0, "test": 0}
    for group in order:
        short = [name for name, count in counts.items() if count + len(groups[group]) <= wanted]
        name = short[0] if short else "train"
        if name in counts:
            counts[name] += len(groups[group])
        splits.update(dict.fromkeys(groups[group], name))
    return splits


def _caption_columns(table: Table, wanted: Sequence[str], path: Path) -> list[int]:
    if wanted:
        return [column_of(table, name.strip().lower(), path) for name in wanted]
    places = [
        place for place, column in enumerate(table.columns) if column.lower().startswith(CAPTION)
    ]
    if not places:
        found = ", ".join(table.columns)
        hint = nearest(CAPTION, [column.lower() for column in table.columns])
        raise DataError(
            f"{path}: no column is called caption, caption_1 and so on{hint} (found: {found}); "
            "name the columns of the captions with --captions"
        )
    return places


def _note_split(splits: dict[str, str], name: str, text: str, place: str) -> None:
    split = SPLIT_NAMES.get(text.lower())
    if split is None:
        raise DataError(f"{place}: found the split {text!r}, expected train, val or test")
    if splits.setdefault(name, split) != split:
        raise DataError(f"{place}: {name!r} is in {split}, and above in {splits[name]}")
