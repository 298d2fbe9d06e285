"""The one door for devices: which one computes, and how precisely."""

import torch

from utils.errors import UsageError


def choose_device(name: str | None) -> torch.device:
    """Return the CPU for None or "cpu", a GPU for its number, "cuda" or "cuda:N", or "mps".

    Raises UsageError when that device is not usable here; another is never taken in its place.
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
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number) >= count:
        found = f"{count} usable (0 to {count - 1})" if count else "no usable GPU"
        raise UsageError(
            f"--device {name}: found {found}; leave --device out to compute on the CPU"
        )
    return torch.device("cuda", int(number))


def set_precision(precision: str) -> None:
    """Let matrix products of float32 use TF32 for "tf32", full float32 otherwise."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def describe(device: torch.device) -> str:
    """Return the device in words, for results."""
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return f"cpu ({torch.get_num_threads()} threads)"
