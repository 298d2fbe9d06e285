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
import logging
import os
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_loader.packed_file import map_packed, open_packed
from data_loader.packed_sources import (
    Packed,
    PackedCaptions,
    PackedFeatures,
    PackedMasks,
    PackedText,
    PackedVectors,
)
from data_loader.packing import Dtype, identity_of, pack
from utils.errors import ConfigError, DataError
from utils.files import atomic_writer, remove_leftovers

logger = logging.getLogger(__name__)

CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
T = TypeVar("T", bound=Packed)


class FeatureStore:
    """Opens the sources of one data set, packing those that are not packed yet.

    `folder` holds the sources, `packed_dir` the packed files (None: sources are read into memory),
    `name` is the data set's, which makes packed folders recognisable.
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
        identity = identity_of(source)
        key = (form, self._dtype, self.folder, *identity.values())
        opened = _OPENED.get(key)
        if not isinstance(opened, form):
            opened = self._map_or_pack(form, source, identity, label)
            opened.file.repack = lambda sink: pack(form, source, sink, self._dtype, label)
            if not isinstance(opened, PackedVectors):  # small, and read here and there
                opened.file.verify_all()
            _OPENED[key] = opened
        return opened

    def _map_or_pack(self, form: type[T], source: Path, identity: dict[str, Any], label: str) -> T:
        if self.folder is None:
            return self._pack_in_memory(form, source, label)
        place = self.folder / self.file_name(form, source)
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
                    pack(form, source, file, self._dtype, label)
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
        pack(form, source, memory, self._dtype, label)
        return form(open_packed(np.frombuffer(memory.getbuffer(), np.uint8), str(source)), source)

    def file_name(self, form: type[Packed], source: Path) -> str:
        """Return the packed file's name: readable, another for each source, kind and dtype."""
        relative = source.relative_to(self._root) if source.is_relative_to(self._root) else source
        readable = re.sub(r"[^\w.-]+", "-", str(relative.with_suffix("")))[-80:].strip("-.")
        text = f"{relative}|{form.kind}|{self._dtype}"
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
        return f"{readable}-{digest}.packed"


_OPENED: weakref.WeakValueDictionary[tuple[Any, ...], Packed] = weakref.WeakValueDictionary()
_WARNED: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _WARNED:
        _WARNED.add(message)
        logger.warning(message)


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
            raise DataError(f"{place}: does not name its source")
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
