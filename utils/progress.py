"""A bar of bytes for the long jobs of the network and the archives."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def byte_bar(label: str, total: int | None, done: int = 0) -> tqdm[Any]:
    """Return a bar with size and rate in bytes; it draws itself on a terminal and nowhere else."""
    return tqdm(
        desc=label,
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=True if sys.stderr is None else None,
    )
