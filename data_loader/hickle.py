"""Read and write the `.hickle` files of features: HDF5 in the layout of hickle 4.0.4.

Files may come from strangers, so only what such a file needs is followed: plain links, numbers, a
known layout. Every size is compared with the file's before memory is taken, compressed chunks are
inflated here under a limit, and the pickles that hickle keeps as attributes are never looked at.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t, h5z

from utils.errors import DataError, UnsafeFileError
from utils.files import atomic_writer, open_regular

LARGEST_RATIO = 100
"""Bytes of features for each byte of file; measured features compress to a tenth at best."""
ALWAYS_ALLOWED = 64 << 20
"""Bytes of features that any file may hold: small files of constant features compress well."""
MOST_DIMENSIONS = 2
LONGEST_ATTRIBUTE = 256

ARRAYS: Final = frozenset({b"ndarray", b"list", b"tuple", b"np_scalar", b"float", b"np_dtype"})
KEY = re.compile(
    r"""'(?:[^'\\\n\r]|\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))*'|"""
    r'''"(?:[^"\\\n\r]|\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))*"'''
)
"""What Python's repr makes of a text."""

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

    Arrays are (D,) or (N, D), as stored. Raises DataError for what is damaged or no such file,
    UnsafeFileError for what reaches outside the file or unpacks to far more than its size.
    """
    with _opened(path) as (folder, volume):
        for name, key in _keys(folder):
            with _named(f"clip {key[:200]!r}"):
                value = _read_item(folder, name, volume)
            yield key, value


def hickle_keys(path: str | Path) -> list[str]:
    """Return the keys of a file, in the file's order; raises what `iter_hickle` does."""
    with _opened(path) as (folder, _):
        return [key for _, key in _keys(folder)]


def write_hickle(path: str | Path, values: Mapping[str, np.ndarray | None]) -> None:
    """Write arrays (None: missing) so that hickle 4.0.4 and `iter_hickle` read them; atomically.

    The layout cannot tell a backslash in a key from a slash: DataError.
    """
    names = {key: repr(key.replace("/", "\\")).encode() for key in values}
    for key, name in names.items():
        if _key_of(name) != key:
            raise DataError(
                f"{path}: a .hickle file cannot hold the key {key!r}: it has a backslash"
            )
    with atomic_writer(path, "w+b") as raw, h5py.File(raw, "w") as file:
        file.attrs.update(HICKLE_VERSION="4.0.4", HICKLE_PYTHON_VERSION="3.7.16")
        folder = file.create_group("data")
        folder.attrs.update(base_type="dict", type=np.bytes_(TYPE_OF[b"dict"]))
        for number, (key, value) in enumerate(values.items()):
            item = h5py.Group(h5g.create(folder.id, names[key]))
            item.attrs.update(base_type="dict_item", key_base_type="str", key_idx=number)
            item.attrs["key_type"] = np.bytes_(TYPE_OF[b"str"])
            _write_value(item, value)


def _write_value(item: h5py.Group, value: np.ndarray | None) -> None:
    numbers = np.float64("nan") if value is None else value
    dataset = item.create_dataset("data", data=numbers)
    if value is None:
        dataset.attrs.update(base_type="float", type=np.bytes_(TYPE_OF[b"float"]))
    else:
        dataset.attrs.update(base_type="ndarray", type=np.bytes_(TYPE_OF[b"ndarray"]))
        dataset.attrs["np_dtype"] = value.dtype.name


class _Volume:
    """What one file may unpack to, counted down."""

    def __init__(self, file_size: int) -> None:
        self.file_size = file_size
        self.left = max(ALWAYS_ALLOWED, LARGEST_RATIO * file_size)

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise UnsafeFileError(
                f"the file's {self.file_size} bytes would unpack to more than {LARGEST_RATIO} "
                "times as many"
            )

    def check_inside(self, offset: int | None, count: int) -> None:
        if offset is None or offset < 0 or count < 0 or offset + count > self.file_size:
            raise UnsafeFileError(f"declares {count} bytes that are not in the file")


