"""A folder of recordings and its index, kept in step: only what changed is computed again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from audio.listing import Sound, list_sounds
from search.embedder import Embedder
from search.engine import Engine
from search.index import IndexedFile, Stamp
from search.scoring import Clips, Span
from utils.errors import DataError

logger = logging.getLogger(__name__)

AT_ONCE = 32
"""Files that are added to the index together: as many are lost at most when the process dies."""


class Changes(NamedTuple):
    """What `update` did."""

    added: int
    removed: int
    kept: int
    unreadable: dict[str, str]
    """Why each file that cannot be read was left out."""


def update(folder: Path, index: Engine, embedder: Callable[[], Embedder], span: Span) -> Changes:
    """Bring an index to the present state of a folder.

    `embedder` is called when something is to be computed. Raises DataError when the folder holds
    no recording that can be read.
    """
    sounds = list_sounds(folder)
    known = index.stamps()
    stamps = {sound.name: stamp_of(sound.path) for sound in sounds}
    changed = [sound for sound in sounds if known.get(sound.name) != stamps[sound.name]]
    gone = [name for name in known if name not in stamps]
    unreadable: dict[str, str] = {}
    if changed:
        maker = embedder()
        index.require_features(maker.records())
        with tqdm(total=len(changed), desc="listening", unit="file", disable=None) as bar:
            for first in range(0, len(changed), AT_ONCE):
                files = []
                for sound in changed[first : first + AT_ONCE]:
                    files.append(_indexed(sound, stamps[sound.name], maker, span, unreadable))
                    bar.update()
                index.add(files)
    index.remove(gone)
    for name, reason in unreadable.items():
        logger.warning("left out: %s", reason if name in reason else f"{name}: {reason}")
    if not len(index):
        raise DataError(
            f"{folder}: none of its {len(sounds)} sound files can be read; see the reasons above, "
            "or choose another folder"
        )
    added = len(changed) - len(unreadable)
    return Changes(added, len(gone), len(sounds) - len(changed), unreadable)


def stamp_of(path: Path) -> Stamp:
    """Return the size and time of a file; of one that is gone, those of no file."""
    try:
        found = path.stat()
    except OSError:
        return Stamp(0, 0)
    return Stamp(found.st_size, found.st_mtime_ns)


def _indexed(
    sound: Sound, stamp: Stamp, maker: Embedder, span: Span, unreadable: dict[str, str]
) -> IndexedFile:
    """Compute a file's rows; one that cannot be read has none, so that it is not tried again."""
    try:
        recording = maker.extract(sound.path)
    except DataError as error:
        unreadable[sound.name] = str(error)
        empty = Clips(np.empty((0, maker.width), np.float32), np.empty(0, np.int64))
        return IndexedFile(sound.name, stamp, 0.0, empty, np.empty((0, 2)))
    moments = span.moments(recording.seconds)
    clips = maker.embed_clips(maker.cut(recording, moments))
    return IndexedFile(sound.name, stamp, recording.seconds, clips, moments)
