"""A session of requests that is careful with credentials, encryption and time."""

from __future__ import annotations

import contextlib
import http.client
import io
import netrc
import os
import time
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url
from urllib3.connectionpool import ConnectionPool

MOST_REDIRECTS = 5


class SlowServerError(OSError):  # urllib3 would take a TimeoutError for its own
    """Less content came than the floor demands."""


class Pace:
    """A floor on content: `slowest` bytes a second over each window of so many seconds.

    A timeout bounds the wait for one read alone: it lets a server pass that sends a byte now and
    then, or headers, interim answers and trailers without end. None of these is content.
    """

    def __init__(self, slowest: float, window: float) -> None:
        self.slowest, self.window = slowest, window
        self.start()

    def start(self) -> None:
        """Begin a window."""
        self.since, self.came = time.monotonic(), 0

    def check(self) -> None:
        """Raise SlowServerError when a window ends with too little of what `came`."""
        seconds = time.monotonic() - self.since
        if seconds > self.window:
            if self.came < self.slowest * seconds:
                raise SlowServerError(f"only {self.came} bytes of content in {seconds:.0f} s")
            self.start()


class CarefulSession(requests.Session):
    """Sends credentials to the host alone they are of, and follows no redirect from https to http.

    Credentials come from the address or from the machine's entry in ~/.netrc (or $NETRC); its
    `default` entry, which `requests` would send to any host, is not used.
    """

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self.auth, self.max_redirects = _with_credentials, MOST_REDIRECTS
        for scheme in ("http://", "https://"):
            self.mount(scheme, _PacedAdapter(pace))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return where a redirect leads; InvalidSchema when that gives up encryption."""
        target = super().get_redirect_target(resp)
        if target:
            found = urlsplit(urljoin(resp.url, target))
            if (urlsplit(resp.url).scheme, found.scheme) == ("https", "http"):
                raise requests.exceptions.InvalidSchema(
                    f"redirected from https to plain http, at {found.hostname}"
                )
            resp.close()  # requests would read and unpack the body, which may have no end
            resp.raw = io.BytesIO()
        return target

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Take the credentials out when a redirect leads to another host; add none."""
        before, after = str(response.request.url), str(prepared_request.url)
        if self.should_strip_auth(before, after):
            prepared_request.headers.pop("Authorization", None)


def _with_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    name, password = get_auth_from_url(str(request.url))
    if not name and not password:
        # no file, no home folder, a file that cannot be read, or no entry of this host
        with contextlib.suppress(OSError, RuntimeError, netrc.NetrcParseError, KeyError):
            file = os.environ.get("NETRC") or Path("~/.netrc").expanduser()
            found = netrc.netrc(str(file)).hosts[str(urlsplit(str(request.url)).hostname)]
            name, password = found[0] or found[1] or "", found[2] or ""
    return HTTPBasicAuth(name, password)(request) if name or password else request


class _PacedAdapter(HTTPAdapter):
    """Reads all answers, those of proxies too, at a pace."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self.pace = pace

    def get_connection_with_tls_context(self, *arguments: Any, **named: Any) -> ConnectionPool:  # noqa: ANN401
        def paced(*arguments: Any, **named: Any) -> http.client.HTTPResponse:  # noqa: ANN401
            answer = http.client.HTTPResponse(*arguments, **named)
            source: Any = answer.fp.raw  # all that comes is read here, lines and content
            read = source.readinto

            def read_and_check(buffer: bytearray) -> int | None:
                count: int | None = read(buffer)
                self.pace.check()
                return count

            source.readinto = read_and_check
            return answer

        pool: Any = super().get_connection_with_tls_context(*arguments, **named)
        answers = {"response_class": staticmethod(paced)}
        pool.ConnectionCls = type("Connection", (type(pool).ConnectionCls,), answers)
        return cast(ConnectionPool, pool)
