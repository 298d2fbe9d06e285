"""Threads of OpenMP that wait for each other asleep."""

import os


def wait_asleep() -> None:
    """Let threads sleep while they wait, unless the environment says how; before torch is imported.

    By default they spin, which takes the cores from the very threads they wait for as soon as
    another program runs.
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
