"""What pickles of data name: numpy arrays, a few builtins and ExpertStore, rebuilt without a call.

Arrays are read-only views of the file. numpy's own `_reconstruct`, `frombuffer` and `__setstate__`
are never reached, so no shape, type or byte order is taken that is not checked here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from utils.errors import DataError, UnsafeFileError
from utils.pickle_machine import Builder, Name, Pending, check_keys, describe, fill

RENAMED: Final = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules of Python 2."""

DTYPES: Final = {
    f"{kind}{size}": np.dtype(f"{kind}{size}")
    for kind, sizes in {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "b": (1,)}.items()
    for size in sizes
}
SCALARS: Final = {f"numpy.{dtype.name}": dtype for dtype in DTYPES.values()}
"""Names of numpy's number classes, used where ExpertStore says how it is stored."""

MOST_DIMENSIONS = 8


@dataclass
class ExpertStore:
    """Averaged features of all clips in one array, as older releases pickled them."""

    keys: list[str] = field(default_factory=list)
    dim: int = 0
    store_dtype: object = None
    store: object = None
    """(clips, dim); a row of NaN is a missing clip."""
    keymap: dict[str, int] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)


EXPERT_STORE_FIELDS: Final = frozenset(ExpertStore.__dataclass_fields__)
EXPERT_STORES: Final = frozenset(
    f"{module}.ExpertStore"
    for module in ("datastructures", "utils.datastructures", "zsvision.zs_data_structures")
)


class ValueBuilder(Builder):
    """Builds what `CALLS` knows by name and refuses the rest."""

    def __init__(self) -> None:
        self.names: dict[str, object] = {}

    def name(self, module: str, name: str) -> object:
        """Return a stand-in for a known name; raises UnsafeFileError naming an unknown one."""
        module = RENAMED.get(module, module)
        if module.startswith("numpy._core."):
            module = "numpy.core." + module.removeprefix("numpy._core.")
        full = f"{module}.{name}"
        if full not in self.names:
            self.names[full] = self.new_name(full)
        return self.names[full]

    def new_name(self, full: str) -> object:
        """Return a stand-in for a name met for the first time."""
        if full in SCALARS:
            return SCALARS[full]
        if full in CALLS or full in CLASSES or full in EXPERT_STORES:
            return Name(full)
        raise UnsafeFileError(f"names {full[:200]}, which is neither data nor known")

    def call(self, function: object, arguments: object) -> object:
        """Return what a known function would."""
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise UnsafeFileError(f"calls {describe(function)} with {describe(arguments)}")
        if function.text == "copyreg._reconstructor":  # how protocols 0 and 1 make an instance
            function, arguments = arguments[0], ()
            if not isinstance(function, Name):
                raise UnsafeFileError(f"makes an instance of {describe(function)}")
        if function.text in EXPERT_STORES and arguments == ():
            return ExpertStore()
        if function.text not in CALLS:
            raise UnsafeFileError(f"calls {function.text}")
        return CALLS[function.text](*arguments)

    def set_state(self, target: object, state: object) -> object:
        """Return an array, a type of numbers or an ExpertStore with its state."""
        if isinstance(target, ExpertStore):
            if isinstance(state, tuple) and len(state) == 2 and state[0] is None:
                state = state[1]
            if not isinstance(state, dict):
                raise TypeError
            for key in EXPERT_STORE_FIELDS & state.keys():
                setattr(target, key, state[key])
            return target
        if not isinstance(target, Pending) or not isinstance(state, tuple):
            return super().set_state(target, state)
        if target.name == "numpy.dtype":
            return _dtype_of_state(target.arguments, state)
        *_, shape, dtype, is_fortran, content = state
        return array_of(content, dtype, shape, is_fortran)


def array_of(content: object, dtype: object, shape: object, is_fortran: object) -> np.ndarray:
    """Return an array over `content`, which must hold exactly as many bytes as it needs."""
    if not isinstance(dtype, np.dtype) or not isinstance(shape, tuple):
        raise UnsafeFileError(
            f"holds an array of {describe(dtype)}, which is not a type of numbers"
        )
    if isinstance(content, str):  # bytes of Python 2
        content = content.encode("latin-1")
    if not isinstance(content, (bytes, memoryview)):
        raise UnsafeFileError(f"holds an array over {describe(content)}")
    if len(shape) > MOST_DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
        raise DataError("holds an array of impossible shape")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise DataError(f"holds an array of shape {shape} and {dtype} in {len(content)} bytes")
    flat = np.frombuffer(content, dtype) if len(content) else np.empty(0, dtype)
    if not dtype.isnative:
        flat = flat.astype(dtype.newbyteorder("="))
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(cls: object, shape: object, code: object) -> Pending:
    if not isinstance(cls, Name) or cls.text != "numpy.ndarray":
        raise UnsafeFileError(f"makes an array of class {describe(cls)}")
    return Pending("numpy.ndarray")


def _dtype(code: object, *flags: object) -> Pending:
    if not isinstance(code, str) or code.lstrip("<>|=") not in DTYPES:
        raise UnsafeFileError(
            f"holds an array of {str(code)[:50]!r}, which is not a type of numbers"
        )
    return Pending("numpy.dtype", DTYPES[code.lstrip("<>|=")])


def _dtype_of_state(dtype: np.dtype, state: tuple[Any, ...]) -> np.dtype:
    _, order, subtype, names, fields, *_ = state
    if order not in ("<", ">", "|", "=") or (subtype, names, fields) != (None, None, None):
        raise UnsafeFileError("holds an array of records, which is not a type of numbers")
    return dtype.newbyteorder(order)


def _scalar(dtype: object, content: object = b"") -> object:
    value: object = array_of(content, dtype, (1,), is_fortran=False)[0].item()
    return value


def _frombuffer(content: object, dtype: object, shape: object, order: object) -> np.ndarray:
    return array_of(content, dtype, shape, order == "F")


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UnsafeFileError("encodes text in an unusual way")
    return text.encode("latin-1")


def _empty_bytes() -> bytes:
    return b""


def _dict(pairs: object = ()) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    if not isinstance(pairs, (list, tuple)) or any(len(pair) != 2 for pair in pairs):
        raise TypeError
    fill(made, [value for pair in pairs for value in pair])
    return made


def _default_dict(factory: object = None) -> dict[Any, Any]:
    return {}


def _set(values: object = ()) -> set[Any]:
    if not isinstance(values, (list, tuple)):
        raise TypeError
    check_keys(values)
    return set(values)


def _frozenset(values: object = ()) -> frozenset[Any]:
    return frozenset(_set(values))


CALLS: Final[dict[str, Callable[..., object]]] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "builtins.bytes": _empty_bytes,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _default_dict,
}
CLASSES: Final = frozenset(
    {"numpy.ndarray", "builtins.object", "builtins.list", "copyreg._reconstructor"}
)
