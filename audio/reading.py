"""Reading sounds: whatever libsndfile decodes becomes mono float32 at the rate asked for.

Files are read block by block, so that a recording of ten hours takes no more memory than one of a
minute. What is decoded is checked: a sound is finite numbers, and long enough to be heard.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from utils.errors import DataError, ProjectError
from utils.files import open_regular

Wave = NDArray[np.float32]
"""Samples (n,), one channel."""

SHORTEST = 0.01
"""Seconds; what is shorter is no sound but a mistake of the recording."""
BLOCK = 60.0
"""Seconds that are decoded at a time."""
RATES = (1_000, 1_000_000)
LOUDEST = 100.0
"""Full scale is 1; floating point files may exceed it somewhat, integers in them by far."""
LENGTH_UNKNOWN = 0x7FFF_0000
"""Bytes that a header claims when it was written before the sound was: no sign of truncation."""
MPEG_LOSS = 0.25
"""Seconds that an MP3 may be shorter than in its header: encoders count their padding."""


def read(path: str | Path, rate: int, *, start: float = 0.0, seconds: float | None = None) -> Wave:
    """Return a sound, or `seconds` of it from `start` on, as mono at `rate`: (n,) float32.

    Raises DataError naming the file and a remedy: for what is missing, no sound, damaged, cut
    short, silent for want of samples, or holds NaN.
    """
    blocks = list(read_blocks(path, rate, start=start, seconds=seconds))
    return np.concatenate(blocks)


def read_blocks(
    path: str | Path, rate: int, *, start: float = 0.0, seconds: float | None = None
) -> Iterator[Wave]:
    """Yield the sound that `read` returns in blocks of about a minute: each (n,) float32."""
    with _opened(path) as sound:
        mono = _mono_blocks(path, sound, start, seconds)
        yield from mono if sound.samplerate == rate else _resampled(mono, sound.samplerate, rate)


def sound_length(path: str | Path) -> float:
    """Return the length of a sound in seconds, from its header; raises DataError."""
    with _opened(path) as sound:
        return float(sound.frames / sound.samplerate)


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """Open a sound file by its content, whatever its name ends in."""
    soundfile = _library("soundfile")
    with open_regular(path) as file:
        try:
            sound = soundfile.SoundFile(file.fileno(), closefd=False)
        except (soundfile.LibsndfileError, TypeError) as error:
            raise DataError(f"{path}: {_why_unreadable(path, file, error)}") from None
        with sound:
            _check_header(path, sound)
            try:
                yield sound
            except soundfile.LibsndfileError as error:
                raise DataError(
                    f"{path}: cannot be decoded ({_reason(error)}): the file is damaged or cut "
                    "short; get it again"
                ) from None


def _check_header(path: str | Path, sound: Any) -> None:  # noqa: ANN401
    """Raise DataError for a sound that cannot be one, or is shorter than in its header."""
    low, high = RATES
    if not low <= sound.samplerate <= high:
        raise DataError(
            f"{path}: has a sample rate of {sound.samplerate} Hz; expected {low} to {high}: "
            "correct its header, or convert it anew"
        )
    for claimed, found in re.findall(r": (\d+) \(should be (\d+)\)", sound.extra_info):
        if int(found) < int(claimed) < LENGTH_UNKNOWN:
            raise DataError(
                f"{path}: is cut short: {found} of {claimed} bytes are there; get it again, or "
                f"keep what there is with: ffmpeg -i {Path(path).name} whole.flac"
            )
    if sound.frames < SHORTEST * sound.samplerate:
        count = "no samples" if not sound.frames else f"{sound.frames} samples"
        raise DataError(
            f"{path}: holds {count} at {sound.samplerate} Hz; a sound has at least "
            f"{SHORTEST * 1000:.0f} ms: record it again, or leave it out"
        )


def _mono_blocks(
    path: str | Path,
    sound: Any,  # noqa: ANN401
    start: float,
    seconds: float | None,
) -> Iterator[Wave]:
    """Yield checked blocks (n,) at the sound's own rate."""
    rate, channels = sound.samplerate, sound.channels
    first = round(start * rate)
    if not 0 <= first < sound.frames:
        raise DataError(
            f"{path}: has {sound.frames / rate:.2f} s, and no sound from {start:.2f} s on"
        )
    if first:
        sound.seek(first)
    wanted = sound.frames - first
    if seconds is not None:
        wanted = min(wanted, max(1, round(seconds * rate)))
    size = max(1, round(BLOCK * rate) // channels)
    left = wanted
    while left > 0:
        samples = sound.read(min(size, left), dtype="float32", always_2d=True)  # (n, channels)
        if not len(samples):
            break
        left -= len(samples)
        yield _checked(path, samples if channels == 1 else samples.mean(axis=1, keepdims=True))
    if left > MPEG_LOSS * rate or left == wanted:
        raise DataError(
            f"{path}: is cut short: its header says {wanted / rate:.2f} s from {start:.2f} s on, "
            f"{(wanted - left) / rate:.2f} s are there; get it again"
        )


def _checked(path: str | Path, samples: NDArray[np.float32]) -> Wave:
    """Return (n, 1) as (n,) when its numbers are those of a sound."""
    loudest = np.abs(samples).max()
    if not np.isfinite(loudest):
        raise DataError(
            f"{path}: holds samples that are NaN or infinite; write it anew from its source, or "
            "leave it out"
        )
    if loudest > LOUDEST:
        raise DataError(
            f"{path}: has samples of {loudest:g}; full scale is 1: divide them (integers of 16 bit "
            "by 32768)"
        )
    return samples[:, 0]


def _resampled(blocks: Iterator[Wave], source: int, target: int) -> Iterator[Wave]:
    """Yield blocks at another rate: the same numbers however the sound was cut into blocks."""
    resampler = _library("soxr").ResampleStream(source, target, 1, dtype="float32")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _why_unreadable(path: str | Path, file: BinaryIO, error: Exception) -> str:
    """Say why libsndfile does not open a file, and what to do."""
    file.seek(0)
    if not file.read(1):
        return "is empty (0 bytes); get it again, or leave it out"
    ending = Path(path).suffix.lower() or "no ending"
    return (
        f"is not a sound that can be read ({ending}; {_reason(error)}): expected WAV, FLAC, OGG, "
        f"MP3, AIFF or another format of libsndfile; convert it with: ffmpeg -i "
        f"{Path(path).name} {Path(path).stem}.flac"
    )


def _reason(error: Exception) -> str:
    """Return libsndfile's own words, without its prefix."""
    return str(getattr(error, "error_string", error)).strip(". ")


def _library(name: str) -> Any:  # noqa: ANN401
    """Import a library of requirements/search.txt; the ProjectError names the remedy."""
    try:
        if name == "soundfile":
            import soundfile

            return soundfile
        import soxr

        return soxr
    except (ImportError, OSError) as error:  # OSError: libsndfile itself is missing
        raise ProjectError(
            f"reading sounds needs {name} ({error}); install it with: "
            "pip install -r requirements/search.txt"
        ) from None
