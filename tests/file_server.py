"""A real HTTP server on 127.0.0.1 for the tests, with faults that can be set per path.

with FileServer() as server:
    server.files["/a.bin"] = b"..."
    server.faults["/a.bin"] = Faults(drop_after=[100, 2000], statuses=[503])
    fetch(server.url("/a.bin"), ...)
    assert server.requests[0].headers["Range"] == ...
"""

import gzip
import hashlib
import io
import socket
import ssl
import tarfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Faults:
    """What goes wrong with one path; lists are used up request by request."""

    statuses: list[int] = field(default_factory=list)  # answered instead of the file
    drop_after: list[int] = field(default_factory=list)  # bytes of body, then the line is cut
    ranges: bool = True  # False: Range is ignored
    most_per_range: int | None = None  # a part is answered with no more bytes than that
    shifted_range: int = 0  # a part is answered from that many bytes earlier, and says so
    any_version: bool = False  # If-Range is ignored
    etag: bool | str = True  # True: from the content; "weak"; False: none; or the text itself
    last_modified: bool = False
    length: int | None = None  # a Content-Length that is a lie
    no_length: bool = False  # body until the connection closes
    chunked: bool = False
    redirect: str | None = None
    content_type: str = "application/octet-stream"
    content_encoding: str | None = None
    content_range: str | None = None  # a Content-Range that is a lie
    silent_after: list[int] = field(default_factory=list)  # bytes of body, then silence
    drip: float | None = None  # seconds before each single byte of body
    retry_after: str | None = None
    whole_answer: bytes | None = None  # sent as it is instead of everything else
    for_ever: bytes = b""  # sent behind the whole answer, again and again, `drip` seconds apart


@dataclass
class Request:
    path: str
    headers: dict[str, str]


class FileServer:
    """Serves `files` (path -> bytes); counts requests and the bytes of bodies sent.

    `certificate`: a file of a certificate for localhost and its key, for https.
    """

    def __init__(self, certificate=None):
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, Faults] = {}
        self.requests: list[Request] = []
        self.sent = 0
        self._stop = threading.Event()

        class Handler(_Handler):
            owner = self

        self._http = _Server(("127.0.0.1", 0), Handler)
        self._scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def root(self):
        return f"{self._scheme}://127.0.0.1:{self._http.server_port}"

    def url(self, path):
        return self.root + path

    def asked(self, path):
        """The requests for a path."""
        return [request for request in self.requests if request.path == path]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FileServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = urlsplit(self.path).path  # a request to a proxy names the whole address
        self.owner.requests.append(Request(path, dict(self.headers)))
        faults = self.owner.faults.get(path, Faults())
        if faults.whole_answer is not None:
            self.wfile.write(faults.whole_answer)
            while faults.for_ever and not self.owner._stop.wait(faults.drip or 0):
                self.wfile.write(faults.for_ever)
            self.close_connection = True
        elif faults.statuses and (status := faults.statuses.pop(0)) != 200:
            self.answer_status(status, faults.retry_after)
        elif faults.redirect is not None:
            self.send_response(302)
            self.send_header("Location", faults.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path not in self.owner.files:
            self.answer_status(404)
        else:
            self.answer_file(self.owner.files[path], faults)

    do_CONNECT = do_GET

    def answer_status(self, status, retry_after=None):
        page = f"<html><body>{status}</body></html>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(page)

    def answer_file(self, content, faults):
        etag = {"weak": 'W/"{}"', True: '"{}"', False: ""}.get(faults.etag, faults.etag)
        etag = etag.format(hashlib.md5(content).hexdigest())
        modified = "Mon, 01 Mar 2021 00:00:00 GMT" if faults.last_modified else ""
        wanted, body = self.headers.get("Range"), content
        condition = self.headers.get("If-Range")
        # a weak ETag never matches If-Range (RFC 9110, 13.1.5)
        matches = {None, modified} | ({etag} if etag.startswith('"') else set())
        is_part = bool(wanted) and faults.ranges and (faults.any_version or condition in matches)
        if is_part:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = max(0, start - faults.shifted_range)
            body = content[start:][: faults.most_per_range]
            self.send_response(206)
            part = f"bytes {start}-{start + len(body) - 1}/{len(content)}"
            self.send_header("Content-Range", faults.content_range or part)
        else:
            self.send_response(200)
        self.send_header("Content-Type", faults.content_type)
        for name, value in (
            ("ETag", etag),
            ("Last-Modified", modified),
            ("Content-Encoding", faults.content_encoding),
        ):
            if value:
                self.send_header(name, value)
        if faults.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif faults.no_length:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            length = len(body) if faults.length is None or is_part else faults.length
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.send_body(body, faults)

    def send_body(self, body, faults):
        cut = faults.drop_after.pop(0) if faults.drop_after else None
        silent = faults.silent_after.pop(0) if faults.silent_after else None
        cut = silent if silent is not None else cut
        if faults.drip is not None:
            for byte in body:
                if self.owner._stop.wait(faults.drip):
                    return
                self.wfile.write(bytes([byte]))
                self.owner.sent += 1
        for start in range(0, len(body[:cut]), 1 << 14):
            piece = body[:cut][start : start + (1 << 14)]
            if faults.chunked:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            else:
                self.wfile.write(piece)
            self.owner.sent += len(piece)
        if silent is not None:
            self.wfile.flush()
            self.owner._stop.wait(30)
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif faults.chunked:
            self.wfile.write(b"0\r\n\r\n")
        if faults.length is not None:
            self.close_connection = True


def make_archive(files, *, links=()):
    """A .tar.gz in memory: {name: content}, and (name, target) of symbolic links."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w|") as tar,
    ):
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return packed.getvalue()
