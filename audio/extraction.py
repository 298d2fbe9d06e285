"""Extracting a whole collection: in batches, resumed after any interruption, shared by processes.

    <out>/extraction/<extractor>/<time>-<random>.pkl   parts: features of some clips, each whole
    <out>/extraction/<extractor>/merged.pkl            which state of each file has been merged
    <out>/structured-symlinks/<extractor's file>       all clips, and beside it their record

Every process writes parts of its own, a few seconds of work each, so that none waits for another
and a killed one loses no more than that. What is in a part, of any process, is never extracted
again unless the file has changed since.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audio.extractor import Extractor, Tokens
from audio.listing import Sound
from audio.reading import Wave, read, read_blocks, sound_length
from utils.errors import DataError
from utils.extraction_record import ExtractionRecord, read_record, record_from, write_record
from utils.reading.pickles import dump_plain, load_plain

logger = logging.getLogger(__name__)

ROOT = "structured-symlinks"
WORK = "extraction"
MERGED = "merged.pkl"
BATCH_SECONDS = 120.0
"""Seconds of sound that go through the networks together."""
BATCH_FILES = 64
PART_SECONDS = 10.0
"""Seconds of work that one part holds: what an interruption may cost."""

Stamp = tuple[int, int]
"""Size and modification time (ns) of a file: it has changed when they have."""


class FeatureFiles(NamedTuple):
    """How files of features are read and written: those of the data loader."""

    read: Callable[[Path], Iterable[tuple[str, np.ndarray | None]]]
    write: Callable[[Path, Mapping[str, np.ndarray | None]], None]


@dataclass
class Part:
    """Features of some clips of one extractor, as they are kept until they are merged."""

    record: ExtractionRecord
    features: dict[str, np.ndarray] = field(default_factory=dict)
    stamps: dict[str, Stamp] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the part, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        stamps = {name: list(stamp) for name, stamp in self.stamps.items()}
        content = {
            "record": asdict(self.record),
            "features": self.features,
            "stamps": stamps,
            "skipped": self.skipped,
        }
        dump_plain(content, path)

    @classmethod
    def read(cls, path: Path) -> Part:
        """Read a part; DataError when it is none."""
        content = load_plain(path)
        if not isinstance(content, dict) or not all(
            isinstance(content.get(key), dict) for key in ("features", "stamps", "skipped")
        ):
            raise DataError(f"{path}: is no part of an extraction; remove it and extract again")
        record = record_from(content.get("record"), path)
        stamps = {name: (stamp[0], stamp[1]) for name, stamp in content["stamps"].items()}
        return cls(record, content["features"], stamps, content["skipped"])


class Ledger:
    """What has been extracted by one extractor so far: merged, and in parts."""

    def __init__(self, out: Path, kind: type[Extractor]) -> None:
        """Read the finished parts; raises DataError when different extractors made them."""
        self.features = out / ROOT / kind.file
        self.folder = out / WORK / kind.name
        self.part_files = sorted(path for path in self.folder.glob("*.pkl") if path.name != MERGED)
        self.parts = [Part.read(path) for path in self.part_files]
        self.records: list[tuple[Path, ExtractionRecord]] = [
            (path, part.record) for path, part in zip(self.part_files, self.parts, strict=True)
        ]
        self.merged: Part | None = None
        if self.features.is_file():
            record = read_record(self.features)
            if record is None:
                raise DataError(
                    f"{self.features} was not extracted here (there is no record beside it), so "
                    "that other features cannot be added to it: use another --out"
                )
            self.records.insert(0, (self.features, record))
            if (self.folder / MERGED).is_file():
                self.merged = Part.read(self.folder / MERGED)
        self.stamps: dict[str, Stamp] = {}
        self.skipped: dict[str, str] = {}
        for part in ([self.merged] if self.merged else []) + self.parts:
            self.stamps.update(part.stamps)
            self.skipped.update(part.skipped)
            for name in part.stamps:
                self.skipped.pop(name, None)
        for _, record in self.records[1:]:
            self.require(record)

    def require(self, record: ExtractionRecord) -> None:
        """Raise DataError unless all parts were made as in `record`."""
        for path, found in self.records:
            if found != record:
                raise DataError(
                    f"{path} holds features of {found}, these would be of {record}; features of "
                    "both cannot be mixed: use another --out, or remove "
                    f"{self.folder} and {self.features} to extract all anew"
                )

    def lacks(self, sound: Sound) -> bool:
        """Return whether a file is still to be extracted, as it is now."""
        stamp = stamp_of(sound.path)
        return stamp is None or self.stamps.get(sound.name) != stamp

    def write(self, part: Part) -> None:
        """Keep a part."""
        if part.features or part.skipped:
            part.write(self.folder / f"{time.time_ns()}-{secrets.token_hex(4)}.pkl")

    def merge(self, sounds: Sequence[Sound], files: FeatureFiles) -> dict[str, str]:
        """Join what was extracted into the file of features; return what was skipped and why.

        Clips that were merged before and are not among `sounds` stay. Raises DataError while any
        of `sounds` is neither extracted nor skipped.
        """
        missing = [
            sound.name
            for sound in sounds
            if sound.name not in self.stamps and sound.name not in self.skipped
        ]
        if missing:
            raise DataError(
                f"{self.folder}: {len(missing)} of {len(sounds)} clips are not extracted yet "
                f"({', '.join(missing[:3])}, ...): let every shard end, then merge again"
            )
        skipped = {s.name: self.skipped[s.name] for s in sounds if s.name in self.skipped}
        if not self.parts:
            return skipped
        record = self.records[-1][1]
        gone = self.skipped.keys() & self.stamps.keys()
        if gone or any(part.features for part in self.parts):
            self._write_features(record, files)
        elif not self.features.is_file():
            raise DataError(f"{self.folder}: no sound could be read, so there are no features")
        stamps = {name: stamp for name, stamp in self.stamps.items() if name not in gone}
        Part(record, {}, stamps, self.skipped).write(self.folder / MERGED)
        for path in self.part_files:
            path.unlink(missing_ok=True)
        return skipped

    def _write_features(self, record: ExtractionRecord, files: FeatureFiles) -> None:
        """Write all features that there are, those of skipped clips left out."""
        values: dict[str, np.ndarray | None] = {}
        if self.features.is_file():
            values.update(files.read(self.features))
        for part in self.parts:
            values.update(part.features)
        for name in self.skipped:
            values.pop(name, None)
        if not values:
            raise DataError(f"{self.folder}: no sound could be read, so there are no features")
        self.features.parent.mkdir(parents=True, exist_ok=True)
        write_record(self.features, record)
        files.write(self.features, values)


@dataclass
class Summary:
    """What an extraction did."""

    extracted: int = 0
    already: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    sound_seconds: float = 0.0
    seconds: float = 0.0


def extract(
    sounds: Sequence[Sound],
    extractors: Sequence[Extractor],
    out: Path,
    *,
    strict: bool = False,
    progress: Callable[[int, float], None] = lambda files, seconds: None,
) -> Summary:
    """Extract what is not there yet, into parts below `out`.

    A sound that cannot be read is skipped and named in the summary; `strict` raises its DataError
    instead. `progress(files, seconds of sound)` is called after each batch.
    """
    began = time.monotonic()
    ledgers = [Ledger(out, type(extractor)) for extractor in extractors]
    for extractor, ledger in zip(extractors, ledgers, strict=True):
        ledger.require(extractor.record())
    writer = _Writer(extractors, ledgers)
    summary = Summary()
    waiting = [sound for sound in sounds if any(one.lacks(sound) for one in ledgers)]
    summary.already = len(sounds) - len(waiting)
    progress(summary.already, 0.0)
    try:
        for batch, broken in _batches(waiting):
            _extract_batch(batch, writer, strict=strict)
            for sound, error in broken:
                if strict:
                    raise error
                writer.skip(sound.name, str(error))
            seconds = sum(one.seconds for one in batch)
            summary.sound_seconds += seconds
            progress(len(batch) + len(broken), seconds)
            writer.flush_if_due()
    finally:
        writer.flush()
    summary.skipped = writer.skipped
    summary.extracted = len(waiting) - len(writer.skipped)
    summary.seconds = time.monotonic() - began
    return summary


class _Waiting(NamedTuple):
    """A sound to extract: its length in seconds and the state of its file."""

    sound: Sound
    seconds: float
    stamp: Stamp


class _Writer:
    """Collects features and writes them as parts every few seconds."""

    def __init__(self, extractors: Sequence[Extractor], ledgers: Sequence[Ledger]) -> None:
        self.extractors = extractors
        self.ledgers = ledgers
        self.skipped: dict[str, str] = {}
        self._begin()

    def _begin(self) -> None:
        self.parts = [Part(extractor.record()) for extractor in self.extractors]
        self.since = time.monotonic()

    def keep(self, index: int, one: _Waiting, tokens: Tokens) -> None:
        """Keep the tokens of extractor number `index`."""
        self.parts[index].features[one.sound.name] = tokens
        self.parts[index].stamps[one.sound.name] = one.stamp

    def skip(self, name: str, reason: str) -> None:
        """Note that a sound has no features of any extractor."""
        self.skipped[name] = reason
        for part in self.parts:
            part.features.pop(name, None)
            part.stamps.pop(name, None)
            part.skipped[name] = reason

    def flush_if_due(self) -> None:
        """Write the parts when they hold enough work."""
        if time.monotonic() - self.since >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the parts."""
        for ledger, part in zip(self.ledgers, self.parts, strict=True):
            ledger.write(part)
        self._begin()


