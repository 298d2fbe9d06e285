"""Threads of OpenMP that wait for each other asleep."""

import os

SPINS = "1000"
"""A few microseconds. 300,000 are the default; none at all make short waits on idle cores long."""


def wait_asleep() -> None:
    """Let threads that wait fall asleep soon, unless the environment decides; call before torch.

    By default they spin for long, which takes the cores from the very threads they wait for as
    soon as another program runs (docs/performance.md).
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = SPINS
