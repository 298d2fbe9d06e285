"""Why a request failed: the answer, the connection, or a proxy that the environment names."""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import requests
import urllib3
from requests.exceptions import InvalidProxyURL, ProxyError
from requests.utils import get_environ_proxies, select_proxy

from utils.shown import printable

LONGEST_REASON = 300
FAILURES: Final = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ValueError,  # headers that the libraries did not expect
)
HOPELESS: Final = (
    requests.TooManyRedirects,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidHeader,
    requests.exceptions.SSLError,
)
NO_CONNECTION: Final = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
)


class Failure(Exception):  # noqa: N818  (a condition, not an error that anybody sees)
    """A request that failed, and would fail again."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(printable(reason, LONGEST_REASON))
        self.wait = wait
        """Seconds after which the server wants to be asked again."""


class Passing(Failure):
    """A later try may succeed."""


class Unreachable(Passing):
    """No connection could be made: it was refused, there is no such host, or nobody answers."""


def failure_of(error: Exception, url: str) -> Failure:
    """Return what an error of FAILURES, met on the way to `url`, means for the next try."""
    causes = list(_causes(error))
    reason = re.sub(r"<?\w*Connection\([^)]*\)>?: ", "", str(causes[-1]))
    reason = f"{type(causes[-1]).__name__}: {reason}"
    request = getattr(error, "request", None)  # of another address, after a redirect
    if proxy := _proxy(request.url if request is not None else url):
        is_its_own = isinstance(error, (ProxyError, InvalidProxyURL))
        reason = f"{proxy} cannot be used: {reason}" if is_its_own else f"{reason}, by {proxy}"
    if isinstance(error, HOPELESS):
        return Failure(reason)
    if any(isinstance(cause, NO_CONNECTION) for cause in causes):
        return Unreachable(reason)
    if isinstance(error, ValueError) and not isinstance(error, requests.RequestException):
        return Failure(f"the answer cannot be understood: {reason}")
    return Passing(reason)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those it wraps: the libraries do so several times."""
    while error is not None:
        yield error
        wrapped = (getattr(error, "reason", None), *error.args)
        error = next((inner for inner in wrapped if isinstance(inner, BaseException)), None)


def _proxy(url: str) -> str:
    """Name the proxy on the way to `url`, without its password, and the variable that sets it."""
    if not (address := select_proxy(url, get_environ_proxies(url))):
        return ""
    place = address.partition("://")[2] or address
    scheme = urlsplit(url).scheme.lower()
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    variable = next((name for name in names if os.environ.get(name)), None)
    origin = f"of the variable {variable}" if variable else "of the system's settings"
    return f"the proxy {place.rpartition('@')[2].rstrip('/')} {origin}"
