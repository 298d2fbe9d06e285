"""Memory that glibc's allocator keeps, instead of giving it back after every training step."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 1 << 30
"""Bytes at the end of the heap that stay; what is larger than half of it is mapped by itself."""


def keep_memory() -> bool:
    """Let freed memory be used again by the next step; return whether the system has such a switch.

    Gradients and activations of a step are blocks of megabytes. glibc maps each one anew and gives
    it back when it is freed, so that every step touches thousands of pages for the first time,
    which the kernel has to clear. Settings of the environment (MALLOC_...) are left as they are.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT // 2 - 1) and mallopt(M_TRIM_THRESHOLD, KEPT))
