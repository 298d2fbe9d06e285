"""Recorded runs of the published MMT: a part of them, or all in the folder GOLDEN_MMT."""

import json
import os
from pathlib import Path

import numpy as np

OURS = Path(__file__).resolve().parent / "data" / "golden-mmt"
DATA = Path(os.environ.get("GOLDEN_MMT", OURS))


def cases(pattern):
    return sorted(path.stem for path in DATA.glob(f"{pattern}.npz"))


def load_case(name):
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as arrays:
        return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8")), dict(arrays)
