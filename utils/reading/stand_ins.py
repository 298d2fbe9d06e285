"""Inert stand-ins for the classes that pickles of data name; none of numpy's own code is reached.

Whatever a file does with them, they check the content before an array is made of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from utils.errors import DataError, UnsafeFileError
from utils.shown import shown

MOST_DIMENSIONS = 8
DEEPEST = 100
NUMBERS = re.compile(r"[<>|=]?(?:f[248]|[iu][1248]|b1)")
TEXT = re.compile(r"[<>|=]?[US][0-9]{1,6}")
NUMBER_CLASSES: Final = (
    *("float16", "float32", "float64", "bool_", "bool"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)


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

    def __setstate__(self, state: object) -> None:
        """Take the known fields and no others."""
        if isinstance(state, tuple) and len(state) == 2 and state[0] is None:
            state = state[1]
        if not isinstance(state, dict):
            raise TypeError
        for name, default in vars(type(self)()).items():
            setattr(self, name, state.get(name, default))


class Name:
    """A class or function that may be named but not used."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __setstate__(self, state: object) -> None:
        """Refuse: a file may not change what the next one reads."""
        raise UnsafeFileError(f"sets the state of {self.text}")


class Call(Name):
    """A function that may be called; `function` is what runs in its place."""

    __slots__ = ("function",)

    def __init__(self, text: str, function: Callable[..., object]) -> None:
        super().__init__(text)
        self.function = function

    def __call__(self, *arguments: object) -> object:
        """Run the stand-in."""
        return self.function(*arguments)


class Array:
    """A numpy array between its creation and its state."""

    __slots__ = ("value",)
    __hash__ = None  # type: ignore[assignment]
    value: np.ndarray

    def __setstate__(self, state: object) -> None:
        """Take the content once it fits shape and type."""
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise TypeError
        shape, dtype, is_fortran, content = state[-4:]
        self.value = array_of(content, dtype, shape, is_fortran is True)


class Dtype:
    """A type of numbers or of text."""

    __slots__ = ("value",)

    def __init__(self, code: object, *flags: object) -> None:
        if not isinstance(code, str) or not (NUMBERS.fullmatch(code) or TEXT.fullmatch(code)):
            raise UnsafeFileError(
                f"holds an array of {shown(code)}, which is not a type of numbers"
            )
        self.value = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        """Take the byte order, and refuse records."""
        if not isinstance(state, tuple) or len(state) < 5:
            raise TypeError
        _, order, subtype, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or (subtype, names, fields) != (None, None, None):
            raise UnsafeFileError("holds an array of records, which is not a type of numbers")
        self.value = self.value.newbyteorder(order)


def array_of(content: object, dtype: object, shape: object, is_fortran: bool) -> np.ndarray:
    """Return an array over `content`, which must hold exactly as many bytes as it needs."""
    if not isinstance(dtype, Dtype) or not isinstance(shape, tuple):
        raise UnsafeFileError(f"holds an array of {shown(dtype)}, which is not a type of numbers")
    if isinstance(content, str):  # bytes of Python 2
        content = content.encode("latin-1")
    if not isinstance(content, (bytes, bytearray)):
        raise UnsafeFileError(f"holds an array over {shown(content)}")
    if len(shape) > MOST_DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
        raise DataError("holds an array of impossible shape")
    if math.prod(shape) * dtype.value.itemsize != len(content):
        raise DataError(
            f"holds an array of shape {shown(shape)} and {dtype.value} in {len(content)} bytes"
        )
    flat = np.frombuffer(content, dtype.value) if content else np.empty(0, dtype.value)
    if not dtype.value.isnative:
        flat = flat.astype(dtype.value.newbyteorder("="))
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(cls: object, shape: object, code: object) -> Array:
    if cls is not Array:
        raise UnsafeFileError(f"makes an array of class {shown(cls)}")
    return Array()


def _scalar(dtype: object, content: object = b"") -> object:
    value: object = array_of(content, dtype, (1,), is_fortran=False)[0].item()
    return value


def _frombuffer(content: object, dtype: object, shape: object, order: object) -> Array:
    made = Array()
    made.value = array_of(content, dtype, shape, order == "F")
    return made


def _numpy_names() -> dict[str, object]:
    calls: dict[str, Callable[..., object]] = {
        "multiarray._reconstruct": _reconstruct,
        "multiarray.scalar": _scalar,
        "numeric._frombuffer": _frombuffer,
    }
    names: dict[str, object] = {"numpy.ndarray": Array, "numpy.dtype": Dtype}
    for core in ("numpy.core", "numpy._core"):
        names |= {f"{core}.{name}": Call(name, function) for name, function in calls.items()}
    return names | {f"numpy.{name}": Name(f"numpy.{name}") for name in NUMBER_CLASSES}


NUMPY: Final = _numpy_names()
"""Names of numpy that any file may hold."""


def settled(value: Any, seen: set[int] | None = None, depth: int = 0) -> Any:  # noqa: ANN401
    """Return a value with the arrays in place of their stand-ins; lists and dicts are changed."""
    seen = set() if seen is None else seen
    kind = type(value)
    if kind is Array or kind is Dtype:
        if not hasattr(value, "value"):
            raise DataError("holds an array without content")
        return value.value
    if kind not in (list, dict, tuple, ExpertStore):
        return value
    if depth > DEEPEST:
        raise UnsafeFileError("is nested too deeply")
    if kind is tuple:
        return tuple(settled(item, seen, depth + 1) for item in value)
    if id(value) not in seen:
        seen.add(id(value))
        holder: Any = vars(value) if kind is ExpertStore else value
        for key, item in enumerate(value) if kind is list else list(holder.items()):
            if type(item) in (Array, Dtype, list, dict, tuple, ExpertStore):
                holder[key] = settled(item, seen, depth + 1)
    return value
