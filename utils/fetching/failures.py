"""Why a request failed: the answer, the connection, or a proxy that the environment names."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import requests
import urllib3
from requests.utils import get_environ_proxies, select_proxy

from utils.shown import printable

LONGEST_REASON = 300
FAILURES: Final = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ValueError,  # an address or headers that the libraries cannot read
)
FINAL: Final = (ValueError, requests.TooManyRedirects, requests.exceptions.SSLError)
NO_CONNECTION: Final = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
)


class Failure(Exception):  # noqa: N818  (a condition, not an error that anybody sees)
    """A request that failed."""

    def __init__(
        self, reason: str, *, again: bool = True, connected: bool = True, wait: float = 0.0
    ) -> None:
        super().__init__(printable(reason, LONGEST_REASON))
        self.again = again  # a later try may succeed
        self.connected = connected  # otherwise: refused, no such host, or nobody answers
        self.wait = wait  # seconds after which the server wants to be asked again


def failure_of(error: Exception) -> Failure:
    """Return what an error of FAILURES means for the next try."""
    causes = list(_causes(error))
    request = getattr(error, "request", None)
    proxy = "" if request is None else _proxy(request.url)
    return Failure(
        f"{proxy}{type(causes[-1]).__name__}: {causes[-1]}",
        again=not isinstance(error, FINAL),
        connected=not any(isinstance(cause, NO_CONNECTION) for cause in causes),
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those it wraps: the libraries do so several times."""
    while error is not None:
        yield error
        wrapped = (getattr(error, "reason", None), *error.args)
        error = next((inner for inner in wrapped if isinstance(inner, BaseException)), None)


def _proxy(url: str) -> str:
    """Name the proxy on the way to `url`, without its password, and the variables that set it."""
    address = select_proxy(url, get_environ_proxies(url))
    if not address:
        return ""
    place = address.rpartition("://")[2].rpartition("@")[2].rstrip("/")
    return f"by the proxy {place} of {urlsplit(url).scheme}_proxy or all_proxy: "