def _batches(
    sounds: Sequence[Sound],
) -> Iterator[tuple[list[_Waiting], list[tuple[Sound, DataError]]]]:
    """Yield sounds in batches of some minutes, with those that cannot even be opened."""
    batch: list[_Waiting] = []
    broken: list[tuple[Sound, DataError]] = []
    for sound in sounds:
        try:
            stamp = stamp_of(sound.path) or (0, 0)
            one = _Waiting(sound, sound_length(sound.path), stamp)
        except DataError as error:
            broken.append((sound, error))
            continue
        total = sum(other.seconds for other in batch) + one.seconds
        if batch and (total > BATCH_SECONDS or len(batch) == BATCH_FILES):
            yield batch, broken
            batch, broken = [], []
        batch.append(one)
    if batch or broken:
        yield batch, broken


def _extract_batch(batch: Sequence[_Waiting], writer: _Writer, *, strict: bool) -> None:
    """Run every extractor that lacks any of a batch; sounds that cannot be read are skipped."""
    waves: dict[int, dict[str, Wave]] = {}
    for index, extractor in enumerate(writer.extractors):
        lacking = [one for one in batch if writer.ledgers[index].lacks(one.sound)]
        if len(batch) == 1 and batch[0].seconds > BATCH_SECONDS:
            for one in lacking:
                with _skipping(writer, one.sound, strict):
                    blocks = read_blocks(one.sound.path, extractor.rate)
                    writer.keep(index, one, extractor.tokens_of_blocks(blocks))
            continue
        of_rate = waves.setdefault(extractor.rate, {})
        for one in lacking:
            if one.sound.name not in of_rate and one.sound.name not in writer.skipped:
                with _skipping(writer, one.sound, strict):
                    of_rate[one.sound.name] = read(one.sound.path, extractor.rate)
        ready = [
            one
            for one in lacking
            if one.sound.name in of_rate and one.sound.name not in writer.skipped
        ]
        if ready:
            found = extractor([of_rate[one.sound.name] for one in ready])
            for one, tokens in zip(ready, found, strict=True):
                writer.keep(index, one, tokens)


@contextlib.contextmanager
def _skipping(writer: _Writer, sound: Sound, strict: bool) -> Iterator[None]:
    """Skip a sound whose reading fails, unless strict."""
    try:
        yield
    except DataError as error:
        if strict:
            raise
        writer.skip(sound.name, str(error))


def stamp_of(path: Path) -> Stamp | None:
    """Return size and modification time of a file; None when it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
