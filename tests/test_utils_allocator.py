"""Memory kept between steps: fewer pages touched for the first time, and the same numbers."""

import os
import subprocess
import sys

import pytest

from utils import allocator
from utils.allocator import keep_memory, set_thresholds

HUGE = 4 << 20  # a page at the most, where the kernel makes them larger

TOUCH = """
import resource, sys
import torch
from utils.allocator import keep_memory, set_thresholds
work = lambda: [torch.ones(10 << 20) for _ in range(3)]
found = keep_memory() if sys.argv[1] == "keep" else False
for _ in range(4):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    work()
print(int(found), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word, **environment):
    found = subprocess.run(
        [sys.executable, "-c", TOUCH, word],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    return [int(number) for number in found.stdout.split()]


@pytest.mark.skipif(not set_thresholds(*allocator.SETTLED), reason="needs glibc")
def test_pages_are_touched_once():
    """How the heap is laid out differs from process to process: some have to grow it once more."""
    _, many = faults("leave")
    tries = (faults("keep") for _ in range(5))
    assert any(kept and few < many / 4 for kept, few in tries)
    assert many > 3 * 3 * (40 << 20) / HUGE


def test_settings_of_the_environment_are_left(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not keep_memory()


def test_a_version_that_refuses_large_thresholds(monkeypatch):
    asked = []

    def refuse(mapped, trimmed):
        asked.append(mapped)
        return mapped <= allocator.SETTLED[0]

    monkeypatch.setattr(allocator, "set_thresholds", refuse)
    assert keep_memory()
    assert asked == [1 << 30, 32 << 20]
