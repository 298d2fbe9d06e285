"""Which share of a list is this process's: by flag, by torchrun, or by an array of Slurm jobs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from utils.errors import UsageError

T = TypeVar("T")
SLURM = "SLURM_ARRAY_TASK_"


@dataclass(frozen=True)
class Shard:
    """Number `index` (from 0) of `count` shares."""

    index: int
    count: int

    def of(self, items: Sequence[T]) -> list[T]:
        """Return this share: every `count`-th item, so that shares are alike."""
        return list(items[self.index :: self.count])


def find_shard(flag: str | None, environment: Mapping[str, str]) -> Shard | None:
    """Return the share that `--shard i/n` names, else torchrun's or Slurm's; None for no sharing.

    Raises UsageError for what is no share.
    """
    if flag is not None:
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", flag)
        if match is None:
            raise UsageError(f"--shard {flag}: expected i/n, such as 0/4, 1/4, 2/4 and 3/4")
        return _checked(f"--shard {flag}", int(match[1]), int(match[2]))
    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank, size = (_number(environment, name) for name in ("RANK", "WORLD_SIZE"))
        return _checked(f"RANK {rank} of WORLD_SIZE {size}", rank, size)
    if f"{SLURM}ID" in environment and f"{SLURM}COUNT" in environment:
        number, count = (_number(environment, f"{SLURM}{name}") for name in ("ID", "COUNT"))
        first = _number(environment, f"{SLURM}MIN") if f"{SLURM}MIN" in environment else 0
        step = _number(environment, f"{SLURM}STEP") if f"{SLURM}STEP" in environment else 1
        index = (number - first) // max(1, step)
        return _checked(f"{SLURM}ID {number} of {count}", index, count)
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not re.fullmatch(r"\d{1,9}", text):
        raise UsageError(f"{name}={text}: expected a number; unset it, or give --shard i/n")
    return int(text)


def _checked(what: str, index: int, count: int) -> Shard | None:
    if not 0 <= index < count:
        raise UsageError(f"{what}: shares are numbered from 0 to n - 1; expected i below n")
    return Shard(index, count) if count > 1 else None
