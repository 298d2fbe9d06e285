"""Which sounds there are: a folder with all that is below it, or a table that names them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from utils.errors import DataError
from utils.files import MIB, open_regular

ENDINGS = frozenset(
    """.aif .aifc .aiff .au .avr .caf .flac .htk .iff .mp1 .mp2 .mp3 .nist .oga .ogg .opus .paf .pvf
    .rf64 .sd2 .sds .sf .snd .sph .svx .voc .w64 .wav .wave .wve .xi""".split()  # noqa: SIM905
)
"""Of files that libsndfile reads."""
OTHER_ENDINGS = frozenset(
    ".3gp .aac .ac3 .amr .ape .m4a .mka .mp4 .webm .wma .wv".split()  # noqa: SIM905
)
"""Of sounds that it does not read: listed all the same, so that nobody misses them unawares."""
LARGEST_TABLE = 512 * MIB
FILE_COLUMN = "file"


class Sound(NamedTuple):
    """A recording: `name` is its path below the folder it was found in, with "/" between."""

    name: str
    path: Path


class Table(NamedTuple):
    """A csv file: the names of its columns, and its rows with the line that each begins at."""

    columns: list[str]
    rows: list[tuple[int, list[str]]]


def list_sounds(place: str | Path) -> list[Sound]:
    """Return the sounds of a folder (and folders below it), or of a csv with a column `file`.

    Names are in alphabetical order for a folder, in the table's order for a csv, whose files are
    looked for beside it. Raises DataError when there are none, or a name cannot be one of a clip.
    """
    place = Path(place)
    if place.is_dir():
        sounds = sorted(_below(place))
        if not sounds:
            raise DataError(
                f"{place}: holds no sounds; expected files such as .wav, .flac, .ogg or .mp3 in it "
                "or below it"
            )
    elif place.suffix.lower() in (".csv", ".tsv"):
        sounds = [Sound(name, place.parent / name) for name in _files_of(place)]
    elif place.exists():
        raise DataError(f"{place}: is neither a folder nor a .csv; give the folder of the sounds")
    else:
        raise DataError(f"{place} is missing; give a folder of sounds, or a .csv that names them")
    for sound in sounds:
        check_name(sound.name, place)
    return sounds


def check_name(name: str, place: Path) -> None:
    """Raise DataError for a name that the lists and features of a data set cannot hold."""
    if any(letter in name for letter in "\\\n\r\0") or not name.strip():
        raise DataError(
            f"{place}: the name {name!r} has a backslash, a line break or nothing in it, which a "
            "data set cannot hold; rename the file (in a table, write / between folders)"
        )


def refuse_outside(name: str, place: str) -> None:
    """Raise DataError naming `place` for a name that leads out of the folder of the sounds."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(
            f"{place}: {name!r} leads out of the folder of the sounds; give paths below it"
        )


def read_table(path: Path) -> Table:
    """Read a csv (or tsv) of text in UTF-8: quoted fields, any line ends, a byte order mark.

    Raises DataError naming the line for a row of another length, and for anything but text.
    """
    with open_regular(path) as file:
        content = file.read(LARGEST_TABLE + 1)
    if len(content) > LARGEST_TABLE:
        raise DataError(f"{path}: is larger than {LARGEST_TABLE // MIB} MiB; split it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8, in spreadsheets "
            '"CSV UTF-8"'
        ) from None
    if "\0" in text:
        raise DataError(f"{path}: holds NUL characters; save it as UTF-8")
    header, _, _ = text.partition("\n")
    marks = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=marks, strict=True)
    try:
        line = 1
        for row in reader:
            if any(field.strip() for field in row):
                rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}; mend the quotes") from None
    if not rows:
        raise DataError(f"{path}: is empty; expected a first line with the names of the columns")
    columns = [name.strip() for name in rows[0][1]]
    for line, row in rows[1:]:
        if len(row) > len(columns) and any(field.strip() for field in row[len(columns) :]):
            raise DataError(
                f"{path}: line {line} has {len(row)} fields, the first line {len(columns)}; put "
                "fields with a comma into quotes"
            )
    return Table(columns, [(line, row[: len(columns)]) for line, row in rows[1:]])


def column_of(table: Table, name: str, path: Path) -> int:
    """Return the index of a column, whatever its capitals; DataError when it is not there."""
    lower = [column.lower() for column in table.columns]
    if lower.count(name) != 1:
        found = ", ".join(repr(column) for column in table.columns)
        raise DataError(
            f"{path}: {lower.count(name)} columns are called {name!r} (found: {found}); expected "
            f"one; write the names of the columns into the first line"
        )
    return lower.index(name)


def _below(folder: Path) -> Iterator[Sound]:
    """Yield the sounds below a folder; hidden ones and folders behind links are left out."""
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            if file.startswith("."):
                continue
            if Path(file).suffix.lower() in ENDINGS | OTHER_ENDINGS:
                path = Path(here, file)
                yield Sound(path.relative_to(folder).as_posix(), path)


def _files_of(path: Path) -> list[str]:
    """Return the column `file` of a csv; DataError when a file comes twice."""
    table = read_table(path)
    index = column_of(table, FILE_COLUMN, path)
    lines: dict[str, int] = {}
    for line, row in table.rows:
        name = row[index].strip() if index < len(row) else ""
        if not name:
            raise DataError(f"{path}: line {line} names no file")
        if name in lines:
            raise DataError(f"{path}: line {line}: {name!r} came before, in line {lines[name]}")
        refuse_outside(name, f"{path}: line {line}")
        lines[name] = line
    if not lines:
        raise DataError(f"{path}: names no files below its first line")
    return list(lines)
