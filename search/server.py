"""The page's server: answers queries, plays recordings, draws them; on this machine alone.

A recording is named by its name in the index, never by a path: what is not in the index of the
folder is not served. Nothing is fetched from elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import socket
import tempfile
import threading
import wave
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import numpy as np
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audio.listing import ENDINGS
from audio.reading import read, read_blocks
from audio.signal_features import RATE, log_mel
from search.collection import stamp_of
from search.retriever import Results, Retriever
from utils.errors import DataError, ProjectError, UsageError
from utils.files import atomic_writer

logger = logging.getLogger(__name__)

PAGE = Path(__file__).resolve().parent / "page"
ASSETS = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
PLAYED = {
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".wave": "audio/wav",
}
"""What browsers play, and its media type."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
EXAMPLES = [
    "a dog barks",
    "rain",
    "footsteps",
    "an engine starts",
    "birds singing",
    "a door closes",
]
SHOWN = 20
LONGEST_QUERY = 500
LARGEST_FILE = 100_000_000
WAV_RATE = 32_000
COLUMNS = 600
LONGEST_PICTURE = 600.0
FLOOR, RANGE = -75.0, 30.0
"""Decibels: what is quieter is not drawn; the least difference between nothing and full."""


Answer = Callable[[Mapping[str, str]], Response]


