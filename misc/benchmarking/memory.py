"""How much memory a part of a program needs."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

LOOK_AT_MEMORY_EVERY = 0.01  # seconds


class Memory:
    """Watch this process: the most it had in memory, and the most that was its own.

    Private memory is anonymous memory; mapped features, which any process may share and the
    system may take back at any time, are not in it.
    """

    def __enter__(self) -> Memory:
        gc.collect()
        self._begin = self._now()
        self._peak = self._begin
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def figures(self) -> dict[str, list[int]]:
        """Return the peaks in bytes."""
        return {"peak resident": [self._peak[0]], "peak private": [self._peak[1]]}

    @property
    def added(self) -> int:
        """Private bytes beyond those at the beginning."""
        return self._peak[1] - self._begin[1]

    def _watch(self) -> None:
        while not self._done.wait(LOOK_AT_MEMORY_EVERY):
            resident, private = self._now()
            self._peak = max(self._peak[0], resident), max(self._peak[1], private)

    @staticmethod
    def _now() -> tuple[int, int]:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        sizes = [int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon")]
        return sizes[0], sizes[1]
