"""Memory that glibc's allocator keeps, instead of giving it back after every training step."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
MIB = 1 << 20
SETTLED = (32 * MIB, 64 * MIB)
"""The thresholds of mapping and trimming that glibc comes to by itself for blocks of any size."""


def keep_memory() -> bool:
    """Let freed memory be used again by the next step; return whether the system has such a switch.

    Gradients and activations of a step are blocks of megabytes. glibc maps the largest anew each
    time and gives the end of its heap back when that is free, so that every step touches thousands
    of pages for the first time, which the kernel has to clear. Settings of the environment
    (MALLOC_...) are left as they are.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    # Some versions refuse thresholds of mapping beyond their own greatest.
    return set_thresholds(1024 * MIB, 1024 * MIB) or set_thresholds(SETTLED[0], 1024 * MIB)


def set_thresholds(mapped: int, trimmed: int) -> bool:
    """Map blocks from `mapped` bytes on by themselves, give back a free end from `trimmed` on."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(M_MMAP_THRESHOLD, mapped) and mallopt(M_TRIM_THRESHOLD, trimmed))
