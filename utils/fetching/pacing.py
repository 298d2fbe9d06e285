"""Answers of a server, given up when they come too slowly or have headers without end."""

from __future__ import annotations

import http.client
import io
import time
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import ConnectionPool

LONGEST_LINES = 1 << 18
"""Bytes of lines in a row: the status, interim answers, headers, sizes of chunks, trailers."""


class SlowServerError(OSError):
    """Fewer bytes than the floor came in a window of time."""


class EndlessLinesError(OSError):
    """Headers or trailers did not end."""


class PacedAdapter(HTTPAdapter):
    """Gives up an answer of fewer than `slowest` bytes a second over `window` seconds of waiting.

    A timeout bounds the wait for one read alone: a server that sends a byte now and then passes it.
    """

    def __init__(self, slowest: float, window: float) -> None:
        super().__init__()
        self.slowest, self.window = slowest, window

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *arguments: object, **named: object
    ) -> ConnectionPool:
        """Return the pool for a request, to a proxy too, whose answers are read at a pace."""
        pool: Any = super().get_connection_with_tls_context(request, *arguments, **named)  # type: ignore[arg-type]
        slowest, window = self.slowest, self.window

        class Answer(http.client.HTTPResponse):
            def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
                super().__init__(*arguments, **named)
                self.fp = _Lines(_Paced(self.fp.detach(), slowest, window))

        attributes = {"response_class": Answer}
        pool.ConnectionCls = type("Connection", (type(pool).ConnectionCls,), attributes)
        return cast(ConnectionPool, pool)


class _Paced(io.RawIOBase):
    """The bytes of a socket, with the time spent waiting for them."""

    def __init__(self, source: io.RawIOBase, slowest: float, window: float) -> None:
        self.source, self.slowest, self.window = source, slowest, window
        self.came, self.waited = 0, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401
        began = time.monotonic()
        count = self.source.readinto(buffer)
        self.came += count or 0
        self.waited += time.monotonic() - began
        if self.waited > self.window:
            if self.came < self.slowest * self.waited:
                raise SlowServerError(f"only {self.came} bytes came in {self.waited:.0f} s")
            self.came, self.waited = 0, 0.0
        return count

    def close(self) -> None:
        self.source.close()
        super().close()


class _Lines(io.BufferedReader):
    """Counts lines between two reads of content: http.client reads all but the content by lines."""

    lines = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        left = LONGEST_LINES + 1 - self.lines
        line = super().readline(left if size is None or size < 0 else min(size, left))
        self.lines += len(line)
        if self.lines > LONGEST_LINES:
            raise EndlessLinesError(f"its headers take more than {LONGEST_LINES} bytes")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        self.lines = 0
        return super().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        self.lines = 0
        return super().read1(size)
