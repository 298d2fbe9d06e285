"""The one door for devices: which one computes, how precisely, and whether a model fits."""

import contextlib
import os
from pathlib import Path

import torch

from utils.errors import UsageError

BYTES_OF_PARAMETER = 16
"""Least that training takes of each: itself, its gradient and two moments in float32."""
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Of this container, in the second and the first version."""


def choose_device(name: str | None) -> torch.device:
    """Return the CPU for None or "cpu", a GPU for its number, "cuda" or "cuda:N", or "mps".

    torchrun's processes take the GPUs from that one on. Raises UsageError when that device is not
    usable here; another is never taken in its place.
    """
    if name is None or name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise UsageError("--device mps: found no usable Apple GPU; leave --device out")
        return torch.device("mps")
    number = "0" if name == "cuda" else name.removeprefix("cuda:")
    if not number.isdecimal():
        raise UsageError(
            f"--device {name}: expected the number of a GPU, such as 0, or cuda, cuda:0, mps, cpu"
        )
    local = os.environ.get("LOCAL_RANK", "")
    index = int(number) + (int(local) if local.isdecimal() else 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        found = f"{count} usable (0 to {count - 1})" if count else "no usable GPU"
        raise UsageError(
            f"--device {index}: found {found}; leave --device out to compute on the CPU"
        )
    return torch.device("cuda", index)


def set_precision(precision: str) -> None:
    """Let matrix products of float32 use TF32 for "tf32", full float32 otherwise."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def require_memory(parameters: int, device: torch.device) -> None:
    """Raise UsageError for a model whose training cannot fit this machine's memory.

    Without this, the system would end the process while the weights are made.
    """
    needed, there = BYTES_OF_PARAMETER * parameters, _memory()
    if device.type == "cpu" and needed > there:
        raise UsageError(
            f"the model has {parameters:,} parameters; training them takes at least "
            f"{needed / 1e9:.1f} GB, this machine has {there / 1e9:.1f} GB: choose smaller ones, "
            "such as arch.args.vlad_clusters and experts.ce_shared_dim"
        )


def _memory() -> int:
    """Return the memory of this machine, or of this container where that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such container; "max"
            limits.append(int(file.read_text()))
    return min(limits)


def describe(device: torch.device) -> str:
    """Return the device in words, for results."""
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return f"cpu ({torch.get_num_threads()} threads)"
