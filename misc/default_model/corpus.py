"""Recordings with phrases: their list, folds that share nothing, and mixtures of two.

A list is index.csv in the folder of the recordings: file, phrase, licence, author, source.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audio.reading import Wave, read
from utils.errors import DataError

COLUMNS = ("file", "phrase", "licence", "author", "source")
FREE = re.compile(r"CC0|CC BY(?![ -]?(NC|ND|SA))", re.IGNORECASE)
"""Licences that let a model be made and passed on, with attribution at most."""
LOUDER = 6.0
"""Decibels by which one sound of a mixture may be louder than the other."""
LONGEST = 10.0
"""Seconds of a mixture."""


@dataclass(frozen=True)
class Listed:
    """A line of the list."""

    file: str
    phrase: str
    licence: str
    author: str
    source: str


def read_list(folder: Path) -> list[Listed]:
    """Return the recordings of a folder whose licence is CC0 or CC BY.

    Raises DataError naming missing columns, or a folder without such recordings.
    """
    path = folder / "index.csv"
    if not path.is_file():
        raise DataError(f"{path} is missing; expected a list with {', '.join(COLUMNS)}")
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (lines.fieldnames or ())]
        if missing:
            raise DataError(f"{path}: has no column {', '.join(missing)}")
        listed = [Listed(*(line[name].strip() for name in COLUMNS)) for line in lines]
    free = [one for one in listed if FREE.match(one.licence) and one.phrase]
    if not free:
        raise DataError(f"{path}: lists no recording under CC0 or CC BY with a phrase")
    return free


def folds_of(listed: Sequence[Listed], count: int) -> np.ndarray:
    """Return the fold (n,) of each recording: no phrase and no source is in two folds.

    Recordings that share either, directly or through others, go together; groups go, the largest
    first, to the fold that is smallest so far.
    """
    group = list(range(len(listed)))

    def root(index: int) -> int:
        while group[index] != index:
            index = group[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, one in enumerate(listed):
        for key in (("phrase", one.phrase.lower()), ("source", one.source)):
            if key[1]:
                other = first.setdefault(key, index)
                group[root(index)] = root(other)
    roots = np.array([root(index) for index in range(len(listed))])
    names, sizes = np.unique(roots, return_counts=True)
    fold = np.empty(len(listed), dtype=np.int64)
    filled = [0] * count
    for position in np.argsort(-sizes, kind="stable"):
        smallest = filled.index(min(filled))
        fold[roots == names[position]] = smallest
        filled[smallest] += int(sizes[position])
    return fold


def draw_pairs(
    listed: Sequence[Listed], folds: np.ndarray, count: int, draw: np.random.Generator
) -> list[tuple[int, int]]:
    """Draw pairs of recordings of one fold with different phrases."""
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        first = int(draw.integers(len(listed)))
        second = int(draw.choice(np.flatnonzero(folds == folds[first])))
        if listed[first].phrase != listed[second].phrase:
            pairs.append((first, second))
    return pairs


def mix(folder: Path, files: Sequence[str], rate: int, draw: np.random.Generator) -> Wave:
    """Return two recordings one over the other: equally loud to within LOUDER decibels.

    The shorter one begins at random within the longer one; LONGEST seconds of each are used.
    """
    waves = [read(folder / file, rate, seconds=LONGEST) for file in files]
    waves = [wave / max(float(np.sqrt(np.mean(wave**2))), 1e-6) for wave in waves]
    waves[1] = waves[1] * 10 ** (draw.uniform(-LOUDER, LOUDER) / 20)
    mixed = np.zeros(max(map(len, waves)), dtype=np.float32)
    for wave in waves:
        start = int(draw.integers(len(mixed) - len(wave) + 1))
        mixed[start : start + len(wave)] += wave
    peak = float(np.abs(mixed).max())
    return mixed * (0.5 / peak) if peak > 0 else mixed
