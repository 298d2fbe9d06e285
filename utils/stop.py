"""Stopping politely: a signal is noted, the work reaches a safe place, then the command ends."""

import signal
from types import FrameType

from utils.errors import ProjectError


class StoppedError(ProjectError):
    """The command was asked to stop and has saved what it had; exit status 128 + signal."""

    def __init__(self, message: str, received: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + received


class StopSignals:
    """Note SIGTERM and SIGINT while in use; a second one acts at once.

    `received` is the number of the signal, 0 while there was none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise StoppedError("stopped at once, without saving", number)
        self.received = number
