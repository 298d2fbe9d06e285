"""ranks.npz: the rank of every query in both directions, enough to recompute every metric.

Q queries (captions), V clips, M experts, T clips at the top of a query's list. Ranks are 0-based
and average over ties, as model.metric makes them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_loader import BaseDataset
from model.metric import TASKS, summarise, t2v_ranks, v2t_ranks
from trainer.evaluator import Evaluation
from utils.errors import DataError, UnsafeFileError
from utils.files import MIB, atomic_writer, open_regular

RANKS = "ranks.npz"
TOP = 10
AT_ONCE = 1024  # rows of scores that are sorted together
LARGEST = 1 << 10  # MiB that the arrays of one file may take together
ARRAYS = {
    "query_clip": ("i", "Q"),
    "query_caption": ("i", "Q"),
    "t2v_ranks": ("f", "Q"),
    "v2t_clip": ("i", "n"),
    "v2t_ranks": ("f", "n"),
    "top_clips": ("i", "QT"),
    "top_scores": ("f", "QT"),
    "weights": ("f", "QM"),
}
"""Name -> kind and dimensions of the arrays of the file, which are fields of Ranks."""


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
        return {f"{task}_metrics": summarise(self.of(task)[0]) for task in TASKS}

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
    scored: Evaluation,
    clips: Sequence[str],
    *,
    captions: Sequence[Sequence[str]] = (),
    only: Sequence[str] | None = None,
) -> Ranks:
    """Rank every query of an evaluation.

    clips: V names; captions: the texts of the queries by clip; only: the clips that count as
    queries (None: all).
    """
    sims, masks = scored.similarities, scored.query_masks.astype(bool)
    per_clip = masks.shape[1]
    chosen = np.ones(len(clips), bool) if only is None else np.isin(clips, list(only))
    asked = masks & chosen[:, None]
    query_clip, query_caption = np.nonzero(asked)
    rows = query_clip * per_clip + query_caption
    parts = [rows[start : start + AT_ONCE] for start in range(0, max(1, len(rows)), AT_ONCE)]
    top = np.concatenate([_top(sims[part]) for part in parts])
    queries = zip(query_clip, query_caption, strict=True)
    by_expert = [np.asarray(weight)[rows] for weight in scored.weights.values()]
    return Ranks(
        clips=tuple(clips),
        captions=tuple(captions[clip][number] for clip, number in queries if len(captions)),
        experts=tuple(scored.weights),
        query_clip=query_clip.astype(np.int32),
        query_caption=query_caption.astype(np.int32),
        t2v_ranks=t2v_ranks(sims, asked),
        v2t_clip=np.flatnonzero(chosen).astype(np.int32),
        v2t_ranks=v2t_ranks(sims, masks)[chosen],
        top_clips=top.astype(np.int32),
        top_scores=sims[rows[:, None], top].astype(np.float32),
        weights=np.array(by_expert, np.float32).reshape(-1, len(rows)).T,
    )


def save_ranks(folder: Path, ranks: Ranks) -> Path:
    """Write ranks.npz into a folder, made where it is missing; return its path."""
    names = json.dumps([ranks.clips, ranks.captions, ranks.experts]).encode()
    arrays = {name: getattr(ranks, name) for name in ARRAYS}
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
                names = json.loads(stored["names"].tobytes())
            return _checked(arrays, names)
        except (ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise DataError(f"{path}: holds no ranks as eval.py writes them: {error}") from error


def _checked(arrays: dict[str, np.ndarray], names: Any) -> Ranks:  # noqa: ANN401  of a file
    """Put the parts together; ValueError where they do not fit."""
    clips, captions, experts = (tuple(map(str, part)) for part in names)
    sizes = {"M": len(experts)}
    for name, array in arrays.items():
        kind, letters = ARRAYS[name]
        known = [sizes.setdefault(*pair) for pair in zip(letters, array.shape, strict=False)]
        if array.dtype.kind != kind or array.ndim != len(letters) or [*array.shape] != known:
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
    fits = (
        sizes["Q"] > 0
        and sizes["n"] > 0
        and len(captions) in (0, sizes["Q"])
        and all((arrays[name] >= 0).all() for name in ("t2v_ranks", "v2t_ranks"))
        and all(np.isfinite(arrays[name]).all() for name in ("top_scores", "weights"))
        and all(
            ((arrays[name] >= 0) & (arrays[name] < len(clips))).all()
            for name in ("query_clip", "v2t_clip", "top_clips")
        )
    )
    if not fits:
        raise ValueError("its arrays do not fit together")
    return Ranks(clips, captions, experts, **arrays)


def _top(scores: np.ndarray) -> np.ndarray:
    """Return the places of the TOP highest scores of each row, best first."""
    last = min(TOP, scores.shape[1]) - 1
    best = np.sort(np.argpartition(-scores, last, axis=1)[:, :TOP], axis=1)
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)