class Page:
    """Answers the page's requests; a lock lets one at a time use the model."""

    def __init__(self, retriever: Retriever, place: Path) -> None:
        """Take a retriever with one folder, and a place for recordings that are converted."""
        self._retriever = retriever
        (self._root,) = retriever.folders
        self._engine = retriever.engine(self._root)
        self._lock = threading.Lock()
        self._place = place

    def app(self) -> Starlette:
        """Return the application, which answers to the names of this machine alone."""
        routes = [
            Route("/collection", self._answer(self.collection)),
            Route("/search", self._answer(self.search)),
            Route("/similar", self._answer(self.similar)),
            Route("/sound", self._answer(self.sound)),
            Route("/picture", self._answer(self.picture)),
            Route("/like", self.like, methods=["POST"]),
            *(Route(path, self._asset(*asset)) for path, asset in ASSETS.items()),
        ]
        hosts = ["127.0.0.1", "localhost"]
        middleware = [
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
            Middleware(_SafeHeaders),
        ]
        return Starlette(routes=routes, middleware=middleware)

    @staticmethod
    def _asset(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
        async def asset(_: Request) -> Response:
            return Response((PAGE / name).read_bytes(), media_type=kind)

        return asset

    @staticmethod
    def _answer(
        answer: Answer,
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(_answered, answer, request.query_params)

        return endpoint

    def collection(self, _: Mapping[str, str]) -> Response:
        """Return what is searched with what."""
        return JSONResponse(
            {
                "files": self._engine.count_files(),
                "folder": self._root.name,
                "model": self._retriever.embedder.config.name,
                "examples": EXAMPLES,
            }
        )

    def search(self, asked: Mapping[str, str]) -> Response:
        """Return the recordings nearest to the words `q`."""
        query = asked.get("q", "")
        if len(query) > LONGEST_QUERY:
            raise UsageError(f"the query is longer than {LONGEST_QUERY} letters; shorten it")
        with self._lock:
            return self._found(self._retriever.search(query, SHOWN))

    def similar(self, asked: Mapping[str, str]) -> Response:
        """Return the recordings that sound like the moment `start` to `end` of `file`."""
        path, seconds = self._recording(asked)
        start, end = _moment(asked, seconds)
        whole = start <= 0 and end >= seconds
        with self._lock:
            moment = None if whole else (start, end)
            return self._found(self._retriever.like(path, SHOWN, moment=moment))

    async def like(self, request: Request) -> Response:
        """Return the recordings that sound like the file in the request's body."""
        name = request.query_params.get("name", "")[:200] or "the file"
        ending = Path(name).suffix.lower()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"sound{ending if ending in ENDINGS else ''}"
            size = 0
            with path.open("wb") as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > LARGEST_FILE:
                        return _failed("the file is larger than 100 MB; cut out a part", 413)
                    file.write(chunk)
            return await run_in_threadpool(_answered, self._like, {"path": str(path), "name": name})

    def _like(self, asked: Mapping[str, str]) -> Response:
        path = Path(asked["path"])
        try:
            with self._lock:
                return self._found(self._retriever.like(path, SHOWN))
        except DataError as error:  # the name of a temporary file means nothing to the user
            raise DataError(str(error).replace(str(path), asked["name"])) from None

    def sound(self, asked: Mapping[str, str]) -> Response:
        """Return a recording, or the part of it that the browser asks for."""
        path, _ = self._recording(asked)
        kind = PLAYED.get(path.suffix.lower())
        if kind is None:
            return FileResponse(self._converted(path), media_type="audio/wav")
        return FileResponse(path, media_type=kind)

    def _converted(self, path: Path) -> Path:
        """Return the WAV of a recording, made once."""
        key = f"{path}\n{stamp_of(path)}".encode(errors="surrogateescape")
        converted = self._place / f"{hashlib.sha256(key).hexdigest()}.wav"
        if not converted.is_file():
            _write_wav(path, converted)
        return converted

    def picture(self, asked: Mapping[str, str]) -> Response:
        """Return the levels of a stretch of a recording: bytes (columns, 64)."""
        path, seconds = self._recording(asked)
        start, end = _moment(asked, seconds)
        end = min(end, start + LONGEST_PICTURE)
        sound = read(path, RATE, start=start, seconds=end - start)
        return Response(picture(sound).tobytes(), media_type="application/octet-stream")

    def _recording(self, asked: Mapping[str, str]) -> tuple[Path, float]:
        """Return the path and length of the recording `file`, which must be in the index."""
        name = asked.get("file", "")
        seconds = self._engine.seconds(name)
        path = self._root / name
        if seconds is None or not path.resolve().is_relative_to(self._root) or not path.is_file():
            raise FileNotFoundError(name)
        return path, seconds

    def _found(self, results: Results) -> Response:
        found = [
            result.plain() | {"seconds": self._engine.seconds(result.file)} for result in results
        ]
        return JSONResponse({"results": found})


def listen(port: int) -> socket.socket:
    """Take a port of 127.0.0.1; 0: any free one. Raises UsageError when it is in use."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} is in use; choose another one with --port, or 0 for any that is free"
            ) from None
        raise UsageError(f"--port {port} cannot be used: {error}") from None
    return listener


def serve(retriever: Retriever, listener: socket.socket) -> None:
    """Serve the page until interrupted."""
    with tempfile.TemporaryDirectory(prefix="audio-retrieval-") as place:
        app = Page(retriever, Path(place)).app()
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
        uvicorn.Server(config).run(sockets=[listener])


def picture(sound: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the levels of a sound (n,) at RATE, 0 to 255: (columns, 64), low bands first."""
    levels = log_mel(sound)
    columns = min(COLUMNS, len(levels))
    starts = np.linspace(0, len(levels), columns, endpoint=False).astype(int)
    levels = np.maximum.reduceat(levels, starts, axis=0)
    quiet, loud = np.percentile(levels, [10, 99.8])
    quiet = max(FLOOR, float(quiet))
    shade = np.clip((levels - quiet) / max(RANGE, float(loud) - quiet), 0, 1)
    return (255 * shade).astype(np.uint8)


def _answered(
    answer: Callable[[Mapping[str, str]], Response], asked: Mapping[str, str]
) -> Response:
    """Answer, and turn what went wrong into a status and one message."""
    try:
        return answer(asked)
    except FileNotFoundError:
        return _failed("this recording is not in the collection any more; reload the page", 404)
    except ProjectError as error:
        return _failed(str(error), 400)


def _failed(message: str, status: int) -> Response:
    return JSONResponse({"error": message[:1].upper() + message[1:]}, status_code=status)


def _moment(asked: Mapping[str, str], seconds: float) -> tuple[float, float]:
    """Return the moment `start` to `end` within a recording; UsageError for any other."""
    try:
        start, end = float(asked.get("start", 0)), float(asked.get("end", seconds))
    except ValueError:
        raise UsageError("start and end are no numbers") from None
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < min(end, seconds)):
        raise UsageError(f"the moment {start} to {end} is not in a recording of {seconds} s")
    return start, min(end, seconds)


def _write_wav(source: Path, path: Path) -> None:
    """Write a recording of a format that browsers do not play as WAV, which all do."""
    with atomic_writer(path) as content, wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(WAV_RATE)
        for block in read_blocks(source, WAV_RATE):
            file.writeframes((32_767 * np.clip(block, -1, 1)).astype("<i2").tobytes())


class _SafeHeaders:
    """Adds HEADERS to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        await self._app(scope, receive, send_with)
