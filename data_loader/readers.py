"""Read published feature, text and caption files clip by clip, checking every value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np

from utils.errors import DataError, UnsafeFileError
from utils.reading.hickle import iter_hickle
from utils.reading.pickles import ExpertStore, load_plain
from utils.shown import shown

LARGEST_RATIO = 4
"""Bytes that the clips of a pickle may share: one array under many names fills a disk later."""
ALWAYS_ALLOWED = 64 << 20
CAPTION_SIZE, WORD_SIZE = 32, 4
"""Bytes that a caption counts besides its words, and a word besides its letters: half of those it
takes in memory, for files may hold the same word many times in few bytes."""
PICKLES = (".pkl", ".pickle")


def read_features(path: str | Path) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yield (clip, features) of an expert: (D,) or (N, D) as stored, None where they are missing.

    Missing is a NaN, an array without tokens or one that is NaN throughout. Any other NaN or
    infinity raises DataError naming the clip, as does everything else that is no features.
    """
    for clip, value in _raw_features(path):
        try:
            features = _checked_features(value)
        except ValueError as error:
            raise DataError(f"{path}: clip {shown(clip)}: {error}") from None
        yield clip, features


def read_text_features(path: str | Path) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield (clip, captions), each caption a (words, T) array of finite numbers.

    Taken too: one array (captions, words, T) for a clip, and a caption as a list of its words'
    vectors, which are arrays (T,) or lists. A clip may have no captions: only those of the split
    lists need any.
    """
    volume = _Volume(path)
    for clip, captions in _clips(path, load_plain(path)):
        if _is_numbers(captions) and captions.ndim == 3:
            captions = list(captions)
        if not isinstance(captions, (list, tuple)):
            raise DataError(
                f"{path}: clip {shown(clip)}: found {_kind(captions)}, expected a list of arrays, "
                "one for each caption"
            )
        found = []
        for number, caption in enumerate(captions):
            place = f"{path}: clip {shown(clip)}, caption {number}"
            words = _vectors_of_words(caption, volume)
            if words is None:
                raise DataError(
                    f"{place}: found {_kind(caption)}, expected an array (words, width) of numbers"
                )
            if not np.isfinite(words).all():
                raise DataError(f"{place}: its vectors hold NaN or infinity; encode it anew")
            volume.take(CAPTION_SIZE + words.nbytes)
            found.append(words)
        yield clip, found


def _vectors_of_words(caption: object, volume: _Volume) -> np.ndarray | None:
    """Return a caption as an array (words, T); None when it is something else."""
    if _is_numbers(caption):
        return caption if caption.ndim == 2 else None
    if not isinstance(caption, (list, tuple)) or not caption:
        return None
    widths = set()
    for word in caption:
        if _is_numbers(word) and word.ndim == 1:
            widths.add(len(word))
        elif isinstance(word, (list, tuple)):
            volume.take(len(word))
            if not all(type(number) is float or type(number) is int for number in word):
                return None
            widths.add(len(word))
        else:
            return None
        volume.take(8 * len(word))
    return np.array(caption, np.float64) if len(widths) == 1 else None


def read_captions(path: str | Path) -> dict[str, list[list[str]]]:
    """Return the captions of each clip as lists of words; a clip may have none.

    Taken too: captions as whole texts, one or a list, split at their blanks; arrays of texts; UTF-8
    as bytes. A list of texts none of which has a blank could be captions or words: DataError.
    """
    volume = _Volume(path)
    captions: dict[str, list[list[str]]] = {}
    unclear, whole = "", False
    for clip, value in _clips(path, load_plain(path)):
        found = _texts(value)
        if type(found) is str:
            found, whole = [found], True
        if not isinstance(found, list):
            raise DataError(
                f"{path}: clip {shown(clip)}: found {_kind(value)}, expected a list of captions"
            )
        are_texts = bool(found) and all(type(caption) is str for caption in found)
        if are_texts:
            whole = whole or any(" " in caption.strip() for caption in found)
            unclear = unclear or clip
        captions[clip] = []
        for number, caption in enumerate(found):
            words = caption.split() if are_texts else _texts(caption)
            if not isinstance(words, list) or not all(type(word) is str for word in words):
                raise DataError(
                    f"{path}: clip {shown(clip)}, caption {number}: found {_kind(caption)}, "
                    "expected a list of words, or every caption of the clip as one text"
                )
            volume.take(CAPTION_SIZE + WORD_SIZE * len(words) + sum(map(len, words)))
            captions[clip].append(words)
    if unclear and not whole:
        raise DataError(
            f"{path}: clip {shown(unclear)}: found texts without blanks, which may be captions or "
            "words of one; expected a list of lists of words"
        )
    return captions


def _texts(value: object) -> object:
    """Return a list in place of a tuple or an array of texts, and text in place of bytes in it."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "SU":
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_text_of(item) for item in value]
    return _text_of(value)


