"""The material of an audit: every split of a data set, read without the checks that refuse it.

V clips of a split, C captions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from data_loader import find_sources
from data_loader.packed_sources import PackedCaptions, PackedFeatures, PackedText
from data_loader.store import FeatureStore
from utils.config import Config, ExpertConfig
from utils.errors import DataError
from utils.files import read_list, sha256_of

T = TypeVar("T")


@dataclass(frozen=True)
class Expert:
    """The features of one expert for the clips of a split."""

    config: ExpertConfig
    present: np.ndarray
    """(V,): the clip has features."""
    lengths: np.ndarray
    """(V,): the number of tokens."""
    digests: tuple[str, ...]
    """(V,): of the features; "" where the clip has none."""
    means: np.ndarray
    """(V, D): over the tokens."""
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

    @cached_property
    def digests(self) -> list[str]:
        """Of all features of each clip (V,); "" where it has none."""
        by_expert = [expert.digests for expert in self.experts.values()]
        joined = ["|".join(parts) for parts in zip(*by_expert, strict=True)]
        return [digests if digests.strip("|") else "" for digests in joined]

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


def gather(config: Config) -> Material:
    """Read the training, validation and test split of a configuration."""
    test = config.for_evaluation()
    material = Material(config, test)
    packed = None if config.data.packed_dir is None else Path(config.data.packed_dir)
    store = FeatureStore(config.data.root, packed, config.dataset_folder, config.data.packed_dtype)
    splits = {"train": config, config.data.split_name: config, test.data.split_name: test}
    for name, of in splits.items():
        split = _split(material, of, name, store)
        if split is not None:
            material.splits.append(split)
    return material


def _split(material: Material, config: Config, name: str, store: FeatureStore) -> Split | None:
    def read(what: Callable[..., T], *place: object) -> T | None:
        """Return what is read of a place; a file that cannot be read is noted once."""
        try:
            return what(*place)
        except DataError as error:
            if str(error) not in material.unreadable:
                material.unreadable.append(str(error))
            return None

    sources = find_sources(config, name)
    clips = read(read_list, sources.split_list)
    if clips is None:
        return None
    captions = read(store.captions, sources.captions)
    text = None if sources.text is None else read(store.text, sources.text)
    texts = _captions(captions, clips)
    experts = {}
    opened = []
    for expert, files in zip(config.experts, sources.experts, strict=True):
        parts = [read(store.features, file, expert.name) for file in files]
        whole = [part for part in parts if part is not None]
        if len(whole) == len(parts):
            experts[expert.name] = _expert(expert, whole, clips)
            opened += whole
    for packed in (*opened, captions, text):
        if packed is not None:
            material.files[str(packed.source)] = tuple(packed.clips)
    return Split(
        name=name,
        file=sources.split_list,
        sha256=sha256_of(sources.split_list),
        clips=tuple(clips),
        captions=texts,
        word_vectors=_word_counts(text, clips)
        if sources.text is not None
        else tuple(tuple(len(text.split()) for text in each) for each in texts),
        experts=experts,
    )


def _captions(packed: PackedCaptions | None, clips: list[str]) -> tuple[tuple[str, ...], ...]:
    if packed is None:
        return tuple(() for _ in clips)
    rows = packed.find(clips)
    return tuple(tuple(packed.captions(row)) if row >= 0 else () for row in rows.tolist())


def _word_counts(packed: PackedText | None, clips: list[str]) -> tuple[tuple[int, ...] | None, ...]:
    if packed is None:
        return tuple(None for _ in clips)
    lengths, bounds = np.diff(packed.word_offsets), packed.offsets
    return tuple(
        tuple(lengths[bounds[row] : bounds[row + 1]].tolist()) if row >= 0 else None
        for row in packed.find(clips).tolist()
    )


def _expert(config: ExpertConfig, parts: list[PackedFeatures], clips: list[str]) -> Expert:
    present = np.ones(len(clips), bool)
    runs = []
    for part in parts:
        rows = part.find(clips)
        present &= (rows >= 0) & (part.available[rows] == 1)
        runs.append((part.rows, *part.run(np.maximum(rows, 0))))
    means = np.zeros((len(clips), sum(part.width for part in parts)), np.float32)
    flat = np.zeros(len(clips), bool)
    digests = [""] * len(clips)
    for clip in np.flatnonzero(present).tolist():
        tokens = [rows[starts[clip] :][: lengths[clip]] for rows, starts, lengths in runs]
        digest = hashlib.blake2b(digest_size=16)
        for values in tokens:
            digest.update(np.ascontiguousarray(values).tobytes())
        digests[clip] = digest.hexdigest()
        means[clip] = np.concatenate([values.astype(np.float32).mean(axis=0) for values in tokens])
        flat[clip] = all(map(_is_flat, tokens))
    _, _, lengths = runs[0]
    return Expert(config, present, np.where(present, lengths, 0), tuple(digests), means, flat)


def _is_flat(rows: np.ndarray) -> bool:
    """Return whether features (N, D) are one number, or one token three times or more."""
    return bool((rows == rows[0, 0]).all() or (len(rows) > 2 and (rows == rows[0]).all()))
