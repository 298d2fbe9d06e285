"""A data set in CLOTHO's layout and a config that trains on it, from captions and features."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audio.extractors import EXTRACTORS
from data_loader.readers import read_features
from misc.own_data.captions import Captioned
from text.captions import TextRecord, write_text_features
from utils.errors import DataError
from utils.files import write_text
from utils.reading.pickles import dump_plain

ROOT = "structured-symlinks"
COVERED = 0.95
"""Share of the clips (captions) whose tokens (words) all fit into max_tokens."""
MOST_TOKENS = 256
WORDS = (20, 70)
"""Bounds of the words that are kept: queries may be longer than the captions."""
EXPERT_CLUSTERS, TEXT_CLUSTERS = 8, 16
LARGEST_BATCH = 64
SHARED_DIM = 512


@dataclass(frozen=True)
class ExpertFile:
    """The features of one expert as they are on disk."""

    name: str
    file: str
    """Below structured-symlinks/."""
    width: int
    lengths: dict[str, int]
    """Tokens of each clip that has any."""
    is_averaged: bool
    """Whether every clip has one vector (D,)."""

    def config(self, clips: Iterable[str]) -> dict[str, Any]:
        """Return its entry of feat_aggregation."""
        return {
            "temporal": "avg" if self.is_averaged else "vlad",
            "file": self.file,
            "width": self.width,
            "flaky": any(clip not in self.lengths for clip in clips),
        }


def expert_file(out: Path, name: str) -> ExpertFile:
    """Read what an expert's features look like; `name` is an extractor's or an imported expert's.

    Raises DataError when there are none.
    """
    kind = EXTRACTORS.get(name)
    expert = name if kind is None else kind.expert
    file = imported_file(name) if kind is None else kind.file
    path = out / ROOT / file
    if not path.is_file():
        raise DataError(
            f"{path} is missing: {name!r} is neither an extractor ({', '.join(EXTRACTORS)}) nor "
            "imported; import it with: python misc/import_features.py"
        )
    lengths: dict[str, int] = {}
    width, flat = 0, 0
    for clip, value in read_features(path):
        if value is not None:
            lengths[clip] = 1 if value.ndim == 1 else len(value)
            width = value.shape[-1]
            flat += value.ndim == 1
    return ExpertFile(expert, file, width, lengths, flat == len(lengths) > 0)


def imported_file(expert: str) -> str:
    """Return the place of an imported expert's features below structured-symlinks/."""
    return f"aggregated_{expert}/{expert}-raw.hickle"


def write_captions(
    out: Path,
    captioned: Captioned,
    splits: Mapping[str, Sequence[str]],
    *,
    feature: str,
    entry: Mapping[str, Any],
) -> TextRecord:
    """Write lists, captions and text features; return what became of the words."""
    root = out / ROOT
    root.mkdir(parents=True, exist_ok=True)
    clips = [clip for names in splits.values() for clip in names]
    words = {clip: [text.split() for text in captioned.captions[clip]] for clip in clips}
    record = write_text_features(root / "text_embeddings" / f"{feature}.pkl", words, entry)
    dump_plain(words, root / "raw-captions.pkl")
    for split, names in splits.items():
        write_text(root / f"{split}_list.txt", "".join(f"{name}\n" for name in names))
    return record


def dataset_config(
    out: Path,
    captioned: Captioned,
    splits: Mapping[str, Sequence[str]],
    experts: Sequence[ExpertFile],
    *,
    text: TextRecord,
    feature: str,
) -> dict[str, Any]:
    """Return a config that trains CE (MoEE's form for one expert) on the data set."""
    clips = [clip for names in splits.values() for clip in names]
    words = [len(text.split()) for clip in clips for text in captioned.captions[clip]]
    most_captions = max(len(captioned.captions[clip]) for clip in splits["test"])
    tokens = {expert.name: expert for expert in experts if not expert.is_averaged}
    args: dict[str, Any] = {"vlad_clusters": {"text": TEXT_CLUSTERS}, "num_g_layers": 1}
    args["vlad_clusters"].update(dict.fromkeys(tokens, EXPERT_CLUSTERS))
    if len(experts) == 1:
        args.update(use_ce="", mimic_ce_dims=True)
    lengths = {
        name: _covering(expert.lengths.values(), MOST_TOKENS) for name, expert in tokens.items()
    }
    return {
        "inherit_from": "configs/base.json",
        "experts": {
            "modalities": sorted(expert.name for expert in experts),
            "text_feat": feature,
            "text_encoder": text.encoder,
            "ce_shared_dim": SHARED_DIM,
        },
        "arch": {"args": args},
        "data_loader": {
            "args": {
                "dataset_name": out.name,
                "layout": "CLOTHO",
                "data_dir": out.as_posix(),
                "batch_size": min(LARGEST_BATCH, max(2, len(splits["train"]) // 4)),
                "max_tokens": {"text": max(WORDS[0], _covering(words, WORDS[1])), **lengths},
                "feat_aggregation": {expert.name: expert.config(clips) for expert in experts},
            }
        },
        "eval_settings": {
            "data_loader": {"args": {"split_name": "test", "num_test_captions": most_captions}}
        },
    }


def _covering(lengths: Iterable[int], most: int) -> int:
    """Return a length that COVERED of the items do not exceed, at most `most`."""
    return min(most, max(1, math.ceil(float(np.quantile(list(lengths), COVERED)))))
