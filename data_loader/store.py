"""The packed feature store: every source file is read once, then mapped.

A source (features of an expert, text vectors, captions, caption masks) becomes one packed file
below `<packed_dir>/<data set>-<hash of its folder>/`, which also holds the source's identity: size,
modification time and sha256. While size and time are the same the packed file is used as it is;
otherwise it is made anew. Without a place to write, the same arrays are made in memory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import itertools
import logging
import os
import re
import warnings
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from data_loader.packed_file import (
    PackedFile,
    PackedWriter,
    decode_names,
    encode_names,
    map_packed,
    open_packed,
)
from data_loader.readers import read_captions, read_features, read_masks, read_text_features
from utils.errors import ConfigError, DataError
from utils.files import atomic_writer, remove_leftovers, sha256_of
from utils.progress import no_bar

logger = logging.getLogger(__name__)

Dtype = Literal["keep", "float16"]
FLOAT16, FLOAT32 = np.dtype("<f2"), np.dtype("<f4")
STORED = {"keep": None, "float16": FLOAT16}
CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
T = TypeVar("T", bound="Packed")


class _ClipRows:
    """The row of each clip of a packed file; files that hold the same clips share one."""

    def __init__(self, names: np.ndarray) -> None:
        self.row_of = {name: row for row, name in enumerate(decode_names(names))}


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
        if len(self._clips.row_of) != len(self.offsets) - 1:
            raise DataError("a packed file's clips do not fit its arrays")

    @property
    def clips(self) -> list[str]:
        """The ids of all clips."""
        return list(self._clips.row_of)

    def find(self, clips: list[str]) -> np.ndarray:
        """Return the row of each clip (n,) int64, -1 for one that is not here."""
        rows = map(self._clips.row_of.get, clips, itertools.repeat(-1))
        return np.fromiter(rows, np.int64, len(clips))

    def run(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where the items of each row (n,) start and how many there are, both (n,)."""
        starts = self.offsets[rows]
        return starts, self.offsets[rows + 1] - starts


class PackedVectors(Packed):
    """Vectors: `rows` (all vectors + 1, D), of which the last is zeros and stands for padding."""

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
        """Say that rows begins[i] : ends[i] (n,) are used next."""
        row_size = self.rows.strides[0]
        self.file.will_need(begins * row_size, ends * row_size)

    def verify(self, begins: np.ndarray, ends: np.ndarray) -> None:
        """Check rows begins[i] : ends[i] (n,), where they were not yet in this run."""
        row_size = self.rows.strides[0]
        self.file.verify(begins * row_size, ends * row_size)

    def is_on(self, device: torch.device) -> bool:
        """Say whether `tensor` would copy nothing."""
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


