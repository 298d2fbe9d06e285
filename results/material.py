"""The material of an audit: every split of a data set, read without the checks that refuse it.

V clips of a split, C captions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from data_loader import find_sources
from data_loader.packed_file import decode_names
from data_loader.packed_sources import Packed, PackedCaptions, PackedFeatures, PackedText
from data_loader.store import FeatureStore
from utils.config import Config, ExpertConfig
from utils.errors import DataError
from utils.files import read_list, sha256_of

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Expert:
    """The features of one expert for the clips of a split.

    Clip v has the rows starts[v] : starts[v] + lengths[v] of each part; present (V,) is 1 where
    the clip has features; digests: of what the clip has, "" where it has nothing; means (V, D).
    """

    config: ExpertConfig
    present: np.ndarray
    lengths: np.ndarray
    digests: tuple[str, ...]
    means: np.ndarray
    flat: np.ndarray
    """(V,): all values of the clip are one number, or three tokens or more are all the same."""


@dataclass(frozen=True)
class Split:
    """One split: its clips, their captions, how many words the model gets, and its experts."""

    name: str
    file: Path
    sha256: str
    clips: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    """Of each clip (V,); none where the clip has none."""
    word_vectors: tuple[tuple[int, ...] | None, ...]
    """How many word vectors each caption has, by clip; None where the clip has no text vectors."""
    experts: dict[str, Expert]

    def texts(self) -> Iterator[tuple[int, int, str]]:
        """Yield (clip, number, caption) of every caption."""
        for clip, captions in enumerate(self.captions):
            for number, caption in enumerate(captions):
                yield clip, number, caption


@dataclass
class Material:
    """All splits, the clips that files hold besides, and what could not be read."""

    config: Config
    test_config: Config
    splits: list[Split] = field(default_factory=list)
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Clips of each file of features, captions and text vectors."""
    unreadable: list[str] = field(default_factory=list)

    @property
    def test(self) -> Split | None:
        """The split that is reported on."""
        name = self.test_config.data.split_name
        return next((split for split in self.splits if split.name == name), None)

    @property
    def training(self) -> Split | None:
        """The split that is trained on."""
        return next((split for split in self.splits if split.name == "train"), None)


def gather(config: Config) -> Material:
    """Read the training, validation and test split of a configuration."""
    test = config.for_evaluation()
    material = Material(config, test)
    names = dict.fromkeys(["train", config.data.split_name, test.data.split_name])
    folder = config.data.root
    packed = None if config.data.packed_dir is None else Path(config.data.packed_dir)
    store = FeatureStore(folder, packed, config.dataset_folder, config.data.packed_dtype)
    for name in names:
        of = config if name != test.data.split_name or name == "train" else test
        split = _split(material, of, name, store)
        if split is not None:
            material.splits.append(split)
    return material


def _split(material: Material, config: Config, name: str, store: FeatureStore) -> Split | None:
    sources = find_sources(config, name)
    clips = _try(material, read_list, sources.split_list)
    if clips is None:
        return None
    captions = _try(material, store.captions, sources.captions)
    vectors = sources.text
    text = None if vectors is None else _try(material, store.text, vectors)
    texts = _captions(captions, clips)
    experts = {}
    for expert, files in zip(config.experts, sources.experts, strict=True):
        parts = [_try(material, store.features, file, expert.name) for file in files]
        if all(part is not None for part in parts):
            experts[expert.name] = _expert(expert, [p for p in parts if p is not None], clips)
            material.files |= {str(p.source): _names(p) for p in parts if p is not None}
    material.files |= {
        str(packed.source): _names(packed) for packed in (captions, text) if packed is not None
    }
    return Split(
        name=name,
        file=sources.split_list,
        sha256=sha256_of(sources.split_list),
        clips=tuple(clips),
        captions=texts,
        word_vectors=_word_counts(text, clips)
        if vectors is not None
        else tuple(tuple(len(text.split()) for text in each) for each in texts),
        experts=experts,
    )


def _try(material: Material, read: Callable[P, T], *place: P.args, **more: P.kwargs) -> T | None:
    """Return what `read` returns of a place; a file that cannot be read is noted once."""
    try:
        return read(*place, **more)
    except DataError as error:
        if str(error) not in material.unreadable:
            material.unreadable.append(str(error))
        return None


def _names(packed: Packed) -> tuple[str, ...]:
    return tuple(decode_names(packed.file.arrays["names"]))


def _captions(packed: PackedCaptions | None, clips: list[str]) -> tuple[tuple[str, ...], ...]:
    if packed is None:
        return tuple(() for _ in clips)
    rows = packed.find(clips)
    return tuple(tuple(packed.captions(row)) if row >= 0 else () for row in rows.tolist())


def _word_counts(packed: PackedText | None, clips: list[str]) -> tuple[tuple[int, ...] | None, ...]:
    if packed is None:
        return tuple(None for _ in clips)
    lengths = np.diff(packed.word_offsets)
    counts: list[tuple[int, ...] | None] = []
    for row in packed.find(clips).tolist():
        bounds = slice(int(packed.offsets[row]), int(packed.offsets[row + 1])) if row >= 0 else None
        counts.append(None if bounds is None else tuple(lengths[bounds].tolist()))
    return tuple(counts)


def _expert(config: ExpertConfig, parts: list[PackedFeatures], clips: list[str]) -> Expert:
    present = np.ones(len(clips), bool)
    runs = []
    for part in parts:
        rows = part.find(clips)
        present &= (rows >= 0) & (part.available[rows] == 1)
        runs.append(part.run(np.maximum(rows, 0)))
    means = np.zeros((len(clips), sum(part.width for part in parts)), np.float32)
    flat = np.zeros(len(clips), bool)
    digests = []
    for clip in range(len(clips)):
        if not present[clip]:
            digests.append("")
            continue
        tokens = [
            part.rows[starts[clip] : starts[clip] + lengths[clip]]
            for part, (starts, lengths) in zip(parts, runs, strict=True)
        ]
        digest = hashlib.blake2b(digest_size=16)
        for rows in tokens:
            digest.update(np.ascontiguousarray(rows).tobytes())
        digests.append(digest.hexdigest())
        means[clip] = np.concatenate([rows.astype(np.float32).mean(axis=0) for rows in tokens])
        flat[clip] = all(_is_flat(rows) for rows in tokens)
    lengths = np.where(present, runs[0][1], 0)
    return Expert(config, present, lengths, tuple(digests), means, flat)


def _is_flat(rows: np.ndarray) -> bool:
    """Return whether features (N, D) are one number, or one token three times or more."""
    return bool((rows == rows[0, 0]).all() or (len(rows) > 2 and (rows == rows[0]).all()))
