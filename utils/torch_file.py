"""Read PyTorch checkpoints (.pth) as tensors and plain values: no class in them comes to life.

`torch.load(weights_only=True)` calls nothing foreign either, but it refuses the published
checkpoints, which hold a pickled configuration object, and builds tensors of any declared size.
Here foreign objects become `Opaque`, and every tensor lies inside the bytes the file really has.
"""

from __future__ import annotations

import math
import posixpath
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import torch

from utils.errors import CheckpointError, DataError, UnsafeFileError
from utils.files import map_file, open_regular
from utils.pickle_machine import Name, describe, run_pickle
from utils.pickled_values import ValueBuilder

MOST_MEMBERS = 200_000
LARGEST_PICKLE = 64 << 20
MOST_DIMENSIONS = 64
LARGEST_STEP = 1 << 40  # far below what overflows inside torch
LOCAL_HEADER = 30  # bytes, without the name and the extra field

STORAGES: Final = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.storage.UntypedStorage": torch.uint8,
}
NUMBERS: Final = frozenset({*STORAGES.values(), torch.uint16, torch.uint32, torch.uint64})
"""Types a tensor may have: of floats of 8 bits torch cannot even say whether they are finite."""
DTYPES: Final = {
    f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)
}
"""A table, because asking torch for a name may import it."""
PATHS: Final = frozenset(
    f"{module}.{name}"
    for module in ("pathlib", "pathlib._local")
    for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
)
TENSORS: Final = frozenset({"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"})
PARAMETERS: Final = frozenset(
    {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
)
# Nothing would run here either way; but a checkpoint that names these was made to do harm.
HARMFUL: Final = re.compile(
    r"(?:_pickle|_posixsubprocess|bdb|cPickle|cProfile|cloudpickle|code|codeop|"
    r"commands|ctypes|dill|importlib|marshal|multiprocessing|nt|os|pdb|pickle|"
    r"pip|platform|posix|profile|pty|pydoc|runpy|shutil|socket|subprocess|sys|"
    r"timeit|webbrowser)\..*"
)
HARMLESS_BUILTINS: Final = frozenset(
    f"builtins.{cls.__name__}"
    for cls in (bool, complex, dict, float, int, object, range, slice, str, tuple)
)


@dataclass(slots=True)
class Opaque:
    """Something foreign in a checkpoint: its name and what it was made of, nothing that acts."""

    name: str
    args: object = None
    state: object = None
    items: list[Any] = field(default_factory=list)


def read_torch_checkpoint(path: str | Path) -> dict[Any, Any]:
    """Read a checkpoint that `torch.save` wrote, ours or a published one; tensors on the CPU.

    Foreign objects come back as `Opaque`, paths as text, OrderedDict as dict, parameters as
    tensors. Raises UnsafeFileError for what asks for more than data, CheckpointError for what is
    damaged, missing or no checkpoint.
    """
    try:
        with open_regular(path) as file:
            records = _read_records(file)
        value = run_pickle(records.pickle, _CheckpointBuilder(records))
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path}: refused: {error}") from None
    except DataError as error:
        raise CheckpointError(
            str(error) if str(path) in str(error) else f"{path}: {error}"
        ) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds {describe(value)}, not a checkpoint's dict")
    return value


@dataclass
class _Records:
    """The members of a checkpoint's zip archive: views of the file."""

    views: dict[str, memoryview]
    checksums: dict[str, int]
    prefix: str

    @property
    def pickle(self) -> memoryview:
        view = self.read("data.pkl")
        if len(view) > LARGEST_PICKLE:
            raise UnsafeFileError(f"its pickle takes {len(view)} bytes")
        return view

    def read(self, name: str) -> memoryview:
        """Return the content of a member, once its checksum is verified.

        A checksum of 0 stands for none: torch can be told to save without.
        """
        full = self.prefix + name
        if full not in self.views:
            raise DataError(f"is damaged: it has no record {full[:200]!r}")
        view = self.views[full]
        if self.checksums[full] not in (0, zlib.crc32(view)):
            raise DataError(f"is damaged: the checksum of its record {full[:200]!r} differs")
        return view


