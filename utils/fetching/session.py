"""A session of requests that keeps credentials and encryption where they were meant to be."""

from __future__ import annotations

import contextlib
import io
import netrc
import os
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url

from utils.fetching.pacing import PacedAdapter


class CarefulSession(requests.Session):
    """Sends credentials to the host alone they are of, and follows no redirect from https to http.

    Of a server slower than `slowest` bytes a second over `window` seconds it gives up the answer.

    Credentials come from the address or from the machine's entry in ~/.netrc (or $NETRC); its
    `default` entry, which `requests` would send to any host, is not used.
    """

    def __init__(self, redirects: int = 5, slowest: float = 1024.0, window: float = 60.0) -> None:
        super().__init__()
        self.auth, self.max_redirects = _with_credentials, redirects
        for scheme in ("http://", "https://"):
            self.mount(scheme, PacedAdapter(slowest, window))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return where a redirect leads; InvalidSchema when that gives up encryption."""
        target = super().get_redirect_target(resp)
        if target and urlsplit(resp.url).scheme == "https":
            found = urljoin(resp.url, target)
            if urlsplit(found).scheme == "http":
                where = urlsplit(found).hostname
                raise requests.exceptions.InvalidSchema(
                    f"redirected from https to plain http, at {where}"
                )
        if target:  # requests would read and unpack the body, which may have no end
            resp.close()
            resp.raw = io.BytesIO()
        return target

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Take the credentials out when a redirect leads to another host; add none."""
        headers, before = prepared_request.headers, response.request.url
        after = prepared_request.url
        if "Authorization" in headers and self.should_strip_auth(str(before), str(after)):
            del headers["Authorization"]


def _with_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    name, password = get_auth_from_url(str(request.url))
    if not name and not password:
        name, password = _netrc_entry(urlsplit(str(request.url)).hostname or "")
    return HTTPBasicAuth(name, password)(request) if name or password else request


def _netrc_entry(host: str) -> tuple[str, str]:
    """Return (name, password) of a host's own entry, ("", "") without one."""
    file = os.environ.get("NETRC")
    places = [Path(file)] if file else [Path("~/.netrc"), Path("~/_netrc")]
    for place in places:
        with contextlib.suppress(OSError, RuntimeError, netrc.NetrcParseError):
            entry = netrc.netrc(str(place.expanduser())).hosts.get(host)
            if entry and host != "default":
                return entry[0] or entry[1] or "", entry[2] or ""
    return "", ""
