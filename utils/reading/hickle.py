"""Read the `.hickle` files of features, of hickle 4 and 5 (HDF5); write those of hickle 4.0.4.

Files may come from untrusted sources: they are read by `utils/reading/hdf5.py`; the pickles that
hickle keeps as attributes are never looked at.
"""

from __future__ import annotations

import ast
import contextlib
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from utils.errors import DataError, UnsafeFileError
from utils.files import atomic_writer, map_file, open_regular
from utils.reading.hdf5 import Hdf5File, Node
from utils.reading.kinds import other_kind
from utils.shown import printable, shown

LARGEST_RATIO = 100
"""Bytes of features for each byte of file; measured features compress to a tenth at best."""
ALWAYS_ALLOWED = 64 << 20
"""Bytes of features that any file may hold: small files of constant features compress well."""

ARRAYS: Final = frozenset({b"ndarray", b"list", b"tuple", b"np_scalar", b"float", b"np_dtype"})
KEY = re.compile(
    r"""'(?:[^'\\\x00-\x1f]|\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))*'|"""
    r'''"(?:[^"\\\x00-\x1f]|\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))*"'''
)
"""What Python's repr makes of a text."""

NOTHING: Final = frozenset({b"None", b"none", b"NoneType"})
PAIR = re.compile(rb"data[0-9]+")
"""How hickle 5 calls a key that is no plain name: a group of the key `data0` and its value."""

WRITERS = "hickle 4 and 5"
NESTED = "is a nested value; expected an array"
IS_PICKLE = "is stored as a pickle, which is never read from a .hickle file"

# What hickle 4.0.4 writes as the attributes `type` and `key_type`, so that it can read our files.
TYPE_OF = {
    name: b"\x80\x03cdill._dill\n_load_type\nq\x00X"
    + bytes([len(name), 0, 0, 0])
    + name
    + b"q\x01\x85q\x02Rq\x03."
    for name in (b"dict", b"str", b"float")
}
TYPE_OF[b"ndarray"] = b"\x80\x03cnumpy\nndarray\nq\x00."


def iter_hickle(path: str | Path) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yield (key, array) for each key of a file, in the file's order; a missing one is None.

    Arrays are (D,) or (N, D), as stored, read-only. Raises DataError for what is damaged or no such
    file, UnsafeFileError for what reaches outside the file or unpacks to far more than its size.
    """
    with _opened(path) as (file, items):
        for key, item in items:
            with _named(f"clip {shown(key)}"):
                value = _read_item(file, item)
            yield key, value


def hickle_keys(path: str | Path) -> list[str]:
    """Return the keys of a file, in the file's order; raises what `iter_hickle` does."""
    with _opened(path) as (_, items):
        return [key for key, _ in items]


def write_hickle(
    path: str | Path,
    values: Mapping[str, np.ndarray | None],
    *,
    gzip: bool = False,
    form: str = "earliest",
) -> None:
    """Write arrays (None: missing) so that hickle 4.0.4 and `iter_hickle` read them; atomically.

    `form` is HDF5's: "earliest" or "v108". DataError for keys with a backslash, which the layout
    cannot tell from a slash.
    """
    names = {key: repr(key.replace("/", "\\")).encode() for key in values}
    for key, name in names.items():
        if _key_of(name) != key:
            raise DataError(f"{path}: cannot hold the key {key!r}: it has a backslash")
    with (
        atomic_writer(path) as raw,
        h5py.File(raw, "w", libver=("earliest", "v108") if form == "earliest" else form) as file,
    ):
        file.attrs.update(HICKLE_VERSION="4.0.4", HICKLE_PYTHON_VERSION="3.7.16")
        folder = file.create_group("data")
        folder.attrs.update(base_type="dict", type=np.bytes_(TYPE_OF[b"dict"]))
        for number, (key, value) in enumerate(values.items()):
            item = h5py.Group(h5py.h5g.create(folder.id, names[key]))
            item.attrs.update(base_type="dict_item", key_base_type="str", key_idx=number)
            item.attrs["key_type"] = np.bytes_(TYPE_OF[b"str"])
            if value is None:
                dataset = item.create_dataset("data", data=np.float64("nan"))
                dataset.attrs.update(base_type="float", type=np.bytes_(TYPE_OF[b"float"]))
            else:
                dataset = item.create_dataset(
                    "data", data=value, compression="gzip" if gzip else None, shuffle=gzip
                )
                dataset.attrs.update(base_type="ndarray", type=np.bytes_(TYPE_OF[b"ndarray"]))
                dataset.attrs["np_dtype"] = value.dtype.name


