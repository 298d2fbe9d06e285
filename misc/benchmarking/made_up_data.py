"""Data sets of made-up features at any size, for measuring: noise in the published formats.

V clips, N tokens, D or T features.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from data_loader.audiocaps import AudioCaps
from data_loader.packed_file import PackedWriter, encode_names
from data_loader.packed_sources import Packed, PackedCaptions, PackedFeatures, PackedText
from data_loader.store import FeatureStore
from utils.config import Config, ExpertConfig
from utils.files import write_text
from utils.reading.hickle import write_hickle
from utils.reading.pickles import dump_plain

TOKENS = {"audio": 10, "vggsound": 29}
"""Tokens of a clip of ten seconds, as the published extractors give them."""
WORDS = (5, 14)
CAPTIONS = {"train": 1, "val": 5, "test": 5}
POOL = 1 << 20
BLOCK = 1 << 24


class Noise(Mapping[str, np.ndarray]):
    """Features {clip: (N, D)} that exist one at a time: pieces of one pool of noise."""

    def __init__(self, clips: list[str], tokens: int, width: int) -> None:
        self._clips = {clip: number for number, clip in enumerate(clips)}
        self._shape = (tokens, width)
        pool = np.random.default_rng(0).standard_normal(POOL + tokens * width, dtype=np.float32)
        self._pool = pool

    def __getitem__(self, clip: str) -> np.ndarray:
        start = self._clips[clip] * 7919 % POOL  # a prime: neighbours share nothing
        size = self._shape[0] * self._shape[1]
        return self._pool[start : start + size].reshape(self._shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._clips)

    def __len__(self) -> int:
        return len(self._clips)


def write_data_set(config: Config, sizes: Mapping[str, int]) -> None:
    """Write the files that an AudioCaps config reads, with `sizes` clips per split."""
    root = config.data.root
    clips = _write_lists(root, sizes)
    every = [clip for names in clips.values() for clip in names]
    for expert in config.experts:
        noise = Noise(every, TOKENS[expert.name] if expert.tokens else 1, expert.width)
        file = _file_of(root, expert)
        if file.suffix == ".hickle":
            write_hickle(file, noise)
        else:
            dump_plain({clip: value[0] for clip, value in noise.items()}, file)
    draw = np.random.default_rng(1)
    words = Noise(every, WORDS[1], config.text.width)
    text, captions = {}, {}
    for split, names in clips.items():
        for clip in names:
            lengths = draw.integers(WORDS[0], WORDS[1], CAPTIONS[split], endpoint=True)
            text[clip] = [words[clip][:length] for length in lengths]
            captions[clip] = [["word"] * length for length in lengths]
    for place, content in ((_text_file(root, config), text), (_captions_file(root), captions)):
        place.parent.mkdir(parents=True, exist_ok=True)
        dump_plain(content, place)


def write_sparse_data_set(config: Config, sizes: Mapping[str, int]) -> None:
    """Write the packed form of a data set whose features are holes of the file system.

    Half a million clips are 30 GB of features; as holes they take no room, and are mapped, gathered
    and computed with as others are. The sources they claim to come from are empty files.
    """
    root = config.data.root
    clips = _write_lists(root, sizes)
    every = [clip for names in clips.values() for clip in names]
    per_clip = np.repeat([CAPTIONS[split] for split in clips], [len(n) for n in clips.values()])
    store = FeatureStore(
        root, Path(str(config.data.packed_dir)), config.dataset_folder, config.data.packed_dtype
    )
    for expert in config.experts:
        tokens = TOKENS[expert.name] if expert.tokens else 1
        with _PackedAt(store, PackedFeatures, _file_of(root, expert)) as writer:
            _extend_with_zeros(writer, len(every) * tokens + 1, expert.width)
            writer.add("offsets", np.arange(len(every) + 1) * tokens)
            writer.add("available", np.ones(len(every), np.uint8))
            writer.add("names", encode_names(every))
    captions = int(per_clip.sum())
    offsets = np.concatenate([[0], np.cumsum(per_clip)])
    with _PackedAt(store, PackedText, _text_file(root, config)) as writer:
        _extend_with_zeros(writer, captions * WORDS[0] + 1, config.text.width)
        writer.add("word_offsets", np.arange(captions + 1) * WORDS[0])
        writer.add("offsets", offsets)
        writer.add("names", encode_names(every))
    with _PackedAt(store, PackedCaptions, _captions_file(root)) as writer:
        writer.add("text", np.frombuffer(b"word" * captions, np.uint8))
        writer.add("text_offsets", np.arange(captions + 1) * 4)
        writer.add("offsets", offsets)
        writer.add("names", encode_names(every))


def _write_lists(root: Path, sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """Write the split lists and return the clips of each split."""
    clips: dict[str, list[str]] = {}
    for split, size in sizes.items():
        clips[split] = [f"{split}{number:07d}_{number * 10}" for number in range(size)]
        path = root / AudioCaps.split_lists[split]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "\n".join(clips[split]) + "\n")
    return clips


def _file_of(root: Path, expert: ExpertConfig) -> Path:
    place = expert.files[0] if expert.files else AudioCaps.expert_files[expert.name]
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _text_file(root: Path, config: Config) -> Path:
    return root / AudioCaps.text_folder / f"{config.text.feature}.pkl"


def _captions_file(root: Path) -> Path:
    return root / "structured-symlinks" / AudioCaps.captions_file


def _extend_with_zeros(writer: PackedWriter, rows: int, width: int) -> None:
    at_once = max(1, BLOCK // (4 * width))
    zeros = np.zeros((at_once, width), np.float32)
    for start in range(0, rows, at_once):
        writer.extend("rows", zeros[: min(at_once, rows - start)])


class _HolesForZeros(io.RawIOBase):
    """A file that passes over large runs of zeros instead of writing them."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # noqa: ANN001
        view = memoryview(data).cast("B")
        if len(view) > 1 << 16 and not np.frombuffer(view, np.uint8).any():
            self._file.seek(len(view), os.SEEK_CUR)
            return len(view)
        return self._file.write(view)


class _PackedAt:
    """Write the packed form that a store expects of a source, which is made as an empty file."""

    def __init__(self, store: FeatureStore, form: type[Packed], source: Path) -> None:
        source.parent.mkdir(parents=True, exist_ok=True)
        source.touch()
        self._form, self._source = form, source
        place = Path(str(store.folder)) / store.file_name(
            form, source
        )  # where it will be looked for
        place.parent.mkdir(parents=True, exist_ok=True)
        self._file = place.open("wb")

    def __enter__(self) -> PackedWriter:
        self._writer = PackedWriter(_HolesForZeros(self._file))  # type: ignore[arg-type]
        return self._writer

    def __exit__(self, *_: object) -> None:
        status = self._source.stat()
        source = {
            "path": str(self._source.resolve()),
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "sha256": hashlib.sha256(b"").hexdigest(),
        }
        header = {"kind": self._form.kind, "dtype": "keep", "source": source}
        self._writer.finish(header)
        self._file.close()
