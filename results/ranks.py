"""ranks.npz: the rank of every query in both directions, enough to recompute every metric.

Q queries (captions), V clips, M experts, T clips at the top of a query's list. Ranks are 0-based
and average over ties, as model.metric makes them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_loader import BaseDataset
from model.metric import summarise, t2v_ranks, v2t_ranks
from utils.errors import DataError, UnsafeFileError
from utils.files import MIB, atomic_writer, open_regular

RANKS = "ranks.npz"
TOP = 10
AT_ONCE = 1024  # rows of scores that are sorted together
LARGEST = 1 << 10  # MiB that the arrays of one file may take together
ARRAYS = {
    "query_clip": ("i", 1),
    "query_caption": ("i", 1),
    "t2v_ranks": ("f", 1),
    "v2t_clip": ("i", 1),
    "v2t_ranks": ("f", 1),
    "top_clips": ("i", 2),
    "top_scores": ("f", 2),
    "weights": ("f", 2),
    "names": ("u", 1),
}
"""Name -> kind and dimensions of the arrays of the file."""


class Scored(Protocol):
    """Similarities (V*K, V), query_masks (V, K) of 0/1, weights of experts by name (V*K,)."""

    @property
    def similarities(self) -> np.ndarray: ...
    @property
    def query_masks(self) -> np.ndarray: ...
    @property
    def weights(self) -> Mapping[str, np.ndarray]: ...


@dataclass(frozen=True)
class Ranks:
    """The ranks of one split by one trained model.

    Query q is caption query_caption[q] of clip query_clip[q] (Q,), found at t2v_ranks[q]; clip
    v2t_clip[i] finds its best own caption at v2t_ranks[i] (n,). top_clips and top_scores (Q, T)
    are the first clips of each list, best first. captions: Q texts, or none. weights (Q, M): of
    the experts, M = 0 where the model has none.
    """

    clips: tuple[str, ...]
    captions: tuple[str, ...]
    experts: tuple[str, ...]
    query_clip: np.ndarray
    query_caption: np.ndarray
    t2v_ranks: np.ndarray
    v2t_clip: np.ndarray
    v2t_ranks: np.ndarray
    top_clips: np.ndarray
    top_scores: np.ndarray
    weights: np.ndarray

    def of(self, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the ranks of a task ("t2v", "v2t") and the clip of each, both (n,)."""
        if task == "t2v":
            return self.t2v_ranks, self.query_clip
        return self.v2t_ranks, self.v2t_clip

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the metrics of both directions, as results.json holds them."""
        return {f"{task}_metrics": summarise(self.of(task)[0]) for task in ("t2v", "v2t")}

    def identity(self) -> tuple[object, ...]:
        """Return what two runs share when they answer the same queries among the same clips."""
        return (
            self.clips,
            self.query_clip.tolist(),
            self.query_caption.tolist(),
            self.v2t_clip.tolist(),
        )


def query_texts(data: BaseDataset, *, average: bool = False) -> list[list[str]]:
    """Return the text of every query of a split by clip; joined or averaged captions are one."""
    joined = data.settings.fuse_captions
    texts = []
    for clip in data.clips:
        captions = data.captions(clip)
        shown = captions if joined else captions[: data.settings.num_test_captions]
        texts.append([" / ".join(shown)] if joined or average else shown)
    return texts


def ranks_of(
    scored: Scored,
    clips: Sequence[str],
    *,
    captions: Sequence[Sequence[str]] = (),
    only: Sequence[str] | None = None,
) -> Ranks:
    """Rank every query of an evaluation.

    clips: V names; captions: the texts of the queries by clip; only: the clips that count as
    queries (None: all); weights: by expert, (V*K,).
    """
    sims, masks = scored.similarities, scored.query_masks.astype(bool)
    per_clip = masks.shape[1]
    chosen = np.ones(len(clips), bool) if only is None else np.isin(clips, list(only))
    asked = masks & chosen[:, None]
    query_clip, query_caption = np.nonzero(asked)
    rows = query_clip * per_clip + query_caption
    parts = [rows[start : start + AT_ONCE] for start in range(0, max(1, len(rows)), AT_ONCE)]
    top, top_scores = map(np.concatenate, zip(*(_top(sims[part]) for part in parts), strict=True))
    texts: list[str] = []
    if len(captions):
        texts = [captions[c][k] for c, k in zip(query_clip, query_caption, strict=True)]
    by_expert = [np.asarray(weight)[rows] for weight in scored.weights.values()]
    return Ranks(
        clips=tuple(clips),
        captions=tuple(texts),
        experts=tuple(scored.weights),
        query_clip=query_clip.astype(np.int32),
        query_caption=query_caption.astype(np.int32),
        t2v_ranks=t2v_ranks(sims, asked),
        v2t_clip=np.flatnonzero(chosen).astype(np.int32),
        v2t_ranks=v2t_ranks(sims, masks)[chosen],
        top_clips=top.astype(np.int32),
        top_scores=top_scores.astype(np.float32),
        weights=np.stack(by_expert, axis=1).astype(np.float32)
        if by_expert
        else np.zeros((len(rows), 0), np.float32),
    )


def save_ranks(folder: Path, ranks: Ranks) -> Path:
    """Write ranks.npz into a folder, made where it is missing; return its path."""
    names = json.dumps([ranks.clips, ranks.captions, ranks.experts]).encode()
    arrays = {name: getattr(ranks, name) for name in ARRAYS if name != "names"}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_writer(folder / RANKS) as file:
        np.savez_compressed(file, names=np.frombuffer(names, np.uint8), **arrays)
    return folder / RANKS


def read_ranks(path: Path) -> Ranks:
    """Read ranks.npz; raises DataError for a file that is none, UnsafeFileError for one too large.

    Nothing in it is unpickled.
    """
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as members:
                size = sum(member.file_size for member in members.infolist())
            if size > LARGEST * MIB:
                raise UnsafeFileError(f"{path}: unpacks to {size:,} bytes; most are {LARGEST} MiB")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in ARRAYS}
            names = json.loads(arrays.pop("names").tobytes())
            return _checked(arrays, names)
        except (ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise DataError(f"{path}: holds no ranks as eval.py writes them: {error}") from error


def _checked(arrays: dict[str, np.ndarray], names: Any) -> Ranks:  # noqa: ANN401  of a file
    """Put the parts together; ValueError where they do not fit."""
    for name, array in arrays.items():
        kind, dimensions = ARRAYS[name]
        if array.dtype.kind != kind or array.ndim != dimensions:
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
    clips, captions, experts = (tuple(map(str, part)) for part in names)
    queries, answers = len(arrays["query_clip"]), len(arrays["v2t_clip"])
    fits = (
        len(arrays["query_caption"]) == len(arrays["t2v_ranks"]) == queries > 0
        and len(arrays["v2t_ranks"]) == answers > 0
        and arrays["top_clips"].shape == arrays["top_scores"].shape
        and len(arrays["top_clips"]) == queries
        and arrays["weights"].shape == (queries, len(experts))
        and len(captions) in (0, queries)
        and all(
            ((arrays[name] >= 0) & (arrays[name] < len(clips))).all()
            for name in ("query_clip", "v2t_clip", "top_clips")
        )
        and not any(
            np.isnan(arrays[name]).any() or (arrays[name] < 0).any()
            for name in ("t2v_ranks", "v2t_ranks")
        )
        and np.isfinite(arrays["weights"]).all()
        and np.isfinite(arrays["top_scores"]).all()
    )
    if not fits:
        raise ValueError("its arrays do not fit together")
    return Ranks(clips, captions, experts, **arrays)


def _top(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the TOP highest scores of each row, best first, and these scores."""
    if scores.shape[1] > TOP:
        best = np.sort(np.argpartition(-scores, TOP - 1, axis=1)[:, :TOP], axis=1)
    else:
        best = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    places = np.take_along_axis(best, order, axis=1)
    return places, np.take_along_axis(scores, places, axis=1)