@contextlib.contextmanager
def _named(what: object) -> Iterator[None]:
    """Let errors from inside begin with `what`."""
    try:
        yield
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{what}: {error}") from None
    except DataError as error:
        raise DataError(f"{what}: {error}") from None
    except (ValueError, OverflowError, MemoryError, struct.error, zlib.error) as error:
        raise DataError(f"{what}: is damaged ({error})") from None


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Hdf5File, Iterator[tuple[str, Node]]]]:
    """Open a file and yield it with the clips of its group `data`: (key, node of the value)."""
    with _named(path):
        with open_regular(path) as plain:
            content = memoryview(map_file(plain))
        if other := other_kind(path, "hdf5"):
            raise DataError(other)
        file = Hdf5File(content, ratio=LARGEST_RATIO, free=ALWAYS_ALLOWED)
        version = file.text_attribute(file.root, b"HICKLE_VERSION") or b""
        folder = file.member(file.root, b"data")
        if folder is None:
            raise DataError(f"holds no `data`; expected a dict of clips, as {WRITERS} write it")
        if version.startswith(b"5"):
            yield file, _items_of_5(file, folder)
            return
        kind = file.text_attribute(folder, b"base_type")
        if kind == b"pickle":
            raise UnsafeFileError(IS_PICKLE)
        if kind != b"dict":
            raise DataError(
                f"holds {shown(kind and kind.decode('latin-1'))}; expected a dict of clips, as "
                f"{WRITERS} write it (this one: hickle {printable(version.decode('latin-1'), 20)})"
            )
        yield file, _items(file, folder)


def _items(file: Hdf5File, folder: Node) -> Iterator[tuple[str, Node]]:
    """Yield (key, node of the value) of each clip of hickle 4."""
    seen: set[str] = set()
    for name, address in file.members(folder):
        key = _unseen(_key_of(name), name, seen)
        with _named(f"clip {shown(key)}"):
            item: Node | None = file.node(address)
            if item is not None and item.is_group:
                item = file.member(item, b"data")
            if item is None:
                raise DataError(NESTED)
        yield key, item


def _items_of_5(file: Hdf5File, folder: Node) -> Iterator[tuple[str, Node]]:
    """Yield (key, node of the value) of each clip of hickle 5, whose types are not looked up."""
    seen: set[str] = set()
    for name, address in file.members(folder):
        item: Node | None = file.node(address)
        if item is not None and item.is_group and PAIR.fullmatch(name):
            letters = file.member(item, b"data0")
            item = file.member(item, b"data1")
            text = file.array(letters) if letters is not None else None
            if item is None or text is None or text.dtype.kind != "S":
                raise DataError(f"its entry {shown(name.decode('latin-1'))} is no pair")
            key = _unseen(text.tobytes().decode("utf-8", "replace"), name, seen)
        else:
            quoted = len(name) > 2 and name[:1] == name[-1:] == b'"'
            key = _unseen(name[1:-1].decode("utf-8", "replace") if quoted else None, name, seen)
        if item is None:
            raise DataError(f"clip {shown(key)}: {NESTED}")
        yield key, item


def _unseen(key: str | None, name: bytes, seen: set[str]) -> str:
    if key is None:
        raise DataError(f"the key {shown(name.decode('latin-1'))} is not a text in quotes")
    if key in seen:
        raise DataError(f"the key {shown(key)} comes twice")
    seen.add(key)
    return key


def _key_of(name: bytes) -> str | None:
    text = name.decode("utf-8", "replace")
    if not KEY.fullmatch(text):
        return None
    try:
        return str(ast.literal_eval(text)).replace("\\", "/")
    except SyntaxError:  # an escape beyond Unicode
        return None


def _read_item(file: Hdf5File, item: Node) -> np.ndarray | None:
    if item.is_group:
        raise DataError(NESTED)
    kind = file.text_attribute(item, b"base_type")  # None: hickle 5 refers to its types
    if kind == b"pickle":
        raise UnsafeFileError(IS_PICKLE)
    if kind in NOTHING or file.is_null(item):
        return None
    if kind is not None and kind not in ARRAYS:
        raise DataError(f"is a value of type {shown(kind.decode('latin-1'))}; expected an array")
    numbers = file.array(item)
    if numbers.dtype.kind not in "fiu":
        raise DataError("is a text; expected an array")
    if numbers.ndim in (1, 2):
        return numbers
    if numbers.ndim or not np.isnan(numbers):
        raise DataError(f"is of shape {numbers.shape}; expected (D,), (N, D), or NaN where missing")
    return None
