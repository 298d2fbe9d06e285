"""Packing: a source file is read once, clip by clip, and written as one packed file."""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from tqdm import tqdm

from data_loader.packed_file import PackedWriter, encode_names
from data_loader.packed_sources import (
    FLOAT16,
    FLOAT32,
    Packed,
    PackedCaptions,
    PackedFeatures,
    PackedMasks,
    PackedText,
)
from data_loader.readers import read_captions, read_features, read_masks, read_text_features
from utils.errors import DataError
from utils.files import sha256_of
from utils.progress import no_bar

logger = logging.getLogger(__name__)

Dtype = Literal["keep", "float16"]
STORED = {"keep": None, "float16": FLOAT16}


class _TooNarrowError(Exception):
    """Wider features came after float16 ones: the file has to be packed as float32."""


def identity_of(source: Path) -> dict[str, Any]:
    """Return what changes when a file does, without reading it."""
    if not os.access(source, os.R_OK):
        raise DataError(f"{source} cannot be read; check its permissions")
    status = source.stat()
    return {
        "path": str(source.resolve()),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }


def pack(form: type[Packed], source: Path, sink: IO[bytes], dtype: Dtype, label: str) -> None:
    """Write the packed form of `source` to `sink`; its sha256 is computed beside the reading."""
    logger.info("packing %s", source)
    before = identity_of(source)
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(sha256_of, source)
        writer = PackedWriter(sink)
        try:
            try:
                _PACKERS[form](source, writer, STORED[dtype])
            except _TooNarrowError:
                sink.seek(0)
                sink.truncate()
                writer = PackedWriter(sink)
                _PACKERS[form](source, writer, FLOAT32)
        except DataError as error:
            raise DataError(f"{label}: {error}") from error
        if identity_of(source) != before:
            raise DataError(f"{source} changed while it was being packed; start again")
        writer.finish(
            {"kind": form.kind, "dtype": dtype, "source": {**before, "sha256": digest.result()}}
        )


def _pack_features(source: Path, writer: PackedWriter, dtype: np.dtype | None) -> None:
    names: list[str] = []
    offsets = array("q", [0])
    available = bytearray()
    rows = _Rows(writer, source, dtype)
    for clip, value in _progress(read_features(source), source):
        if value is not None and value.size:
            rows.append(value.reshape(-1, value.shape[-1]), clip)
        names.append(clip)
        available.append(value is not None and value.size > 0)
        offsets.append(rows.count)
    rows.close()
    writer.add("offsets", np.array(offsets, dtype=np.int64))
    writer.add("available", np.frombuffer(bytes(available), dtype=np.uint8))
    writer.add("names", encode_names(names))


def _pack_text(source: Path, writer: PackedWriter, dtype: np.dtype | None) -> None:
    names: list[str] = []
    offsets, word_offsets = array("q", [0]), array("q", [0])
    rows = _Rows(writer, source, dtype)
    for clip, captions in _progress(read_text_features(source), source):
        for caption in captions:
            if caption.size:
                rows.append(caption, clip)
            word_offsets.append(rows.count)
        names.append(clip)
        offsets.append(len(word_offsets) - 1)
    rows.close()
    writer.add("word_offsets", np.array(word_offsets, dtype=np.int64))
    writer.add("offsets", np.array(offsets, dtype=np.int64))
    writer.add("names", encode_names(names))


def _pack_captions(source: Path, writer: PackedWriter, _: np.dtype | None) -> None:
    captions_of = read_captions(source)
    texts = [
        " ".join(words).encode(errors="surrogatepass")
        for captions in captions_of.values()
        for words in captions
    ]
    writer.add("text", np.frombuffer(b"".join(texts), dtype=np.uint8))
    writer.add("text_offsets", _offsets(map(len, texts)))
    writer.add("offsets", _offsets(map(len, captions_of.values())))
    writer.add("names", encode_names(list(captions_of)))


def _pack_masks(source: Path, writer: PackedWriter, _: np.dtype | None) -> None:
    masks = read_masks(source)
    writer.add("allowed", np.concatenate(list(masks.values())))
    writer.add("offsets", _offsets(map(len, masks.values())))
    writer.add("names", encode_names(list(masks)))


_PACKERS: dict[type[Packed], Callable[[Path, PackedWriter, np.dtype | None], None]] = {
    PackedFeatures: _pack_features,
    PackedText: _pack_text,
    PackedCaptions: _pack_captions,
    PackedMasks: _pack_masks,
}


class _Rows:
    """Stream feature rows (n, D) of one width into a block, then one row of zeros for padding.

    Without a dtype the first rows decide: float16 stays, any other type becomes float32, the type
    of all batches. Integers that float32 cannot hold are refused.
    """

    def __init__(self, writer: PackedWriter, source: Path, dtype: np.dtype | None) -> None:
        self.count = 0
        self._writer = writer
        self._source = source
        self._asked = dtype
        self._dtype = dtype or FLOAT32
        self._width = 0

    def append(self, rows: np.ndarray, clip: str) -> None:
        """Write the rows of one clip; raises DataError on another width or too large a value."""
        if not self._width:
            self._width = rows.shape[1]
            if self._asked is None and rows.dtype == FLOAT16:
                self._dtype = FLOAT16
        if rows.shape[1] != self._width:
            raise DataError(
                f"{self._source}: clip {clip!r} has width {rows.shape[1]}, those before it "
                f"{self._width}"
            )
        if self._asked is None and self._dtype == FLOAT16 != rows.dtype:
            raise _TooNarrowError
        with np.errstate(over="ignore"):
            stored = rows.astype(self._dtype, copy=False)
        if self._asked is None and rows.dtype.kind in "iu":
            rounded = stored.astype(np.float64) != rows.astype(np.float64)
            if rounded.any():
                raise DataError(
                    f"{self._source}: clip {clip!r} has the whole number {rows[rounded][0]}, which "
                    "float32 cannot hold; scale the features, or store them as float32"
                )
        if stored.dtype.itemsize < rows.dtype.itemsize and not np.isfinite(stored).all():
            remedy = "; set data_loader.args.packed_dtype to keep" if self._asked == FLOAT16 else ""
            raise DataError(
                f"{self._source}: clip {clip!r} has a value of {np.abs(rows).max():g}, too large "
                f"for {self._dtype.name}{remedy}"
            )
        self._writer.extend("rows", stored)
        self.count += len(stored)

    def close(self) -> None:
        """Write the row of zeros; raises DataError when there were no rows."""
        if not self._width:
            raise DataError(f"{self._source}: holds no features at all")
        self._writer.extend("rows", np.zeros((1, self._width), self._dtype))


def _progress(items: Iterable[Any], source: Path) -> Iterator[Any]:
    """Show how many clips were read, on a terminal alone."""
    return iter(tqdm(items, desc=f"packing {source.name}", unit=" clips", disable=no_bar()))


def _offsets(lengths: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)
