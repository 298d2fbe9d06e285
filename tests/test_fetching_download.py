"""Downloads from a real server: the right file, or a clear error and no file."""

import copy
import errno
import hashlib
import io
import json
import logging
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from file_server import Faults, FileServer, make_archive
from surroundings import limited
from utils.errors import DataError, DownloadError, UnreachableError, UsageError
from utils.fetching import download, partial
from utils.fetching.download import Policy, fetch, repair_url
from utils.fetching.manifest import manifest_path
from utils.reading.archives import check_archive

ROOT = Path(__file__).resolve().parent.parent
PATIENT = Policy(tries=4, first_delay=0.0, longest_delay=0.0, timeouts=(2, 2))
CONTENT = random.Random(0).randbytes(300_000)


@pytest.fixture(autouse=True)
def policy(monkeypatch):
    """A function that changes how patient downloads are."""

    def change(**more):
        monkeypatch.setattr(download, "POLICY", replace(download.POLICY, **more))

    monkeypatch.setattr(download, "POLICY", PATIENT)
    return change


@pytest.fixture
def server():
    with FileServer() as running:
        running.files["/a.bin"] = CONTENT
        yield running


def get(server, tmp_path, name="a.bin", **more):
    return fetch(server.url(f"/{name}"), tmp_path / name, **more)


def arrives(server, tmp_path, content=CONTENT, **more):
    get(server, tmp_path, **more)
    assert (tmp_path / "a.bin").read_bytes() == content
    assert names(tmp_path) == COMPLETE


def fails(server, tmp_path, match, name="a.bin", **more):
    """The file is refused, and nothing of it is left."""
    with pytest.raises(DownloadError, match=match):
        get(server, tmp_path, name, **more)
    assert not list(tmp_path.iterdir())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


COMPLETE = ["a.bin", "a.bin.manifest.json"]


def test_a_file_arrives_whole_with_its_manifest(server, tmp_path):
    fetched = get(server, tmp_path)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert (fetched.size, fetched.sha256, fetched.downloaded) == (len(CONTENT), sha256, True)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert names(tmp_path) == COMPLETE
    manifest = json.loads(manifest_path(tmp_path / "a.bin").read_text())
    assert time.strptime(manifest.pop("date"), "%Y-%m-%dT%H:%M:%SZ")
    url = server.url("/a.bin")
    assert manifest == {"file": "a.bin", "size": len(CONTENT), "sha256": sha256, "url": url}
    assert not get(server, tmp_path).downloaded  # a second run asks nobody
    assert len(server.requests) == 1


def test_a_changed_file_is_refused_until_refreshed(server, tmp_path):
    get(server, tmp_path)
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DownloadError, match="is not the file that was fetched on") as caught:
        get(server, tmp_path, refresh="make it so")
    assert "to fetch it again: make it so" in str(caught.value)
    with pytest.raises(DownloadError, match=r"rm .*a\.bin .*a\.bin\.manifest\.json"):
        get(server, tmp_path)
    assert get(server, tmp_path, replace_changed=True).downloaded
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_another_file_on_the_server_is_refused_until_refreshed(server, tmp_path):
    get(server, tmp_path)
    (tmp_path / "a.bin").unlink()
    server.files["/a.bin"] = b"new" * 1000
    with pytest.raises(DownloadError, match="checksum mismatch: the manifest of the file fetched"):
        get(server, tmp_path)
    assert names(tmp_path) == ["a.bin.manifest.json"]
    assert get(server, tmp_path, replace_changed=True).size == 3000


