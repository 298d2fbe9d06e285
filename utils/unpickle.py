"""Read untrusted pickles and checkpoints as data, never as programs; write plain pickles.

The machine that follows a pickle's instructions is ours (`utils/pickle_machine.py`): Python's own
imports and calls what a pickle names unless it is stopped, and fills the memory for small files.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import BinaryIO

from utils.errors import DataError, UnsafeFileError
from utils.files import atomic_writer, map_file, open_regular
from utils.pickle_machine import run_pickle
from utils.pickled_values import ExpertStore, ValueBuilder
from utils.torch_file import Opaque, read_torch_checkpoint

__all__ = ["ExpertStore", "Opaque", "dump_plain", "load_plain", "read_torch_checkpoint"]


def load_plain(path: str | Path) -> object:
    """Read a pickle that holds plain values, numpy arrays or an ExpertStore.

    Arrays are read-only views of the mapped file, byte strings read-only memoryviews: a file larger
    than the memory can be read, but must not be cut short meanwhile. Strings of Python 2 come back
    as latin-1 text. Raises UnsafeFileError naming what is refused, DataError for damaged files.
    """
    with open_regular(path) as file:
        return _run(path, file)


def dump_plain(value: object, path: str | Path, protocol: int = 4) -> None:
    """Write plain values and numpy arrays as a pickle, atomically."""
    with atomic_writer(path) as file:
        pickle.dump(value, file, protocol)


def _run(path: str | Path, file: BinaryIO) -> object:
    try:
        return run_pickle(map_file(file), ValueBuilder())
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path}: refused: {error}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
