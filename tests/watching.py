"""Read a file under observation: what it ends in, what it takes, and what it does besides."""

import contextlib
import os
import re
import resource
import sys
import time
from pathlib import Path

from utils.errors import ProjectError

MEMORY = 1 << 30
"""Bytes of address space that one reading may add."""
FORBIDDEN_EVENTS = re.compile(
    r"os\.(system|exec|posix_spawn|spawn|fork|forkpty)|subprocess\..*|pty\.spawn|socket\.(bind|"
    r"connect)|pickle\.find_class|ctypes\.dlopen|webbrowser\.open|shutil\..*"
)
WRITING_EVENTS = re.compile(r"os\.(remove|rename|rmdir|mkdir|link|symlink|chmod|chown|truncate)")


class Watch:
    """Notes what a reading does that no reading should; an audit hook, there for good."""

    def __init__(self, place):
        self.place, self.active, self.acts = str(place), False, []
        sys.addaudithook(self._note)

    def _note(self, event, arguments):
        if not self.active:
            return
        if FORBIDDEN_EVENTS.fullmatch(event):
            self.acts.append(f"{event} {arguments!r:.100}")
        elif WRITING_EVENTS.fullmatch(event) or (event == "open" and _writes(arguments)):
            path = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else ""
            if path and not os.path.abspath(path).startswith(self.place):  # noqa: PTH100
                self.acts.append(f"{event} {path}")


def _writes(arguments):
    _, mode, flags = arguments
    if mode is not None:
        return any(letter in mode for letter in "wxa+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@contextlib.contextmanager
def bounded_memory(size=MEMORY):
    """Let the process take `size` more of address space than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def read_once(read, path, watch):
    """Read one file; returns ("read", "refused" or "unexplained", message, CPU seconds)."""
    started = time.process_time()  # a busy machine makes no reading slower
    watch.acts.clear()
    watch.active = True
    try:
        read(path)
        outcome, text = "read", ""
    except ProjectError as error:
        text = str(error).replace(str(path), "FILE")[:500]
        outcome = "refused" if str(path) in str(error) else "unexplained"
        if outcome == "unexplained":
            text = f"the message does not name the file: {text}"
    except Exception as error:
        outcome, text = "unexplained", f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        watch.active = False
    if watch.acts:
        outcome, text = "unexplained", f"it acted: {watch.acts[:3]}"
    return outcome, text, time.process_time() - started