class FeatureStore:
    """Opens the sources of one data set, packing those that are not packed yet.

    `folder` is where the sources lie, `packed_dir` where packed files go (None: nowhere, sources
    are read into memory), `name` the data set's, which makes packed folders recognisable.
    """

    def __init__(self, folder: Path, packed_dir: Path | None, name: str, dtype: Dtype) -> None:
        self._root = folder
        self._dtype = dtype
        resolved = folder.resolve()
        digest = hashlib.sha256(str(resolved).encode(errors="surrogateescape")).hexdigest()[:8]
        self.folder = None if packed_dir is None else packed_dir / f"{name}-{digest}"

    def features(self, source: Path, expert: str) -> PackedFeatures:
        """Open the features of an expert; errors name the expert."""
        return self._open(PackedFeatures, source, f"expert {expert!r}")

    def text(self, source: Path) -> PackedText:
        """Open the text vectors."""
        return self._open(PackedText, source, "text vectors")

    def captions(self, source: Path) -> PackedCaptions:
        """Open the captions."""
        return self._open(PackedCaptions, source, "captions")

    def masks(self, source: Path) -> PackedMasks:
        """Open the caption masks."""
        return self._open(PackedMasks, source, "caption masks")

    def _open(self, form: type[T], source: Path, label: str) -> T:
        """Return the packed form of `source`, the same object while another data set holds it."""
        identity = _identity(source)
        key = (form, self._dtype, self.folder, *identity.values())
        opened = _OPENED.get(key)
        if not isinstance(opened, form):
            opened = self._map_or_pack(form, source, identity, label)
            opened.file.repack = lambda sink: _pack(form, source, sink, self._dtype, label)
            if not isinstance(opened, PackedVectors):  # small, and read here and there
                opened.file.verify_all()
            _OPENED[key] = opened
        return opened

    def _map_or_pack(self, form: type[T], source: Path, identity: dict[str, Any], label: str) -> T:
        place = None if self.folder is None else self.folder / self._file_name(form, source)
        if place is None:
            return self._pack_in_memory(form, source, label)
        mapped = _map_valid(form, place, source, identity)
        if mapped is not None:
            return mapped
        try:
            with _locked(place.parent):
                # Another process may have packed it while this one waited for the lock.
                mapped = _map_valid(form, place, source, identity, quiet=True)
                if mapped is not None:
                    return mapped
                with atomic_writer(place) as file:
                    _pack(form, source, file, self._dtype, label)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(
                f"data_loader.args.packed_dir: {place.parent} cannot be a folder ({error.strerror})"
            ) from error
        except OSError as error:
            if error.errno not in CANNOT_WRITE:
                raise
            _warn_once(
                f"cannot keep packed features in {place.parent} ({error.strerror}): they are "
                "packed in memory, now and at every start; choose another data_loader.args."
                "packed_dir"
            )
            return self._pack_in_memory(form, source, label)
        return form(map_packed(place), source)

    def _pack_in_memory(self, form: type[T], source: Path, label: str) -> T:
        memory = io.BytesIO()
        _pack(form, source, memory, self._dtype, label)
        return form(open_packed(np.frombuffer(memory.getbuffer(), np.uint8), str(source)), source)

    def _file_name(self, form: type[Packed], source: Path) -> str:
        """Return a name that tells its source, and is its own for each source, kind and dtype."""
        relative = source.relative_to(self._root) if source.is_relative_to(self._root) else source
        readable = re.sub(r"[^\w.-]+", "-", str(relative.with_suffix("")))[-80:].strip("-.")
        text = f"{relative}|{form.kind}|{self._dtype}"
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
        return f"{readable}-{digest}.packed"


_OPENED: weakref.WeakValueDictionary[tuple[Any, ...], Packed] = weakref.WeakValueDictionary()
_CLIP_ROWS: weakref.WeakValueDictionary[bytes, _ClipRows] = weakref.WeakValueDictionary()
_WARNED: set[str] = set()


class _TooNarrowError(Exception):
    """Wider features came after float16 ones: the file has to be packed as float32."""


def _clip_rows(names: np.ndarray) -> _ClipRows:
    digest = hashlib.sha256(names.data).digest()
    clip_rows = _CLIP_ROWS.get(digest)
    if clip_rows is None:
        clip_rows = _CLIP_ROWS[digest] = _ClipRows(names)
    return clip_rows


def _warn_once(message: str) -> None:
    if message not in _WARNED:
        _WARNED.add(message)
        logger.warning(message)


def _identity(source: Path) -> dict[str, Any]:
    """Return what changes when a file does, without reading it."""
    if not os.access(source, os.R_OK):
        raise DataError(f"{source} cannot be read; check its permissions")
    status = source.stat()
    return {
        "path": str(source.resolve()),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }


def _map_valid(
    form: type[T], place: Path, source: Path, identity: dict[str, Any], *, quiet: bool = False
) -> T | None:
    """Return the packed file at `place` when it is whole and of this source, as it is now."""
    if not place.exists():
        return None
    try:
        packed = map_packed(place)
        if packed.header.get("kind") != form.kind:
            raise DataError(f"{place}: holds {packed.header.get('kind')!r}, not {form.kind!r}")
        found = packed.header.get("source")
        if not isinstance(found, dict) or not isinstance(found.get("sha256"), str):
            raise DataError(f"{place}: does not say where it comes from")
        if {key: found.get(key) for key in identity} != identity:
            if not quiet:
                logger.info("%s has changed; packing it again", source)
            return None
        return form(packed, source)
    except (DataError, KeyError, IndexError) as error:
        if not quiet:
            logger.warning("%s; packing %s again", error, source)
        return None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: one process packs at a time, others wait and find the result."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that packs features in %s", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            # Some network file systems have no locks. Packing twice is only slower: each process
            # writes its own file and the last one to be renamed stays.
            logger.debug("no lock in %s: %s", folder, error)
        yield
    finally:
        os.close(handle)


def _pack(form: type[Packed], source: Path, sink: IO[bytes], dtype: Dtype, label: str) -> None:
    """Write the packed form of `source` to `sink`; its sha256 is computed beside the reading."""
    logger.info("packing %s", source)
    before = _identity(source)
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
        if _identity(source) != before:
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