@contextlib.contextmanager
def _named(what: object) -> Iterator[None]:
    """Turn what goes wrong inside into an error that begins with `what`."""
    try:
        yield
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{what}: {error}") from None
    except DataError as error:
        raise DataError(f"{what}: {error}") from None
    except (*HDF5_ERRORS, OverflowError, UnicodeError, zlib.error, MemoryError) as error:
        raise DataError(f"{what}: is damaged ({_first_line(error)})") from None


HDF5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError)
"""What h5py raises for damaged files, depending on where the library stumbles."""


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[tuple[h5g.GroupID, _Volume]]:
    """Open a file and yield its group `data`, and how much it may unpack to."""
    with open_regular(path) as plain:  # says clearly what is missing or no file
        volume = _Volume(plain.seek(0, 2))
    with _named(path):
        try:
            file = h5py.File(path, "r", locking=False)
        except OSError:
            raise DataError("is no HDF5 file, is damaged or cut short") from None
        with file:
            folder = _open_inside(file["/"].id, b"data")
            if not isinstance(folder, h5g.GroupID):
                _refuse_pickle(folder)
                raise DataError("holds a single value; expected a dict of clips")
            if (kind := _text_attribute(folder, b"base_type")) != b"dict":
                raise DataError(f"holds {kind!r}; expected a dict of clips, as hickle 4 writes it")
            yield folder, volume


def _keys(folder: h5g.GroupID) -> Iterator[tuple[bytes, str]]:
    seen: set[str] = set()
    for name in folder:
        key = _key_of(name)
        if key is None:
            raise DataError(f"the key {name[:200]!r} is no text in quotes")
        if key in seen:
            raise DataError(f"the key {key[:200]!r} comes twice")
        seen.add(key)
        yield name, key


def _key_of(name: bytes) -> str | None:
    text = name.decode("utf-8", "replace")
    if not KEY.fullmatch(text):
        return None
    return str(ast.literal_eval(text)).replace("\\", "/")


def _open_inside(group: h5g.GroupID, name: bytes) -> h5g.GroupID | h5d.DatasetID:
    """Open a group or dataset of `group` itself: links to elsewhere are not followed."""
    if group.links.get_info(name).type != h5l.TYPE_HARD:
        raise UnsafeFileError(f"{name[:200]!r} is a link to another place; links are not followed")
    found = h5o.open(group, name)
    if not isinstance(found, (h5g.GroupID, h5d.DatasetID)):
        raise DataError(f"{name[:200]!r} is neither a group nor an array")
    return found


def _text_attribute(owner: h5g.GroupID | h5d.DatasetID, name: bytes) -> bytes | None:
    """Return an attribute that is one short text, None when it is absent or something else."""
    if not h5a.exists(owner, name):
        return None
    attribute = h5a.open(owner, name)
    form = attribute.get_type()
    if not isinstance(form, h5t.TypeStringID) or attribute.shape != ():
        return None
    if not form.is_variable_str() and form.get_size() > LONGEST_ATTRIBUTE:
        return None
    value = np.empty((), dtype=attribute.dtype)
    attribute.read(value)
    text = value.item()
    return text if isinstance(text, bytes) else str(text).encode()


def _refuse_pickle(dataset: h5d.DatasetID) -> None:
    if _text_attribute(dataset, b"base_type") == b"pickle":
        raise UnsafeFileError("is stored as a pickle, which is never read from a .hickle file")


def _read_item(folder: h5g.GroupID, name: bytes, volume: _Volume) -> np.ndarray | None:
    item = _open_inside(folder, name)
    if isinstance(item, h5g.GroupID):
        item = _open_inside(item, b"data")
    if not isinstance(item, h5d.DatasetID):
        raise DataError("is a nested value; expected an array")
    kind = _text_attribute(item, b"base_type")
    if kind not in ARRAYS:
        _refuse_pickle(item)
        raise DataError(f"is a value of type {kind!r}; expected an array")
    numbers = _read_dataset(item, volume)
    if numbers.ndim:
        return numbers
    if not np.isnan(numbers):
        raise DataError(f"is the single number {numbers}; expected an array, or NaN where missing")
    return None


