"""Names of a list that are not in a file: the message names the usual cause that fits."""

import unicodedata

import numpy as np
import pytest

from data_loader.split import SplitList, name_difference, open_expert
from data_loader.store import FeatureStore
from utils.config import ExpertConfig
from utils.errors import DataError
from utils.reading.pickles import dump_plain

NFC = unicodedata.normalize("NFC", "größe")
NFD = unicodedata.normalize("NFD", NFC)


@pytest.mark.parametrize(
    ("ours", "theirs", "cause"),
    [
        (NFD, NFC, "NFC"),
        (NFC, NFD, "NFC"),
        ("a ", "a", "blanks"),
        ("a", " a", "blanks"),
        ("a.wav", "a", "extension"),
        ("a", "a.FLAC", "extension"),
        ("a.wav", "a.mp3", "extension"),
        (NFC, NFC.encode().decode("latin-1"), "Latin-1"),
        ("train/a", "a", "folder"),
        ("A", "a", "capital"),
        ('"a"', "a", "quotes"),
        ("a,a dog barks", "a", "table"),
        ("a\t3", "a", "table"),
        ("file_name,caption_1", "a", "csv"),
        ("youtube_id", "a", "csv"),
        ("a", "b", ""),
    ],
)
def test_the_difference_that_fits_is_named(ours, theirs, cause):
    found = name_difference([ours], [theirs, "other"])
    assert cause in found if cause else found == ""
    if cause not in ("", "csv"):
        assert repr(theirs) in found


def test_the_difference_of_most_names_is_named():
    found = name_difference(["A", "b.wav", "c.wav"], ["a", "b", "c"])
    assert "extension" in found


def open_made(tmp_path, listed, stored):
    tmp_path.joinpath("list.txt").write_text("".join(f"{name}\n" for name in listed))
    dump_plain({name: np.ones((2, 3), np.float32) for name in stored}, tmp_path / "x.pkl")
    store = FeatureStore(tmp_path, None, "made", "keep")
    return SplitList(tmp_path / "list.txt"), store.features(tmp_path / "x.pkl", "audio")


def test_captions_and_features_say_it(tmp_path):
    split, packed = open_made(tmp_path, ["a.wav", "b.wav"], ["a", "b"])
    with pytest.raises(DataError, match=r"2 clips without features in .*x\.pkl.*extension"):
        split.find_in(packed, "features")
    config = ExpertConfig.__new__(ExpertConfig)
    object.__setattr__(config, "width", 3)
    object.__setattr__(config, "name", "audio")
    with pytest.raises(DataError, match=r"no clip is in .*x\.pkl.*extension"):
        open_expert(split, config, (packed,))


def test_some_clips_under_other_names_are_said(tmp_path, caplog):
    """Of a flaky expert they would count as missing, without a word."""
    split, packed = open_made(tmp_path, ["a", "b"], ["a", "B"])
    config = ExpertConfig.__new__(ExpertConfig)
    for key, value in {"width": 3, "name": "audio", "tokens": True}.items():
        object.__setattr__(config, key, value)
    assert open_expert(split, config, (packed,)).available.tolist() == [True, False]
    assert "not all clips are in" in caplog.text
    assert "small and capital letters" in caplog.text


@pytest.mark.parametrize("lacking", [0, 1])
def test_an_expert_of_two_files_is_there_where_both_are(tmp_path, lacking):
    parts = []
    for part in range(2):
        folder = tmp_path / str(part)
        folder.mkdir()
        split, packed = open_made(folder, ["a", "b"], ["a"] if part == lacking else ["a", "b"])
        parts.append(packed)
    config = ExpertConfig.__new__(ExpertConfig)
    for key, value in {"width": 6, "name": "audio", "tokens": True}.items():
        object.__setattr__(config, key, value)
    assert open_expert(split, config, tuple(parts)).available.tolist() == [True, False]


def test_clips_that_are_there_need_no_explanation(tmp_path):
    split, packed = open_made(tmp_path, ["a", "c"], ["a", "b"])
    assert split.explain(np.array([False, False]), packed) == ""
    assert split.explain(np.array([False, True]), packed) == ""