def _read_records(file: BinaryIO) -> _Records:
    """Find the members of the archive; refuses all that `torch.save` does not write."""
    content = map_file(file)
    if bytes(content[:4]) != b"PK\x03\x04":
        raise DataError(
            "is not a checkpoint in the zip format of PyTorch 1.6 and later; if it comes from an "
            "older one, load and save it anew there"
        )
    try:
        with zipfile.ZipFile(file) as archive:
            infos, comment = archive.infolist(), archive.comment
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OverflowError, ValueError) as error:
        raise DataError(f"is damaged or cut short ({error})") from None
    if comment or len(infos) > MOST_MEMBERS:
        raise UnsafeFileError(f"its archive has a comment or too many records ({len(infos)})")
    views, checksums = {}, {}
    total = 0
    for info in infos:
        _check_record(info)
        if info.filename in views:
            raise UnsafeFileError(f"its record {info.filename[:200]!r} occurs twice")
        total += info.file_size
        if total > len(content):
            raise UnsafeFileError("its records together are larger than the file")
        views[info.filename] = _view_of(content, info)
        checksums[info.filename] = info.CRC
    found = [name for name in views if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(found) != 1:
        raise DataError("is not a checkpoint: its archive does not hold one data.pkl")
    prefix = found[0].removesuffix("data.pkl")
    if prefix + "byteorder" in views and bytes(views[prefix + "byteorder"]) != b"little":
        raise DataError("was written on a machine of another byte order")
    return _Records(views, checksums, prefix)


def _check_record(info: zipfile.ZipInfo) -> None:
    name = info.filename
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or "" in parts:
        raise UnsafeFileError(f"its record {name[:200]!r} has an unsafe name")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise UnsafeFileError(f"its record {name[:200]!r} is compressed")
    if info.flag_bits & 0x1:
        raise UnsafeFileError(f"its record {name[:200]!r} is encrypted")


def _view_of(content: memoryview, info: zipfile.ZipInfo) -> memoryview:
    """Return a member's bytes; they stand behind a local header, which repeats the name."""
    header = bytes(content[info.header_offset : info.header_offset + LOCAL_HEADER])
    if info.header_offset < 0 or len(header) < LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise DataError(f"is damaged: its record {info.filename[:200]!r} has no header")
    name_length, extra_length = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    start = info.header_offset + LOCAL_HEADER + name_length + extra_length
    if start + info.file_size > len(content):
        raise DataError(f"is damaged: its record {info.filename[:200]!r} reaches beyond the end")
    return content[start : start + info.file_size]


@dataclass
class _Storage:
    """The numbers behind tensors: one dimension, of one type."""

    numbers: torch.Tensor


class _CheckpointBuilder(ValueBuilder):
    """Adds tensors to the plain values, and keeps everything else inert."""

    def __init__(self, records: _Records) -> None:
        super().__init__()
        self.records = records
        self.bytes_of: dict[str, torch.Tensor] = {}
        self.storages: dict[tuple[str, torch.dtype], _Storage] = {}

    def new_name(self, full: str) -> object:
        if full in STORAGES or full in TENSORS or full in PARAMETERS or full in PATHS:
            return Name(full)
        if full == "torch._utils._rebuild_tensor_v3" or full == "torch.Size":
            return Name(full)
        if full in DTYPES:
            return DTYPES[full]
        try:
            return super().new_name(full)
        except UnsafeFileError:
            if HARMFUL.match(full) or (
                full.startswith("builtins.") and full not in HARMLESS_BUILTINS
            ):
                raise UnsafeFileError(
                    f"names {full[:200]}, which no checkpoint needs: it may be an attack"
                ) from None
            return Opaque(full)

    def call(self, function: object, arguments: object) -> object:
        if isinstance(function, Opaque):
            return Opaque(function.name, arguments)
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            return super().call(function, arguments)
        if function.text == "copyreg._reconstructor" and isinstance(arguments[0], Opaque):
            return Opaque(arguments[0].name, arguments[1:])
        if function.text in TENSORS:
            storage, offset, size, stride, *_ = arguments
            return _tensor(storage, offset, size, stride)
        if function.text == "torch._utils._rebuild_tensor_v3":
            storage, offset, size, stride, _, _, dtype, *_ = arguments
            return _tensor(_retyped(storage, dtype), offset, size, stride)
        if function.text in PARAMETERS:
            return arguments[0]
        if function.text in PATHS:
            if not all(isinstance(part, str) for part in arguments):
                raise TypeError
            return posixpath.join(*arguments) if arguments else "."
        if function.text == "torch.Size":
            (size,) = arguments
            if not isinstance(size, (list, tuple)):
                raise TypeError
            return tuple(size)
        return super().call(function, arguments)

    def set_state(self, target: object, state: object) -> object:
        if isinstance(target, Opaque):
            target.state = state
            return target
        if isinstance(target, dict):  # attributes of an OrderedDict, such as `_metadata`
            return target
        return super().set_state(target, state)

    def extend(self, target: object, values: list[Any]) -> None:
        if not isinstance(target, Opaque):
            return super().extend(target, values)
        return target.items.extend(values)

    def update(self, target: object, pairs: list[Any]) -> None:
        if not isinstance(target, Opaque):
            return super().update(target, pairs)
        return target.items.extend(zip(pairs[::2], pairs[1::2], strict=True))

    def persistent(self, identity: object) -> object:
        if not isinstance(identity, tuple):
            raise TypeError
        kind, form, key, _, length = identity
        if kind != "storage" or not isinstance(form, Name) or not isinstance(key, str):
            raise UnsafeFileError("refers to something that is not a storage of a tensor")
        dtype = STORAGES[form.text]
        if (key, dtype) not in self.storages:
            self.storages[key, dtype] = _storage_of(self.read_bytes(key), dtype)
        storage = self.storages[key, dtype]
        if length != len(storage.numbers):
            raise DataError(
                f"is damaged: tensor data {key[:50]!r} should hold {str(length)[:50]} numbers of "
                f"{dtype}, but has {len(storage.numbers)}"
            )
        return storage

    def read_bytes(self, key: str) -> torch.Tensor:
        """Return the bytes of a record (n,), the same for all that ask for it."""
        if key not in self.bytes_of:
            view = self.records.read(f"data/{key}")
            content = torch.empty(len(view), dtype=torch.uint8)
            content.numpy()[:] = np.frombuffer(view, np.uint8)
            self.bytes_of[key] = content
        return self.bytes_of[key]


def _retyped(storage: object, dtype: object) -> _Storage:
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype):
        raise TypeError
    if dtype not in NUMBERS:
        raise DataError(f"holds a tensor of {dtype}; convert it to torch.float32 and save it anew")
    return _storage_of(storage.numbers.view(torch.uint8), dtype)