def test_a_file_put_there_by_hand_is_checked_and_adopted(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    assert not get(server, tmp_path).downloaded
    assert not server.requests
    assert "not fetched" in json.loads(manifest_path(tmp_path / "a.bin").read_text())["note"]
    (tmp_path / "b.json").write_bytes(b"<html>login</html>")
    with pytest.raises(DownloadError, match=r"b\.json is an HTML page"):
        get(server, tmp_path, "b.json")


def test_a_broken_manifest_is_named(server, tmp_path):
    get(server, tmp_path)
    manifest_path(tmp_path / "a.bin").write_text("[]")
    with pytest.raises(DataError, match=r"a\.bin\.manifest\.json: .*remove it"):
        get(server, tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_connections_cut_at_random_bytes_many_times(server, tmp_path, seed):
    cuts = [random.Random(seed).randrange(1, 20_000) for _ in range(25)]
    server.faults["/a.bin"] = Faults(drop_after=cuts)
    arrives(server, tmp_path)
    # nothing is fetched twice: what the cut connections brought is continued
    assert server.sent == len(CONTENT)
    later = server.requests[1:]
    assert later
    assert all("If-Range" in r.headers and "Range" in r.headers for r in later)


CUTS = [40_000, 10_000, 3, 60_000, 5000]
LIES = ("bytes 0-299999/300000", "bytes 100-1/*", "garbage")
RECOVERED = {
    "cut, a weak ETag": Faults(drop_after=CUTS, etag="weak"),
    "cut, a weak ETag and a date": Faults(drop_after=CUTS, etag="weak", last_modified=True),
    "cut, a date": Faults(drop_after=CUTS, etag=False, last_modified=True),
    "cut, no version": Faults(drop_after=CUTS, etag=False),
    "no ranges": Faults(ranges=False, drop_after=[1000, 50_000, 20_000, 299_999]),
    "parts smaller than asked for": Faults(drop_after=[10], most_per_range=70_000),
    "a part from elsewhere": Faults(
        drop_after=[50_000], shifted_range=7, most_per_range=len(CONTENT) - 50_000
    ),
    **{lie: Faults(drop_after=[1000], content_range=lie) for lie in LIES},
    "chunks": Faults(chunked=True, drop_after=[50_000, 100_000]),
    "a body until the connection closes": Faults(no_length=True),
    "silence": Faults(silent_after=[100, 30_000, 5000]),
    "three errors of the server": Faults(statuses=[503, 500, 429]),
    "encoded as text": Faults(content_encoding="gzip", content_type="application/x-tar"),
}


@pytest.mark.parametrize("kind", RECOVERED)
def test_the_right_file_arrives(server, tmp_path, policy, kind):
    server.faults["/a.bin"] = copy.deepcopy(RECOVERED[kind])  # its lists are used up
    policy(timeouts=(2, 0.2))
    arrives(server, tmp_path)
    if kind.startswith(("cut", "silence")):
        assert server.sent <= len(CONTENT) + len(CUTS) * download.OVERLAP


@pytest.mark.parametrize("etag", [True, False])
@pytest.mark.parametrize("any_version", [True, False])
def test_a_file_that_changes_between_two_requests_is_never_mixed(
    server, tmp_path, policy, etag, any_version
):
    server.faults["/a.bin"] = Faults(drop_after=[100_000], etag=etag, any_version=any_version)
    other = random.Random(1).randbytes(len(CONTENT))

    def change(_):
        server.files["/a.bin"] = other

    policy(sleep=change)
    arrives(server, tmp_path, other)


def test_another_length_is_another_file_where_no_version_says_so(server, tmp_path, policy):
    server.faults["/a.bin"] = Faults(drop_after=[100_000], etag=False)
    other = bytes(90_000) + CONTENT[90_000:] + b"more"  # the last bytes that are here are equal
    policy(sleep=lambda _: server.files.update({"/a.bin": other}))
    arrives(server, tmp_path, other)


@pytest.mark.parametrize("no_length", [True, False])
def test_too_small_a_length_is_noticed_by_the_content(server, tmp_path, no_length):
    whole = make_archive({"data/x": CONTENT})
    # a connection that ends early looks like the end of the file
    server.files["/a.tar.gz"] = whole[:2000] if no_length else whole
    length = None if no_length else 2000
    server.faults["/a.tar.gz"] = Faults(no_length=no_length, length=length)
    fails(
        server,
        tmp_path,
        r"holds 2000 bytes that cannot be used.*incomplete",
        "a.tar.gz",
        check=check_archive,
    )


OK, FOUND = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 302 Found\r\nLocation: "
SIZED = OK + b"Content-Length: "
FAILED = {
    "too large a length": (Faults(length=300_500), 5, "announced 300500 bytes|500 more expected"),
    "503 for ever": (Faults(statuses=[503] * 99), 4, "asked 4 time.*status 503"),
    "404": (Faults(statuses=[404]), 1, "last answer: status 404"),
    "silence": (Faults(silent_after=[0] * 4), 4, "asked 4 time.*timed out"),
    "a byte for each request": (Faults(drop_after=[1] * 99), None, r"asked \d+ time.* bytes are"),
    "a circle": (Faults(redirect="/a.bin"), 6, "TooManyRedirects"),
    "to a file": (Faults(redirect="file:///etc/passwd"), 1, "InvalidSchema"),
    "to ftp": (Faults(redirect="ftp://127.0.0.1/a.bin"), 1, "InvalidSchema"),
    "a byte, then silence": (Faults(silent_after=[1] * 4), 4, "asked 4 time.* 4 bytes.*timed out"),
    "to no address": (Faults(whole_answer=FOUND + b"http://[::1\r\n\r\n"), 1, "Invalid IPv6"),
    "to no port": (Faults(whole_answer=FOUND + b"http://a:99999/\r\n\r\n"), 1, "Port out of"),
    "to no text": (Faults(whole_answer=FOUND + b"/\xff\r\n\r\n"), 1, "UnicodeDecodeError"),
    **{
        f"a length of {digits} digits": (
            Faults(whole_answer=SIZED + b"9" * digits + b"\r\n\r\nbody"),
            4,
            "IncompleteRead",
        )
        for digits in (19, 4000)
    },
}


@pytest.mark.parametrize("kind", FAILED)
def test_requests_that_fail_end_in_an_error(server, tmp_path, policy, kind):
    faults, asked, reason = FAILED[kind]
    server.faults["/a.bin"] = copy.deepcopy(faults)
    policy(timeouts=(2, 0.2), slowest=1e5)
    with pytest.raises(DownloadError) as caught:
        get(server, tmp_path)
    message = str(caught.value)
    assert re.search(reason, message)
    assert f"could not fetch {server.url('/a.bin')}" in message
    assert f"by hand: curl -L -o {tmp_path}/a.bin" in message
    assert asked in (len(server.requests), None)
    assert "a.bin" not in names(tmp_path)


@pytest.mark.parametrize(
    ("faults", "delays"),
    [
        (Faults(statuses=[503, 500, 429]), [1.0, 2.0, 4.0]),
        (Faults(statuses=[503], retry_after="7"), [7.0]),
        (Faults(statuses=[503], retry_after="86400"), [9.0]),
    ],
)
def test_delays_grow_and_respect_the_server_within_bounds(server, tmp_path, policy, faults, delays):
    server.faults["/a.bin"], waited = copy.deepcopy(faults), []
    policy(first_delay=1.0, longest_delay=9.0, sleep=waited.append)
    get(server, tmp_path)
    assert waited == delays


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
SLOW = "bytes of content in 0 s"
ENDLESS = {
    "a body of 100 bytes a second": (SIZED + b"300000\r\n\r\n", b"x", 0.01, SLOW),
    "chunks of 100 bytes a second": (CHUNKED, b"1\r\nx\r\n", 0.01, SLOW),
    "slow interim answers": (b"", INTERIM, 0.03, SLOW),
    "fast interim answers": (b"", INTERIM * 100, 0, SLOW),
    "a slow header": (OK + b"X: ", b"x", 0.01, SLOW),
    "a long header": (OK + b"X: ", b"x" * 1000, 0, "LineTooLong"),
    "many headers": (OK, b"X: x\r\n" * 100, 0, "got more than 100 headers"),
    "slow trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: x\r\n", 0.01, SLOW),
    "fast trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: x\r\n" * 100, 0, SLOW),
    "the size of a chunk": (CHUNKED, b"0" * 1000, 0, "LineTooLong"),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_answers_without_an_end_are_given_up(server, tmp_path, policy, kind):
    start, piece, pause, reason = ENDLESS[kind]
    server.faults["/a.bin"] = Faults(whole_answer=start, for_ever=piece, drip=pause)
    policy(tries=2, window=0.2)
    began = time.monotonic()
    with pytest.raises(DownloadError, match=f"asked [23] time.*{reason}"):
        get(server, tmp_path)
    assert time.monotonic() - began < 20


@pytest.fixture
def secure(tmp_path_factory, monkeypatch):
    """A server of https, whose certificate is trusted."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command, which makes the certificate")
    file = tmp_path_factory.mktemp("certificate") / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command += " -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -out - -keyout -"
    made = subprocess.run(command.split(), capture_output=True, check=True)
    file.write_bytes(made.stdout)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
    with FileServer(file) as running:
        running.files["/a.bin"] = CONTENT
        yield running


def test_https_is_resumed_paced_and_never_given_up(secure, server, tmp_path, policy):
    secure.faults["/a.bin"] = Faults(drop_after=[1000, 50_000])
    arrives(secure, tmp_path)
    assert secure.sent == len(CONTENT)
    secure.files["/b.bin"] = CONTENT
    secure.faults["/b.bin"] = Faults(drip=0.01)
    secure.faults["/c.bin"] = Faults(redirect=server.url("/a.bin"))
    policy(tries=2, window=0.2)
    for name, reason in (
        ("b.bin", f"asked 2 time.*{SLOW}"),
        ("c.bin", "from https to plain http"),
    ):
        with pytest.raises(DownloadError, match=reason):
            get(secure, tmp_path, name)
    assert not server.requests


def test_the_body_of_a_redirect_is_not_waited_for(server, tmp_path):
    found = f"HTTP/1.1 302 Found\r\nLocation: {server.url('/a.bin')}\r\n\r\n".encode()
    server.faults["/old.bin"] = Faults(whole_answer=found, for_ever=b"x" * 1000)
    fetch(server.url("/old.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_an_unreachable_server_says_what_was_tried(tmp_path):
    with socket.socket() as held:  # bound, but nobody listens
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/a.bin"
        with pytest.raises(UnreachableError) as caught:
            fetch(url, tmp_path / "x" / "y" / "a.bin")
    assert not (tmp_path / "x").exists()
    for part in (url, "asked 1 time", "refused", "by hand", "--root_url"):
        assert part in str(caught.value)


@pytest.mark.parametrize("status", [404, 503])
def test_what_a_server_says_cannot_move_the_cursor(server, tmp_path, caplog, status):
    caplog.set_level(logging.INFO)
    answer = b"HTTP/1.1 %d \x1b[2Jgr\xfcn\x9b1m\r\nContent-Length: 0\r\n\r\n" % status
    server.faults["/a.bin"] = Faults(whole_answer=answer)
    with pytest.raises(DownloadError) as caught:
        get(server, tmp_path)
    for said in (str(caught.value), caplog.text):
        assert "\x1b" not in said
        assert "\x9b" not in said
    assert rf"status {status} \x1b[2Jgrün\x9b1m" in str(caught.value)


PAGE = b"\n<!DOCTYPE html>\n<html><head></head>"


@pytest.mark.parametrize("rest", [b"</html>", b" " * 5000])
@pytest.mark.parametrize("name", ["a.tar.gz", "a.bin"])
def test_a_page_in_place_of_the_file_is_refused(server, tmp_path, name, rest):
    server.files[f"/{name}"] = PAGE + rest
    fails(server, tmp_path, "is an HTML page, not a", name)


def test_a_published_sha1_is_verified(server, tmp_path):
    fails(server, tmp_path, r"published sha1 0{40}", sha1="0" * 40)
    get(server, tmp_path, sha1=hashlib.sha1(CONTENT).hexdigest())
    assert names(tmp_path) == COMPLETE


@pytest.fixture
def begun(server, tmp_path):
    """The first 100,000 bytes of the file are here."""
    server.faults["/a.bin"] = Faults(etag='"1"', drop_after=[100_000, 0, 0, 0, 0])
    with pytest.raises(DownloadError, match="100000 bytes are here"):
        get(server, tmp_path)
    assert names(tmp_path) == ["a.bin.partial", "a.bin.partial.json"]
    server.requests.clear()
    return tmp_path / "a.bin.partial"


def test_a_failed_run_is_continued_by_the_next(server, tmp_path, begun):
    get(server, tmp_path)
    assert server.sent == len(CONTENT)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_without_an_end_is_cut_off_and_dropped(server, tmp_path, begun, caplog):
    caplog.set_level(logging.INFO)
    head = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 100000-299999/300000\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    endless = Faults(whole_answer=chunked, for_ever=b"10000\r\n%s\r\n" % bytes(1 << 16))
    server.faults["/a.bin"] = endless
    # the second request asks for no part
    fails(server, tmp_path, "asked 2 time.*status 206")
    assert "more than the announced 300000 bytes came" in caplog.text


def test_parts_of_an_earlier_run_that_do_not_fit_are_fetched_anew(server, tmp_path, begun, caplog):
    """A crash of the machine may leave a partial file of the right size with wrong bytes."""
    begun.write_bytes(bytes(100_000))
    arrives(server, tmp_path, sha1=hashlib.sha1(CONTENT).hexdigest())
    assert "do not fit together, fetching it anew" in caplog.text


@pytest.mark.parametrize("state", [None, "not json", '{"url": "x"}', '{"total": 5, "url": ["x"]}'])
def test_a_partial_file_of_unknown_origin_is_dropped(server, tmp_path, begun, state):
    begun.with_name("a.bin.partial.json").unlink()
    if state is not None:
        begun.with_name("a.bin.partial.json").write_text(state)
    arrives(server, tmp_path)
    assert "Range" not in server.requests[0].headers


def test_a_partial_file_from_another_mirror_is_dropped(server, tmp_path, begun):
    server.files["/b/a.bin"] = other = random.Random(1).randbytes(len(CONTENT))
    server.faults["/b/a.bin"] = Faults(etag='"1"')
    fetch(server.url("/b/a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == other


def test_a_partial_file_longer_than_announced_is_dropped(server, tmp_path, begun):
    begun.write_bytes(CONTENT[:100_000] + bytes(len(CONTENT)))
    arrives(server, tmp_path)
    assert "Range" not in server.requests[0].headers


def test_a_partial_file_that_is_a_link_is_not_followed(server, tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "a.bin.partial").symlink_to(tmp_path / "victim")
    with pytest.raises(DownloadError, match="cannot be written"):
        get(server, tmp_path)
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_disk_space_is_checked_before_the_first_byte(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    fails(server, tmp_path, r"needs 0\.3 MiB more, but only 0\.0 MiB are free")


def test_a_disk_that_fills_on_the_way_keeps_the_part_for_later(server, tmp_path):
    full = limited(resource.RLIMIT_FSIZE, 123_456)
    with full, pytest.raises(OSError, match=r"a\.bin\.partial") as caught:
        get(server, tmp_path)
    assert caught.value.errno == errno.EFBIG  # which `run_main` explains
    assert (tmp_path / "a.bin.partial").stat().st_size == 123_456
    arrives(server, tmp_path)
    assert server.sent < 2 * len(CONTENT)
    assert "Range" in server.requests[-1].headers


def test_a_place_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match=r"a\.bin\.partial cannot be written"):
        fetch(server.url("/a.bin"), tmp_path / "file" / "a.bin")
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(DownloadError, match="is in the way"):
        get(server, tmp_path)


def test_two_processes_do_not_write_the_same_file(server, tmp_path):
    with (
        partial.open_partial("", tmp_path / "a.bin"),
        pytest.raises(DownloadError, match="being fetched by another process"),
    ):
        get(server, tmp_path)


def test_a_file_system_without_locks_is_said_and_used(server, tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(partial.fcntl, "flock", no_locks)
    get(server, tmp_path)
    assert "cannot be locked" in caplog.text


FETCH = """
import sys
from pathlib import Path
from utils.fetching.download import fetch
fetch(sys.argv[1], Path(sys.argv[2]))
"""


def test_killed_in_the_middle_then_resumed(server, tmp_path):
    """SIGKILL leaves a partial file, never one under the final name; the next run goes on."""
    server.faults["/a.bin"] = Faults(silent_after=[100_000, 50_000, 20_000])
    path, partial = tmp_path / "a.bin", tmp_path / "a.bin.partial"
    for size in (100_000, 150_000, 170_000):
        command = [sys.executable, "-c", FETCH, server.url("/a.bin"), str(path)]
        child = subprocess.Popen(command, cwd=ROOT)
        while child.poll() is None and not (partial.exists() and partial.stat().st_size == size):
            time.sleep(0.001)
        child.kill()
        assert child.wait() == -signal.SIGKILL
        assert not path.exists()
    arrives(server, tmp_path)
    assert server.sent == len(CONTENT)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_with_size_and_rate_on_terminals_alone(server, tmp_path, monkeypatch, is_terminal):
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stderr", stream)
    get(server, tmp_path)
    shown = stream.getvalue()
    assert bool(re.search(r"a\.bin: 100%.* 293k/293k .*B/s", shown)) == is_terminal
    assert bool(shown) == is_terminal


def test_an_environment_proxy_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.root)
    fetch("http://mirror.invalid/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests[0].headers["Host"] == "mirror.invalid"


def answer_of_proxy(proxy, tmp_path, monkeypatch, scheme="http", variable="all_proxy"):
    monkeypatch.setenv(variable, proxy)
    with pytest.raises(DownloadError) as caught:
        fetch(f"{scheme}://mirror.invalid/a.bin", tmp_path / "a.bin")
    return caught.value


@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
def test_a_dead_proxy_is_named_and_not_the_server(tmp_path, monkeypatch, variable):
    scheme = "https" if variable == "HTTPS_PROXY" else "http"
    with socket.socket() as held:  # bound, but nobody listens
        held.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{held.getsockname()[1]}"
        proxy = f"http://me:secret@{place}/"
        error = answer_of_proxy(proxy, tmp_path, monkeypatch, scheme, variable)
    assert isinstance(error, UnreachableError)
    assert re.search(f"by the proxy {place} of {scheme}_proxy or all_proxy: .*refused", str(error))
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Faults(whole_answer=b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), "failed: 407"),
        (Faults(whole_answer=OK, for_ever=b"X: x\r\n" * 100), f"headers|{SLOW}"),
        (Faults(whole_answer=OK, for_ever=b"X: x\r\n", drip=0.01), SLOW),
    ],
)
def test_a_proxy_that_opens_no_tunnel_is_named(
    server, tmp_path, monkeypatch, policy, answer, reason
):
    server.faults["443"] = answer  # of the address mirror.invalid:443
    policy(tries=2, window=0.2)
    error = answer_of_proxy(server.root, tmp_path, monkeypatch, "https")
    place = server.root.removeprefix("http://")
    assert re.search(f"by the proxy {place} of https_proxy .*({reason})", str(error))
    assert len(server.requests) == 2


def test_a_proxy_that_is_no_address_is_named(tmp_path, monkeypatch):
    error = answer_of_proxy("http://:8080", tmp_path, monkeypatch)
    assert "asked 1 time" in str(error)
    assert "InvalidProxyURL" in str(error)


def test_passwords_in_addresses_are_not_written_down(server, tmp_path):
    url = server.url("/a.bin").replace("http://", "http://me:secret@")
    fetch(url, tmp_path / "a.bin")
    assert "Authorization" in server.requests[0].headers
    assert "secret" not in manifest_path(tmp_path / "a.bin").read_text()
    with pytest.raises(DownloadError) as caught:
        fetch(url + ".gone", tmp_path / "b.bin")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http:/host/a", "http://host/a"),
        ("https:/host/a", "https://host/a"),
        ("HTTP:///host/a", "HTTP://host/a"),
        ("http://host//a", "http://host//a"),
        (" http://host/a\n", "http://host/a"),
    ],
)
def test_links_of_old_registries_are_repaired(given, expected):
    assert repair_url(given) == expected


NO_ADDRESS = dict.fromkeys(
    ["", "host/a", "file:///etc/passwd", "ftp://host/a", "http://"], UsageError
)


@pytest.mark.parametrize(
    ("url", "error"),
    [*NO_ADDRESS.items(), ("http://[", DownloadError), ("http://h:x/", DownloadError)],
)
def test_what_is_no_address_is_refused(url, error, tmp_path):
    with pytest.raises(error):
        fetch(url, tmp_path / "a.bin")
