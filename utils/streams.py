"""Standard streams that every command can print to, wherever it runs."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Make printing safe within.

    A stream that is closed (`2>&-`, services) leads nowhere, and letters that a stream's encoding
    lacks (ASCII in containers) are written as escapes. The descriptors 0 to 2 are never left free:
    the next file that is opened would take one, and libraries write messages into it.
    """
    _occupy_descriptors()
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None or getattr(stream, "closed", False):
                nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                stack.callback(setattr, sys, name, stream)
                setattr(sys, name, nowhere)
            elif isinstance(stream, io.TextIOWrapper):  # no object in a stream's place
                stack.callback(_replace_letters, stream, stream.errors)
                _replace_letters(stream, "backslashreplace")
        yield


def is_terminal(stream: IO[str] | None) -> bool:
    """Say whether a stream is a terminal; those of notebooks and services may not know."""
    ask = getattr(stream, "isatty", None)
    try:
        return bool(ask and ask())
    except ValueError:  # it is closed
        return False


def _replace_letters(stream: io.TextIOWrapper, errors: str | None) -> None:
    if not stream.closed:
        stream.reconfigure(errors=errors)


def _occupy_descriptors() -> None:
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free one
