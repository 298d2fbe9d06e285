"""The sounds of a page's clips: found by name, linked to or copied in."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from utils.errors import UsageError

PLAYED = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
}
"""What browsers play, as it is."""
CONVERTED = (".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64", ".snd", ".voc")
"""What the library soundfile reads and browsers do not: copied in as WAV, never linked to."""


def addresses(
    folder: Path, clips: Iterable[str], page: Path, *, embed: bool = False
) -> dict[str, str]:
    """Return the address of the sound of each clip that has one: a link, or a copy of it."""
    found = find_sounds(folder, clips)
    if embed:
        return {clip: copy_of(path) for clip, path in found.items()}
    return {
        clip: link_to(path, page) for clip, path in found.items() if path.suffix.lower() in PLAYED
    }


def find_sounds(folder: Path, clips: Iterable[str]) -> dict[str, Path]:
    """Return the file of each clip that has one: of its name, with or without a suffix."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder of sounds")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (*PLAYED, *CONVERTED) and path.is_file():
            inside = path.relative_to(folder)
            for name in (inside.as_posix(), inside.with_suffix("").as_posix(), path.stem):
                files.setdefault(name, path)
    return {clip: files[clip] for clip in clips if clip in files}


def link_to(path: Path, page: Path) -> str:
    """Return the address of a sound as seen from a page's folder."""
    return quote(Path(os.path.relpath(path.resolve(), page.parent.resolve())).as_posix())


def copy_of(path: Path) -> str:
    """Return a sound as a data URI; what no browser plays becomes WAV.

    Raises UsageError where that needs a library that is not installed.
    """
    kind = PLAYED.get(path.suffix.lower())
    content = path.read_bytes() if kind else _as_wav(path)
    return f"data:{kind or 'audio/wav'};base64,{base64.b64encode(content).decode()}"


def _as_wav(path: Path) -> bytes:
    try:
        import soundfile
    except ImportError as error:
        raise UsageError(
            f"{path}: browsers do not play {path.suffix}; install soundfile, which turns it into "
            "WAV, or convert the file"
        ) from error
    samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    memory = io.BytesIO()
    soundfile.write(memory, samples, rate, format="WAV", subtype="PCM_16")
    return memory.getvalue()
