"""The one door for chance: seed every generator, and carry their states over a restart."""

import random
from typing import Any

import numpy as np
import torch

NUMPY_WORDS = 624  # of numpy's generator, a Mersenne twister


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and torch, on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Return the state of every generator as tensors and plain types.

    Generators of GPUs are those of a process that uses them: asking would wake the devices.
    """
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    words = np.asarray(keys).astype(np.int64)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(words), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every generator back to where `random_state` found it.

    Devices that are not in use here, or were not then, keep their state. Raises ValueError, or
    what the generators raise, for a state that is none.
    """
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, gauss = state["numpy"]
    if not 0 <= position <= len(keys) == NUMPY_WORDS:  # numpy would read beyond its memory
        raise ValueError(f"numpy's generator is at {position} of {len(keys)} words")
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_initialized():
        for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(generator.cpu(), device)
