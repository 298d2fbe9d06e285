"""QuerYD, whole descriptions, and QuerYDSegments, described moments."""

from __future__ import annotations

from data_loader.base_dataset import BaseDataset


class QuerYD(BaseDataset):
    """1,796 / 384 / 386 clips; all captions of a clip are fused into one."""

    archive = "QuerYD"
    older_archive_sha1 = "0207ea85eeb52a4f50b06a31af28484afe4d9e86"
    captions_file = "raw_captions_combined_filtered.pkl"


class QuerYDSegments(BaseDataset):
    """9,113 / 1,952 / 1,954 clips of one caption each."""

    archive = "QuerYDSegments"
    one_caption = True
    older_archive_sha1 = "f2be088890294f92355ccfe109f824d814cf2cd5"
    captions_file = "split_raw_captions_filtered.pkl"
