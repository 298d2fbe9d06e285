"""Progress bars: where they are drawn, and one of bytes for the network and the archives."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from utils.streams import is_terminal


def no_bar(*, hidden: bool = False) -> bool | None:
    """Return tqdm's `disable`: True when hidden, None for a bar that a terminal alone shows.

    tqdm takes missing streams and those without `isatty`, of services and notebooks, for one.
    """
    return True if hidden or not is_terminal(sys.stderr) else None


def byte_bar(label: str, total: int | None, done: int = 0) -> tqdm[Any]:
    """Return a bar with size and rate in bytes; it draws itself on a terminal and nowhere else."""
    return tqdm(
        desc=label,
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=no_bar(),
    )
