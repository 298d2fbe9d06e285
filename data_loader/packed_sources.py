"""Packed sources, opened: the clips, the items of each clip and the values of one packed file.

V clips; a clip's items are its tokens, captions or masks. D features of one vector.
"""

from __future__ import annotations

import hashlib
import itertools
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_loader.packed_file import PackedFile, decode_names
from utils.errors import DataError

FLOAT16, FLOAT32 = np.dtype("<f2"), np.dtype("<f4")


class _ClipRows(dict[str, int]):
    """The row of each clip of a packed file: a dict that can be referenced weakly."""


class Packed:
    """What every packed source has: clip ids, offsets and the identity of the file it came from.

    Clip `row` has the items offsets[row]:offsets[row + 1]: tokens, captions or masks.
    """

    kind = ""

    def __init__(self, packed: PackedFile, source: Path) -> None:
        """Check that the arrays fit together; raises DataError."""
        self.source = source
        self.identity: dict[str, Any] = packed.header["source"]
        self.offsets = packed.arrays["offsets"]
        self.file = packed
        self._clips = _clip_rows(packed.arrays["names"])
        if len(self._clips) != len(self.offsets) - 1:
            raise DataError("a packed file's clips do not fit its arrays")

    @property
    def clips(self) -> list[str]:
        """The ids of all clips."""
        return list(self._clips)

    def find(self, clips: list[str]) -> np.ndarray:
        """Return the row of each clip (n,) int64, -1 for one that is not here."""
        rows = map(self._clips.get, clips, itertools.repeat(-1))
        return np.fromiter(rows, np.int64, len(clips))

    def run(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where the items of each row (n,) start and how many there are, both (n,)."""
        starts = self.offsets[rows]
        return starts, self.offsets[rows + 1] - starts


class PackedVectors(Packed):
    """Vectors: `rows` (all vectors + 1, D), of which the last is zeros: padding."""

    def __init__(self, packed: PackedFile, source: Path) -> None:
        super().__init__(packed, source)
        self.rows = packed.arrays["rows"]
        form = self.rows.ndim == 2 and self.rows.dtype in (FLOAT16, FLOAT32)
        if not form or not len(self.rows) or self.rows[-1].any():
            raise DataError("a packed file does not hold vectors that end in padding")
        self._on_device: dict[torch.device, torch.Tensor] = {}

    @property
    def width(self) -> int:
        """D: the width of one vector."""
        return self.rows.shape[1]

    def tensor(self, device: torch.device) -> torch.Tensor:
        """Return `rows` on a device, copied there once for all data sets that share this file.

        On the host it is a view of the mapped file, never to be written to.
        """
        if device not in self._on_device:
            if device.type != "cpu":
                self.file.will_need_all()
                self.file.verify_all()
            with warnings.catch_warnings():
                # torch has no read-only tensors. A map that could be written to, privately, would
                # need as much memory set aside as the file is large.
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")
                self._on_device[device] = torch.from_numpy(self.rows).to(device)
        return self._on_device[device]

    def will_need(self, begins: np.ndarray, ends: np.ndarray) -> None:
        """Let the system read rows begins[i] : ends[i] (n,), which are used next."""
        row_size = self.rows.strides[0]
        self.file.will_need(begins * row_size, ends * row_size)

    def verify(self, begins: np.ndarray, ends: np.ndarray) -> None:
        """Check rows begins[i] : ends[i] (n,), where they were not yet in this run."""
        row_size = self.rows.strides[0]
        self.file.verify(begins * row_size, ends * row_size)

    def is_on(self, device: torch.device) -> bool:
        """Return whether `tensor` would copy nothing."""
        return device.type == "cpu" or device in self._on_device


class PackedFeatures(PackedVectors):
    """Features of one expert: the items of a clip are its tokens."""

    kind = "features"

    def __init__(self, packed: PackedFile, source: Path) -> None:
        super().__init__(packed, source)
        self.available = packed.arrays["available"]
        """(clips,) 0/1."""
        _check_offsets(self.offsets, len(self.rows) - 1)
        if self.available.shape != (len(self.offsets) - 1,):
            raise DataError("a packed file's clips do not fit its arrays")


class PackedText(PackedVectors):
    """Text vectors: the items of a clip are captions; caption c has rows
    word_offsets[c]:word_offsets[c + 1].
    """

    kind = "text"

    def __init__(self, packed: PackedFile, source: Path) -> None:
        super().__init__(packed, source)
        self.word_offsets = packed.arrays["word_offsets"]
        _check_offsets(self.offsets, len(self.word_offsets) - 1)
        _check_offsets(self.word_offsets, len(self.rows) - 1)


class PackedCaptions(Packed):
    """Captions as text: caption c is the bytes text_offsets[c]:text_offsets[c + 1]."""

    kind = "captions"

    def __init__(self, packed: PackedFile, source: Path) -> None:
        super().__init__(packed, source)
        self.text = packed.arrays["text"]
        self.text_offsets = packed.arrays["text_offsets"]
        _check_offsets(self.offsets, len(self.text_offsets) - 1)
        _check_offsets(self.text_offsets, len(self.text))

    def captions(self, row: int) -> list[str]:
        """Return the captions of one clip, words joined by blanks."""
        first, end = self.offsets[row : row + 2]
        bounds = self.text_offsets[first : end + 1]
        return [
            self.text[a:b].tobytes().decode(errors="surrogatepass")
            for a, b in itertools.pairwise(bounds)
        ]


class PackedMasks(Packed):
    """Which captions may be used: `allowed` (all captions,) 0/1."""

    kind = "masks"

    def __init__(self, packed: PackedFile, source: Path) -> None:
        super().__init__(packed, source)
        self.allowed = packed.arrays["allowed"]
        _check_offsets(self.offsets, len(self.allowed))


_CLIP_ROWS: weakref.WeakValueDictionary[bytes, _ClipRows] = weakref.WeakValueDictionary()


def _clip_rows(names: np.ndarray) -> _ClipRows:
    """Return the rows of clips; files that hold the same clips share them."""
    digest = hashlib.sha256(names.data).digest()
    clip_rows = _CLIP_ROWS.get(digest)
    if clip_rows is None:
        clip_rows = _CLIP_ROWS[digest] = _ClipRows(zip(decode_names(names), itertools.count()))
    return clip_rows


def _check_offsets(offsets: np.ndarray, end: int) -> None:
    """Raise DataError unless offsets rise from 0 to `end`."""
    whole = (
        offsets.dtype == np.int64
        and offsets.ndim == 1
        and len(offsets) > 0
        and offsets[0] == 0
        and offsets[-1] == end
        and bool((offsets[1:] >= offsets[:-1]).all())
    )
    if not whole:
        raise DataError("a packed file's offsets do not fit its arrays")
