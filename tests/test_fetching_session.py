"""Credentials stay with the host they are of, and https stays https."""

import io
import itertools

import pytest
import requests
from requests.adapters import BaseAdapter

from utils.fetching.session import CarefulSession, Pace

ME, YOU = "Basic bWU6c2VjcmV0", "Basic eW91OnB3"


class Redirecting(BaseAdapter):
    """Answers each address with a redirect to the next one; no network."""

    def __init__(self, targets):
        super().__init__()
        self.targets, self.asked = targets, []

    def send(self, request, **_):
        response = requests.Response()
        response.request, response.url, response.raw = request, request.url, io.BytesIO(b"moved")
        target = self.targets.get(request.url)
        response.status_code = 302 if target else 200
        response.headers["Location"] = target or ""
        self.asked.append((request.url, request.headers.get("Authorization")))
        return response

    def close(self):
        pass


def ask(*urls):
    """Ask for the first address, redirected to the others; returns (address, credentials) each."""
    adapter = Redirecting(dict(itertools.pairwise(urls)))
    session = CarefulSession(Pace(1024, 60))
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.get(urls[0], stream=True)
    return adapter.asked


@pytest.fixture(autouse=True)
def netrc(tmp_path, monkeypatch):
    file = tmp_path / "netrc"
    file.write_text("machine a.org login me password secret\ndefault login any password all\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("https://a.org/x", ME),
        ("https://b.org/x", None),
        ("https://you:pw@b.org/x", YOU),
    ],
)
def test_credentials_of_an_entry_go_to_its_host_alone(url, credentials):
    assert [sent for _, sent in ask(url)] == [credentials]


@pytest.mark.parametrize("content", [None, "machine"])
def test_a_missing_or_broken_netrc_is_no_failure(tmp_path, monkeypatch, content):
    monkeypatch.setenv("NETRC", str(tmp_path / "other"))
    if content:
        (tmp_path / "other").write_text(content)
    assert ask("https://a.org/x") == [("https://a.org/x", None)]


@pytest.mark.parametrize(
    ("urls", "credentials"),
    [
        (["https://a.org/x", "https://a.org/y"], [ME, ME]),
        (["https://a.org/x", "https://b.org/y"], [ME, None]),
        (["https://b.org/x", "https://a.org/y"], [None, None]),
        (["https://a.org/x", "https://a.org:8443/y"], [ME, None]),
    ],
)
def test_a_redirect_to_another_host_brings_no_credentials(urls, credentials):
    assert ask(*urls) == list(zip(urls, credentials, strict=True))


@pytest.mark.parametrize("after", ["http://a.org/y", "http://b.org/y", "HTTP://a.org/y"])
def test_https_is_never_given_up(after):
    with pytest.raises(requests.exceptions.InvalidSchema):
        ask("https://a.org/x", after)


@pytest.mark.parametrize(
    ("before", "after", "reached"),
    [
        ("https://a.org/x", "/y", "https://a.org/y"),
        ("http://a.org/x", "https://a.org/y", "https://a.org/y"),
        ("http://a.org/x", "http://b.org/y", "http://b.org/y"),
    ],
)
def test_other_redirects_are_followed(before, after, reached):
    assert [url for url, _ in ask(before, after)] == [before, reached]