def _text_of(value: object) -> object:
    """Return UTF-8 as text, anything else as it is."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def read_masks(path: str | Path) -> dict[str, np.ndarray]:
    """Return which captions of each clip may be used: (captions,) uint8, 0 or 1."""
    volume = _Volume(path)
    content = load_plain(path)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: found {_kind(content)}, expected a dict from clips to masks")
    masks: dict[str, np.ndarray] = {}
    for clip, found in _clips(path, content):
        if not _is_mask(found):
            raise DataError(
                f"{path}: clip {shown(clip)}: found {_kind(found)}, expected a list of 0 or 1, "
                "one for each caption"
            )
        volume.take(len(found))
        masks[clip] = np.asarray(found, np.uint8)
    return masks


def _is_mask(value: object) -> TypeGuard[Sequence[int] | np.ndarray]:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and bool(np.isin(value, (0, 1)).all())
    return isinstance(value, (list, tuple)) and all(
        isinstance(item, int | float) and item in (0, 1) for item in value
    )


class _Volume:
    """What the clips of one pickle may hold together, counted down."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.left: int | None = None

    def take(self, count: int) -> None:
        if self.left is None:
            self.left = max(ALWAYS_ALLOWED, LARGEST_RATIO * Path(self.path).stat().st_size)
        self.left -= count
        if self.left < 0:
            raise UnsafeFileError(
                f"{self.path}: refused: its clips share values, and hold together over "
                f"{LARGEST_RATIO} times what the file does"
            )


def _raw_features(path: str | Path) -> Iterator[tuple[str, object]]:
    suffix = Path(path).suffix
    if suffix == ".hickle":
        yield from iter_hickle(path)
        return
    if suffix not in PICKLES:
        raise DataError(f"{path}: features are read from {', '.join(('.hickle', *PICKLES))} files")
    content = load_plain(path)
    if isinstance(content, ExpertStore):
        yield from _rows_of(path, content)
        return
    volume = _Volume(path)
    for clip, value in _clips(path, content):
        if isinstance(value, np.ndarray):
            volume.take(value.nbytes)
        yield clip, value


def _rows_of(path: str | Path, content: ExpertStore) -> Iterator[tuple[str, object]]:
    """Yield the rows of an ExpertStore by clip."""
    store, rows, missing = content.store, content.keymap, content.missing
    if not isinstance(store, np.ndarray) or store.ndim != 2 or not isinstance(rows, dict):
        raise DataError(f"{path}: found an ExpertStore without rows, expected an array (clips, D)")
    if not isinstance(missing, (set, frozenset, list, tuple, dict)):
        missing = ()
    missing = {clip for clip in missing if type(clip) is str}
    volume = _Volume(path)
    for clip, row in _clips(path, rows):
        if type(row) is not int or not 0 <= row < len(store):
            raise DataError(f"{path}: clip {shown(clip)}: found row {shown(row)} of {len(store)}")
        volume.take(store[row].nbytes)
        yield clip, None if clip in missing else store[row]


def _clips(path: str | Path, content: object) -> Iterator[tuple[str, object]]:
    if not isinstance(content, dict):
        raise DataError(f"{path}: found {_kind(content)}, expected a dict from clips to values")
    for key, value in content.items():
        clip = _text_of(key)
        if type(clip) is not str or (clip is not key and clip in content):
            raise DataError(f"{path}: found the key {shown(key)}, expected names of clips")
        yield clip, value


def _checked_features(value: object) -> np.ndarray | None:
    """Return features as they are, None when they are missing; ValueError for anything else."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if not _is_numbers(value) or value.ndim not in (1, 2):
        raise ValueError(f"found {_kind(value)}, expected an array (D,) or (N, D), or NaN")
    if not np.isfinite(value).all():
        if np.isnan(value).all():
            return None
        raise ValueError(
            "its features hold NaN or infinity; extract them anew, or mark the clip as missing "
            "with a single NaN"
        )
    return value if value.size else None


def _is_numbers(value: object) -> TypeGuard[np.ndarray]:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu"


def _kind(value: object) -> str:
    """Return a short description of a value, for messages."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {shown(value.shape)} and {value.dtype}"
    name = type(value).__name__
    return {"str": "text", "NoneType": "nothing", "int": "an int", "memoryview": "bytes"}.get(
        name, f"a {name}"
    )
