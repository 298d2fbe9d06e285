"""Credentials stay with the host they are of, and https stays https."""

import pytest
import requests

from utils.fetching.session import CarefulSession


@pytest.fixture
def netrc(tmp_path, monkeypatch):
    file = tmp_path / "netrc"
    file.write_text("machine a.org login me password secret\ndefault login any password all\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))


def authorization(session, url):
    request = session.prepare_request(requests.Request("GET", url))
    return request.headers.get("Authorization")


def test_credentials_of_an_entry_go_to_its_host_alone(netrc):
    session = CarefulSession()
    assert authorization(session, "https://a.org/x") == "Basic bWU6c2VjcmV0"
    assert authorization(session, "https://b.org/x") is None
    assert authorization(session, "https://default/x") is None
    assert authorization(session, "https://you:pw@b.org/x") == "Basic eW91OnB3"


def test_a_missing_or_broken_netrc_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "nothing"))
    assert authorization(CarefulSession(), "https://a.org/x") is None
    (tmp_path / "broken").write_text("machine")
    monkeypatch.setenv("NETRC", str(tmp_path / "broken"))
    assert authorization(CarefulSession(), "https://a.org/x") is None


def redirected(session, before, after):
    """The request that follows a redirect, and where it leads."""
    response = requests.Response()
    response.status_code, response.url = 302, before
    response.headers["Location"] = after
    response.request = session.prepare_request(requests.Request("GET", before))
    target = session.get_redirect_target(response)
    following = response.request.copy()
    following.url = target
    session.rebuild_auth(following, response)
    return following


def test_a_redirect_to_another_host_brings_no_credentials(netrc):
    session = CarefulSession()
    same = redirected(session, "https://a.org/x", "https://a.org/y")
    assert same.headers["Authorization"] == "Basic bWU6c2VjcmV0"
    other = redirected(session, "https://a.org/x", "https://b.org/y")
    assert "Authorization" not in other.headers
    back = redirected(session, "https://b.org/x", "https://a.org/y")
    assert "Authorization" not in back.headers


@pytest.mark.parametrize("after", ["http://a.org/y", "http://b.org/y", "HTTP://a.org/y"])
def test_https_is_never_given_up(after):
    with pytest.raises(requests.exceptions.InvalidSchema):
        redirected(CarefulSession(), "https://a.org/x", after)


@pytest.mark.parametrize(
    ("before", "after"),
    [("https://a.org/x", "/y"), ("http://a.org/x", "https://a.org/y"), ("http://a/x", "http://b/")],
)
def test_other_redirects_are_followed(before, after):
    assert redirected(CarefulSession(), before, after).url