def _storage_of(content: torch.Tensor, dtype: torch.dtype) -> _Storage:
    """Return bytes (n,) as numbers of a type."""
    if len(content) % dtype.itemsize:
        raise DataError(f"is damaged: {len(content)} bytes are not a whole number of {dtype}")
    return _Storage(content.view(dtype))


def _tensor(storage: object, offset: object, size: object, stride: object) -> torch.Tensor:
    """Return a tensor that lies inside its storage."""
    if not isinstance(storage, _Storage):
        raise TypeError
    (start,), sizes, strides = map(_naturals, ((offset,), size, stride))
    if len(sizes) != len(strides):
        raise DataError("is damaged: a tensor's sizes and strides differ in number")
    length = len(storage.numbers)
    last = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if math.prod(sizes) > length or start > length or (0 not in sizes and last >= length):
        raise UnsafeFileError(
            f"holds a tensor of sizes {str(sizes)[:100]} and strides {str(strides)[:100]} in a "
            f"storage of {length} numbers"
        )
    return torch.as_strided(storage.numbers, sizes, strides, start)


def _naturals(numbers: object) -> tuple[int, ...]:
    if not isinstance(numbers, tuple) or len(numbers) > MOST_DIMENSIONS:
        raise TypeError
    if any(type(n) is not int or not 0 <= n < LARGEST_STEP for n in numbers):
        raise DataError("is damaged: a tensor has impossible sizes or strides")
    return numbers
