"""Fuzz a kind whose reading fails in three ways; run by tests/test_hostile_files.py."""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from misc import fuzz


def read(path):
    number = int(path.read_bytes())
    if number == 1:
        raise ZeroDivisionError
    if number == 2:
        time.sleep(60)
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def make(folder):
    (folder / "seed.txt").write_bytes(b"0")


fuzz.KINDS["failing"] = fuzz.Kind(".txt", make, read)
fuzz.mutation = lambda kind, seeds, seed, name, number: str(number).encode()

if __name__ == "__main__":
    sys.exit(
        fuzz.main(
            [
                "--jobs",
                "1",
                "--kind",
                "failing",
                "--mutations",
                "4",
                "--seconds",
                "1",
                "--keep",
                sys.argv[1],
            ]
        )
    )
