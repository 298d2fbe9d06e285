"""QuerYD, whole descriptions, and QuerYDSegments, described moments."""

from __future__ import annotations

from data_loader.base_dataset import BaseDataset


class QuerYD(BaseDataset):
    """1,796 / 384 / 386 clips; all captions of a clip are fused into one."""

    archive = "QuerYD"
    captions_file = "raw_captions_combined_filtered.pkl"


class QuerYDSegments(BaseDataset):
    """9,113 / 1,952 / 1,954 clips of one caption each."""

    archive = "QuerYDSegments"
    captions_file = "split_raw_captions_filtered.pkl"
