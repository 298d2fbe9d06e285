"""Stopping politely: a signal is noted while work is in hand, then saved, then the command ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from utils.errors import ProjectError


class StoppedError(ProjectError):
    """The command was asked to stop and has saved what it had; exit status 128 + signal."""

    def __init__(self, message: str, received: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + received


class StopSignals:
    """Turn SIGTERM, SIGINT and SIGHUP (a terminal that closes) into StoppedError while in use.

    A signal acts at once, except within `noted()`, where work is in hand: there `received` becomes
    its number (0 before), and only a second one acts at once.
    """

    def __init__(self) -> None:
        self.received = 0
        self._noting = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python handles signals in its main thread alone
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started by nohup
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Only note signals within; one that nobody acted on there raises StoppedError after."""
        self._noting = True
        try:
            yield
        finally:
            self._noting = False
        if self.received:
            raise StoppedError("stopped by a signal; continue with --resume auto", self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        at_once = self.received or not self._noting
        self.received = number
        if at_once:
            raise StoppedError("stopped at once by a signal; what was saved is intact", number)