def _read_dataset(dataset: h5d.DatasetID, volume: _Volume) -> np.ndarray:
    """Return the numbers of a dataset, after its declared size is compared with the file's."""
    form, space = dataset.get_type(), dataset.get_space()
    if not isinstance(form, (h5t.TypeFloatID, h5t.TypeIntegerID)) or form.get_size() > 8:
        raise DataError("holds something else than numbers")
    dtype, shape = form.dtype, space.shape
    if dtype.kind not in "fiu" or shape is None or len(shape) > MOST_DIMENSIONS:
        raise DataError(f"is of shape {shape} and {dtype}; expected numbers (D,) or (N, D)")
    size = math.prod(shape) * dtype.itemsize
    volume.take(size)
    numbers = np.empty(shape, dtype.newbyteorder("="))
    if not size:
        return numbers
    layout = dataset.get_create_plist()
    kind = layout.get_layout()
    if kind == h5d.CHUNKED:
        _read_chunks(dataset, layout, dtype, numbers, volume)
        return numbers
    if kind == h5d.CONTIGUOUS:
        if layout.get_external_count():
            raise UnsafeFileError("keeps its numbers in another file, which is not followed")
        volume.check_inside(dataset.get_offset(), size)
    elif kind != h5d.COMPACT:
        raise UnsafeFileError("is a virtual dataset, put together from other places")
    dataset.read(h5s.ALL, h5s.ALL, numbers)
    return numbers


def _read_chunks(
    dataset: h5d.DatasetID,
    layout: h5py.h5p.PropDCID,
    dtype: np.dtype,
    numbers: np.ndarray,
    volume: _Volume,
) -> None:
    """Fill `numbers` from compressed chunks; HDF5's own inflation knows no limit."""
    chunk = layout.get_chunk()
    size = math.prod(chunk) * dtype.itemsize
    filters = [layout.get_filter(i)[0] for i in range(layout.get_nfilters())]
    if unknown := set(filters) - {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE}:
        raise DataError(
            f"is compressed with HDF5 filter {min(unknown)}, which is not supported; write the "
            "file anew with gzip or none"
        )
    counts = [-(-extent // step) for extent, step in zip(numbers.shape, chunk, strict=True)]
    if math.prod(counts) != dataset.get_num_chunks():
        raise DataError(f"has {dataset.get_num_chunks()} of {math.prod(counts)} chunks")
    for corner in itertools.product(
        *(range(0, extent, step) for extent, step in zip(numbers.shape, chunk, strict=True))
    ):
        stored = dataset.get_chunk_info_by_coord(corner)
        volume.check_inside(stored.byte_offset, stored.size)
        volume.take(size)
        skipped, raw = dataset.read_direct_chunk(corner)
        used = [code for i, code in enumerate(filters) if not skipped >> i & 1]
        block = np.frombuffer(_decoded(raw, used, size, dtype.itemsize), dtype).reshape(chunk)
        target = numbers[tuple(slice(a, a + step) for a, step in zip(corner, chunk, strict=True))]
        target[...] = block[tuple(map(slice, target.shape))]


def _decoded(raw: bytes, filters: list[int], size: int, item_size: int) -> bytes:
    """Undo the filters of one chunk, which holds `size` bytes."""
    for code in reversed(filters):
        if code == h5z.FILTER_DEFLATE:
            raw = zlib.decompressobj().decompress(raw, size + 1)
        else:
            raw = np.frombuffer(raw, np.uint8).reshape(item_size, -1).T.tobytes()
    if len(raw) != size:
        raise DataError(f"has a chunk that does not unpack to its {size} bytes")
    return raw


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0][:200]
