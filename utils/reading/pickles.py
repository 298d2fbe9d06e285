"""Read untrusted pickles as data, never as programs; write plain pickles.

Python's unpickler follows the instructions, but finds only the stand-ins of an allow-list.
"""

from __future__ import annotations

import gc
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from utils.errors import DataError, UnsafeFileError
from utils.files import atomic_writer, open_regular
from utils.reading.instructions import check_instructions
from utils.reading.kinds import other_kind
from utils.reading.stand_ins import NUMPY, Call, ExpertStore, Name, settled
from utils.shown import printable

__all__ = ["ExpertStore", "dump_plain", "load_plain"]

COPIES = 16
"""Times the file's size that its calls may copy, besides FREE_COPIES bytes."""
FREE_COPIES = 64 << 20
EXPERT_STORES: Final = {
    f"{module}.ExpertStore": ExpertStore
    for module in ("datastructures", "utils.datastructures", "zsvision.zs_data_structures")
}
RENAMED: Final = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules of Python 2."""
HINTS: Final = {
    "torch": "; it holds torch tensors: convert them with .numpy() and write the file anew",
    "pandas": "; convert its tables to dicts of numpy arrays and write the file anew",
}


def load_plain(path: str | Path) -> object:
    """Read a pickle that holds plain values, numpy arrays or an ExpertStore.

    Arrays are read-only. Strings of Python 2 come back as latin-1 text. Raises UnsafeFileError
    naming what is refused, DataError for damaged files.
    """
    with open_regular(path) as file:
        try:
            return _load(file)
        except UnsafeFileError as error:
            raise UnsafeFileError(f"{path}: refused: {error}") from None
        except DataError as error:
            raise DataError(f"{path}: {other_kind(path, 'pickle') or error}") from None


def dump_plain(value: object, path: str | Path, protocol: int = 4) -> None:
    """Write plain values and numpy arrays as a pickle, atomically."""
    with atomic_writer(path) as file:
        pickle.dump(value, file, protocol)


def _load(file: BinaryIO) -> object:
    if not (size := os.fstat(file.fileno()).st_size):
        raise DataError("is empty")
    check_instructions(file)
    file.seek(0)
    collecting = gc.isenabled()
    gc.disable()  # millions of new objects and no garbage: looking for it takes most of the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in damaged text
            return settled(_Unpickler(file, FREE_COPIES + COPIES * size).load())
    except (UnsafeFileError, DataError):
        raise
    except (MemoryError, RecursionError) as error:
        raise UnsafeFileError(f"asks for too much ({type(error).__name__})") from None
    except Exception as error:
        raise DataError(f"is damaged or cut short ({type(error).__name__})") from None
    finally:
        if collecting:
            gc.enable()


class _Unpickler(pickle.Unpickler):
    """Finds only what is on the allow-list, and counts what its calls copy."""

    def __init__(self, file: BinaryIO, budget: int) -> None:
        super().__init__(file, encoding="latin1")
        self.left = budget
        calls: dict[str, Callable[..., object]] = {
            "_codecs.encode": self._encode,
            "builtins.bytes": lambda: b"",
            "builtins.set": self._set,
            "builtins.frozenset": lambda values=(): frozenset(self._set(values)),
            "collections.OrderedDict": self._dict,
            "collections.defaultdict": lambda factory=None: {},
            "copyreg._reconstructor": _new_store,
        }
        self.names: dict[str, Name] = {
            full: Call(full, function) for full, function in calls.items()
        }
        self.names |= {full: Name(full) for full in ("builtins.object", "builtins.list")}

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        """Return the stand-in for a name; UnsafeFileError for any that is not on the list."""
        full = f"{RENAMED.get(module, module)}.{name}"
        for allowed in (NUMPY, EXPERT_STORES, self.names):
            if full in allowed:
                self._spend(64)
                return allowed[full]
        hint = HINTS.get(module.partition(".")[0], "")
        raise UnsafeFileError(f"names {printable(full)}, which is not on the allow-list{hint}")

    def persistent_load(self, pid: object) -> Any:  # noqa: ANN401
        """Refuse."""
        raise UnsafeFileError("refers to something outside the file")

    def _spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise UnsafeFileError("has its values copied again and again")

    def _encode(self, text: object, encoding: object) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise UnsafeFileError("encodes text in an unusual way")
        self._spend(len(text))
        return text.encode("latin-1")

    def _set(self, values: object = ()) -> set[Any]:
        if not isinstance(values, (list, tuple)):
            raise TypeError
        self._spend(64 * len(values))
        return set(values)

    def _dict(self, pairs: object = ()) -> dict[Any, Any]:
        if not isinstance(pairs, (list, tuple)):
            raise TypeError
        self._spend(64 * len(pairs))
        return {key: value for key, value in pairs}  # noqa: C416  two of each, or ValueError


def _new_store(cls: object, *base: object) -> ExpertStore:
    """Make an instance as protocols 0 and 1 do."""
    if cls is not ExpertStore:
        raise UnsafeFileError("makes an instance of a class that is not on the allow-list")
    return ExpertStore()
