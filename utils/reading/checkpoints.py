"""Read PyTorch checkpoints (.pth) by `torch.load(weights_only=True)`, as tensors and plain values.

What released files hold besides (a configuration object, paths, numpy's numbers) becomes inert
stand-ins. Torch verifies neither checksums nor that a tensor's numbers are in the file: the
archive is verified before, the tensors after.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, Final

import torch

from utils.errors import CheckpointError, DataError, UnsafeFileError
from utils.files import map_file, open_regular
from utils.reading.instructions import check_instructions
from utils.reading.kinds import other_kind
from utils.reading.stand_ins import DEEPEST, NUMPY, Array, Call, Dtype, Name
from utils.shown import printable, shown

LOG = logging.getLogger(__name__)
MOST_MEMBERS = 200_000
LARGEST_PICKLE = 64 << 20
LARGEST_RATIO = 100
"""Times the file's size that its records may unpack to (some archives were zipped again)."""
MOST_DIMENSIONS = 64
LARGEST = 1 << 48
"""Numbers of a tensor, sizes of 0 counted as 1: far below what overflows inside torch."""
LONGEST_INTEGER = 255
"""Bytes; random generators keep states of a few hundred bits."""
LARGEST_SHARING, FREE_VOLUME = 4, 64 << 20
"""Times the file's size that its tensors may take together where they share numbers, or bytes."""
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled number that begins files written before PyTorch 1.6."""
LEGACY_PICKLES = 5
NUMBERS: Final = frozenset(
    getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "bool"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
)
"""Types a tensor may have: of floats of 8 bits torch cannot even say whether they are finite."""
PATHS: Final = tuple(
    f"{module}.{kind}"
    for module in ("pathlib", "pathlib._local")
    for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
)
FOREIGN: Final = ("parse_config.ConfigParser", "argparse.Namespace", "builtins.object")
STATE_NAMES: Final = ("state_dict", "model_state_dict", "model", "net")
PICKLE = re.compile(r"(?:[^/]*/)?data\.pkl", re.IGNORECASE)
UNSUPPORTED = re.compile(r"(?:unsupported GLOBAL|Unsupported global: GLOBAL) (\S+)")


@dataclass(slots=True)
class Opaque:
    """Something foreign in a checkpoint: its name and what it was made of, nothing that acts."""

    name: str
    args: object = None
    state: object = None


class _Foreign:
    """An object of a class that is not ours, while torch reads it."""

    name = ""
    args: object = None
    state: object = None

    def __new__(cls, *arguments: object) -> _Foreign:
        made = super().__new__(cls)
        made.args = arguments or None
        return made

    def __setstate__(self, state: object) -> None:
        self.state = state


def read_torch_checkpoint(path: str | Path) -> dict[Any, Any]:
    """Read a checkpoint that `torch.save` wrote, ours or a published one; tensors on the CPU.

    The weights come back as `state_dict`, whatever the file calls them (see `_arranged`). Foreign
    objects come back as `Opaque`, paths as text, OrderedDict as dict, parameters as tensors.
    Raises UnsafeFileError for what asks for more than data, CheckpointError for what is damaged,
    missing or no checkpoint.
    """
    try:
        with open_regular(path) as file:
            value = _read(file, path)
        return _arranged(value, path)
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path}: refused: {error}") from None
    except DataError as error:
        message = str(error)
        named = message.startswith((str(path), repr(str(path))))
        raise CheckpointError(message if named else f"{path}: {message}") from None


def _read(file: BinaryIO, path: str | Path) -> object:
    if not (size := os.fstat(file.fileno()).st_size):
        raise DataError("is empty")
    start = file.read(len(LEGACY_START))
    file.seek(0)
    if start.startswith(b"PK\x03\x04"):
        available = _verify_archive(file, size)
        return _Plain(available).of(_load(file))
    if start != LEGACY_START:
        raise DataError(other_kind(path, "checkpoint") or "is not a checkpoint of torch.save")
    # Mapped: torch looks for still older archives in real files, and unpacks those.
    with map_file(file) as content:
        with contextlib.suppress(DataError):  # damage is for torch to find
            for _ in range(LEGACY_PICKLES):
                check_instructions(content, LONGEST_INTEGER)  # type: ignore[arg-type]
        content.seek(0)
        return _Plain(size).of(_load(content))  # type: ignore[arg-type]


def _verify_archive(file: BinaryIO, size: int) -> int:
    """Read every record once; returns the bytes of all, raises DataError when one is damaged."""
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            total = sum(record.file_size for record in records)
            if len(records) > MOST_MEMBERS or total > LARGEST_RATIO * size:
                raise UnsafeFileError(f"its {len(records)} records unpack to {total} bytes")
            # torch looks records up without regard to case
            if len({record.filename.lower() for record in records}) < len(records):
                raise UnsafeFileError("two of its records have one name")
            for record in records:
                if record.CRC == 0:  # torch can be set to save without
                    record.CRC = None  # type: ignore[assignment]
                if PICKLE.fullmatch(record.filename):
                    if record.file_size > LARGEST_PICKLE:
                        raise UnsafeFileError(f"its pickle takes {record.file_size} bytes")
                    with archive.open(record) as content:
                        check_instructions(content, LONGEST_INTEGER)
            if damaged := archive.testzip():
                raise ValueError(f"Bad CRC-32 of {damaged}")
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, RuntimeError) as error:
        reason = printable(str(error), 100)  # RuntimeError: encrypted or an unknown compression
        raise DataError(f"is damaged or cut short ({reason})") from None
    return total


def _load(file: IO[bytes]) -> object:
    """Let torch read a file whose bytes are verified."""
    file.seek(0)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_allowed()):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except (UnsafeFileError, DataError):
        raise
    except pickle.UnpicklingError as error:
        if found := UNSUPPORTED.search(str(error)):
            raise UnsafeFileError(
                f"names {printable(found[1])}, which is not on the allow-list; if it holds a whole "
                "module, save the weights alone where it was made: "
                "torch.save({'state_dict': model.state_dict()}, path)"
            ) from None
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
        raise UnsafeFileError(f"asks for more than weights: {printable(reason, 200)}") from None
    except (MemoryError, RecursionError) as error:
        raise UnsafeFileError(f"asks for too much ({type(error).__name__})") from None
    except Exception as error:
        reason = printable(str(error).split("\n")[0], 200)
        raise DataError(f"is damaged or cut short ({type(error).__name__}: {reason})") from None


def _allowed() -> list[Any]:
    """Return stand-ins and the names they go by, as torch takes them."""
    names: dict[str, object] = dict(NUMPY)
    names |= {name: Call(name, _path) for name in PATHS}
    names |= {name: type("Foreign", (_Foreign,), {"name": name}) for name in FOREIGN}
    names |= {"copyreg._reconstructor": Call("copyreg._reconstructor", _reconstruct)}
    names |= {"collections.defaultdict": Call("collections.defaultdict", lambda *_: {})}
    names |= {name: Name(name) for name in ("builtins.list", "builtins.dict")}
    return [(stand_in, name) for name, stand_in in names.items()]


def _path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _reconstruct(cls: object, *base: object) -> _Foreign:
    if not isinstance(cls, type) or not issubclass(cls, _Foreign):
        raise UnsafeFileError("makes an instance of a class that is not on the allow-list")
    return cls()


class _Plain:
    """Turns what torch read into plain values, and checks that all tensors lie in the file."""

    def __init__(self, available: int) -> None:
        self.left = available
        self.volume = max(FREE_VOLUME, LARGEST_SHARING * available)
        self.storages: set[int] = set()
        self.made: dict[int, Any] = {}

    def of(self, value: Any, depth: int = 0) -> Any:  # noqa: ANN401
        """Return one value of the file in plain types; what is shared stays shared."""
        if value is None or type(value) in (bool, int, float, str, bytes, torch.dtype):
            return value
        if id(value) in self.made:
            return self.made[id(value)]
        if depth > DEEPEST:
            raise UnsafeFileError("is nested too deeply")
        self.made[id(value)] = made = self._made(value, depth + 1)
        return made

    def _made(self, value: Any, depth: int) -> Any:  # noqa: ANN401
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, (Array, Dtype)):
            if not hasattr(value, "value"):
                raise DataError("holds an array without content")
            return value.value
        if isinstance(value, list):
            items: list[Any] = []
            self.made[id(value)] = items
            items.extend(self.of(item, depth) for item in value)
            return items
        if isinstance(value, dict):
            entries: dict[Any, Any] = {}  # attributes of an OrderedDict are left out
            self.made[id(value)] = entries
            entries.update({self.of(k): self.of(v, depth) for k, v in dict.items(value)})
            return entries
        if isinstance(value, (tuple, set)):  # torch.Size too
            values = [self.of(item, depth) for item in value]
            return set(values) if isinstance(value, set) else tuple(values)
        if isinstance(value, _Foreign):
            self.made[id(value)] = opaque = Opaque(value.name)
            opaque.args, opaque.state = self.of(value.args, depth), self.of(value.state, depth)
            return opaque
        return Opaque(getattr(value, "text", type(value).__name__))

    def _tensor(self, value: torch.Tensor) -> torch.Tensor:
        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise DataError(f"holds a {type(value).__name__}, expected a plain tensor")
        if value.layout != torch.strided:
            raise DataError(f"holds a tensor of layout {value.layout}, expected torch.strided")
        if value.device.type != "cpu":
            raise DataError(f"holds a tensor without numbers (of device {value.device})")
        if value.dtype not in NUMBERS:
            raise DataError(
                f"holds a tensor of {value.dtype}; convert it to torch.float32 and save it anew"
            )
        shape = shown(tuple(value.shape))
        if value.dim() > MOST_DIMENSIONS or math.prod(max(n, 1) for n in value.shape) > LARGEST:
            raise DataError(f"holds a tensor of shape {shape}, which cannot be computed with")
        storage = value.untyped_storage()
        if storage.data_ptr() not in self.storages:
            self.storages.add(storage.data_ptr())
            self.left -= storage.nbytes()
        self.volume -= value.numel() * value.element_size()
        if self.volume < 0:
            raise UnsafeFileError("holds one tensor again and again under other names")
        if self.left < 0 or value.numel() * value.element_size() > max(storage.nbytes(), 1):
            raise UnsafeFileError(f"holds a tensor of shape {shape} whose numbers are not in it")
        return value.detach()


# What the weights are called


def _arranged(value: object, path: str | Path) -> dict[Any, Any]:
    """Return a checkpoint's dict with the weights as `state_dict`; logs what was assumed.

    Known besides the published layout: weights alone, or called otherwise; every name with the
    `module.` of DataParallel; an epoch in a tensor; no count of batches (before PyTorch 0.4.1).
    """
    if not isinstance(value, dict):
        found = value.name if isinstance(value, Opaque) else type(value).__name__
        raise DataError(f"holds {printable(found)}, not a checkpoint's dict")
    content = value
    if value and all(isinstance(item, torch.Tensor) for item in value.values()):
        content = {"state_dict": value}
        LOG.warning("%s: holds weights alone, taken as state_dict", path)
    name = next((name for name in STATE_NAMES if isinstance(content.get(name), dict)), None)
    if name is None:
        return content
    if name != "state_dict":
        content = {**content, "state_dict": content.pop(name)}
        LOG.warning("%s: its weights are called %r, taken as state_dict", path, name)
    state = content["state_dict"]
    if state and all(isinstance(key, str) and key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): weights for key, weights in state.items()}
        LOG.warning("%s: the names of its weights begin with 'module.', left out", path)
    epoch = content.get("epoch")
    if isinstance(epoch, torch.Tensor) and epoch.numel() == 1:
        content = {**content, "epoch": epoch.item()}
    return {**content, "state_dict": dict(_with_counts(state))}


def _with_counts(state: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the entries of a state, each batch norm with a count of batches."""
    for key, weights in state.items():
        yield key, weights
        if isinstance(key, str) and key.endswith(".running_var"):
            count = key.removesuffix("running_var") + "num_batches_tracked"
            if count not in state:
                yield count, torch.tensor(0)
