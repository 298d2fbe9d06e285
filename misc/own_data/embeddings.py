"""Embeddings that were made elsewhere: a file for each sound, or one table of all."""

from __future__ import annotations

import itertools
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from audio.listing import check_name
from utils.errors import DataError, UnsafeFileError, needed_by
from utils.files import map_file, open_regular, read_list
from utils.reading.hdf5 import Hdf5File, Node

ONE_EACH = (".npy", ".npz", ".h5", ".hdf5")
LARGEST_RATIO, ALWAYS_ALLOWED = 100, 64 << 20
DEEPEST = 32
FILE_COLUMNS = ("file", "clip", "name", "id")


def read_embeddings(place: Path, names: Path | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (clip, array): (D,) or (N, D) of finite float32.

    `place`: a folder with a .npy, .npz or .h5 for each sound (clip "a/b.wav" is "a/b.wav.npy" or
    "a/b.npy"); a .npz or .h5 with an array for each clip; a .npy (clips, D) whose rows `names`
    lists; a .parquet with a column `file` and one of lists, or one column of numbers each.
    Raises DataError naming file, clip and remedy.
    """
    for clip, value in _read(place, names):
        array = np.asarray(value)
        if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or not array.size:
            raise DataError(
                f"{place}: clip {clip[:200]!r}: found an array of shape {array.shape} and "
                f"{array.dtype}, expected numbers of shape (D,) or (N, D)"
            )
        check_name(clip, place)
        with np.errstate(over="ignore"):
            numbers, array = array, array.astype(np.float32)
        if numbers.dtype.kind in "iu" and (numbers != array.astype(np.float64)).any():
            raise DataError(
                f"{place}: clip {clip[:200]!r} holds whole numbers that float32 cannot; scale them"
            )
        if not np.isfinite(array).all():
            raise DataError(
                f"{place}: clip {clip[:200]!r} holds NaN or infinity; leave it out, or embed it "
                "anew"
            )
        yield clip, array


def _read(place: Path, names: Path | None) -> Iterator[tuple[str, Any]]:
    tables = {".npz": _arrays, ".h5": _of_hdf5, ".hdf5": _of_hdf5, ".parquet": _of_parquet}
    ending = place.suffix.lower()
    if place.is_dir():
        return _of_folder(place)
    if ending == ".npy":
        return _rows(place, names)
    if ending in tables:
        return tables[ending](place)
    if place.exists():
        raise DataError(
            f"{place}: embeddings are read from a folder, .npy, {', '.join(tables)}; convert it"
        )
    raise DataError(f"{place} is missing; give a folder or a file of embeddings")


def _of_folder(folder: Path) -> Iterator[tuple[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ONE_EACH)
    if not files:
        raise DataError(f"{folder}: holds no {', '.join(ONE_EACH)} files")
    for path in files:
        clip = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix.lower() == ".npy":
            yield clip, _array(path)
            continue
        reader = _arrays if path.suffix.lower() == ".npz" else _of_hdf5
        arrays = list(itertools.islice(reader(path), 2))
        if len(arrays) != 1:
            raise DataError(
                f"{path}: holds {'several arrays' if arrays else 'no array'}; in a folder, each "
                "file has the one array of its sound"
            )
        yield clip, arrays[0][1]


def _array(path: Path) -> np.ndarray:
    with open_regular(path) as file:
        try:
            array = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{path}: cannot be read as .npy ({error})") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: is a .npz; call it so")
    return array


def _rows(path: Path, names: Path | None) -> Iterator[tuple[str, Any]]:
    array = _array(path)
    if names is None:
        raise DataError(
            f"{path}: has no names of clips; give a list of them, one a line, with --names FILE"
        )
    clips = read_list(names)
    if array.ndim < 2 or len(array) != len(clips):
        raise DataError(
            f"{path}: has shape {array.shape}, but {names} has {len(clips)} names; expected one "
            "row for each"
        )
    yield from zip(clips, array, strict=True)


def _arrays(path: Path) -> Iterator[tuple[str, Any]]:
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as members:
                size = sum(member.file_size for member in members.infolist())
            if size > max(ALWAYS_ALLOWED, LARGEST_RATIO * os.fstat(file.fileno()).st_size):
                raise UnsafeFileError(
                    f"{path}: refused: unpacks to {size:,} bytes, over {LARGEST_RATIO} times its "
                    "own size; save it without compression"
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                for name in arrays.files:
                    yield name, arrays[name]
        except (ValueError, EOFError, OSError, zipfile.BadZipFile, AttributeError) as error:
            raise DataError(f"{path}: cannot be read as .npz ({error})") from None


def _of_hdf5(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield every array of a file; those in groups are called group/name."""
    try:
        with open_regular(path) as plain:
            content = memoryview(map_file(plain))
        file = Hdf5File(content, ratio=LARGEST_RATIO, free=ALWAYS_ALLOWED)
        yield from _of_group(file, file.root, "", DEEPEST)
    except DataError as error:
        raise type(error)(f"{path}: {error}") from None


def _of_group(file: Hdf5File, group: Node, above: str, depth: int) -> Iterator[tuple[str, Any]]:
    if not depth:
        raise DataError("its groups are nested too deeply")
    for name, address in file.members(group):
        node = file.node(address)
        full = above + name.decode("utf-8", "replace")
        if node.is_group:
            yield from _of_group(file, node, f"{full}/", depth - 1)
        else:
            yield full, file.array(node)


def _of_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    with needed_by(f"{path}: reading .parquet", "requirements/parquet.txt"):
        import pyarrow
        from pyarrow import parquet
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as .parquet ({error})") from None
    columns = {name.lower(): name for name in table.column_names}
    key = next((columns[name] for name in FILE_COLUMNS if name in columns), None)
    if key is None:
        raise DataError(
            f"{path}: no column is called {', '.join(FILE_COLUMNS)} (found: "
            f"{', '.join(table.column_names)}); name the column of the files so"
        )
    clips = [str(value) for value in table.column(key).to_pylist()]
    others = [name for name in table.column_names if name != key]
    lists = [name for name in others if pyarrow.types.is_nested(table.schema.field(name).type)]
    if len(lists) > 1:
        raise DataError(f"{path}: has several columns of lists ({', '.join(lists)}); keep one")
    if lists:
        values = table.column(lists[0]).to_pylist()
        yield from ((clip, _of_list(value)) for clip, value in zip(clips, values, strict=True))
        return
    numeric = [
        name
        for name in others
        if pyarrow.types.is_floating(table.schema.field(name).type)
        or pyarrow.types.is_integer(table.schema.field(name).type)
    ]
    matrix = np.stack([table.column(name).to_numpy() for name in numeric] or [[]], axis=-1)
    yield from zip(clips, matrix, strict=False)


def _of_list(value: object) -> np.ndarray:
    """Return a list of numbers, or of lists of numbers, as an array; unfit ones as objects."""
    try:
        return np.asarray(value, dtype=np.float32)
    except (ValueError, TypeError):
        return np.asarray(None)
