"""Features, text vectors and captions are yielded clip by clip, checked, with errors that help."""

import time
from pathlib import Path

import numpy as np
import pytest

from data_loader import readers
from data_loader.readers import read_captions, read_features, read_masks, read_text_features
from utils.errors import DataError, UnsafeFileError
from utils.reading.hickle import write_hickle
from utils.reading.pickles import dump_plain

MINIDATA = Path(__file__).resolve().parent / "data" / "minidata" / "AudioCaps"
NAN, INFINITY = float("nan"), float("inf")


def features(path, values):
    """Write features in the format of the suffix."""
    if path.suffix == ".hickle":
        write_hickle(path, values)
    else:
        dump_plain({clip: NAN if v is None else v for clip, v in values.items()}, path)
    return path


@pytest.fixture(params=[".hickle", ".pkl", ".pickle"])
def path(request, tmp_path):
    return tmp_path / f"features{request.param}"


def test_features_come_back_as_stored(path):
    values = {
        "tokens": np.ones((3, 2), np.float32),
        "one token": np.ones((1, 2), np.float16),
        "vector": np.ones(2, np.float64),
        "größe/'x'\t": np.zeros((2, 2), ">f4"),
        "whole numbers": np.ones((1, 2), np.int64),
    }
    ours = dict(read_features(features(path, values)))
    assert ours.keys() == values.keys()
    for clip, value in values.items():
        assert ours[clip].dtype == value.dtype.newbyteorder("=")
        assert np.array_equal(ours[clip], value)


@pytest.mark.parametrize(
    "value", [None, np.full(3, NAN), np.full((2, 3), NAN, np.float16), np.ones((0, 3))], ids=str
)
def test_missing_features_are_none(path, value):
    assert dict(read_features(features(path, {"a": value, "b": np.ones(3)})))["a"] is None


@pytest.mark.parametrize("bad", [NAN, INFINITY, -INFINITY])
def test_a_number_that_is_not_finite_names_file_and_clip(path, bad):
    value = np.ones((2, 3), np.float32)
    value[1, 2] = bad
    features(path, {"good": np.ones(3), "the clip": value})
    with pytest.raises(DataError, match=r"features\.\w+: clip 'the clip': its features hold NaN"):
        list(read_features(path))


@pytest.mark.parametrize("value", [1.5, "text", b"x", [1.0], np.ones((2, 2, 2)), True, {}], ids=str)
def test_what_is_no_features_is_refused(tmp_path, value):
    dump_plain({"the clip": value}, tmp_path / "x.pkl")
    with pytest.raises(DataError, match=r"x\.pkl: clip 'the clip': found .*, expected an array"):
        list(read_features(tmp_path / "x.pkl"))


@pytest.mark.parametrize("content", [[1], None, "x", np.ones(3), {1: np.ones(3)}, {None: 0.5}])
def test_a_pickle_that_is_no_dict_of_clips_is_refused(tmp_path, content):
    dump_plain(content, tmp_path / "x.pkl")
    with pytest.raises(DataError, match=r"x\.pkl: found .*, expected"):
        list(read_features(tmp_path / "x.pkl"))


def test_an_unknown_suffix_names_the_known_ones(tmp_path):
    with pytest.raises(DataError, match=r"are read from \.hickle, \.pkl, \.pickle files"):
        list(read_features(tmp_path / "x.npy"))


@pytest.mark.parametrize("suffix", [".hickle", ".pkl"])
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(DataError, match="is missing"):
        list(read_features(tmp_path / f"x{suffix}"))


def test_a_published_expert_store_is_read_row_by_row():
    [path] = MINIDATA.rglob("resnext101_32x48d-avg.pickle")
    rows = dict(read_features(path))
    assert len(rows) == 25
    assert {row.shape for row in rows.values()} == {(2048,)}
    assert {row.dtype for row in rows.values()} == {np.dtype(np.float16)}


def expert_store(path, **fields):
    from utils.reading.pickles import ExpertStore

    dump_plain(ExpertStore(**fields), path, protocol=2)  # names the module in a line of text
    path.write_bytes(
        path.read_bytes().replace(b"cutils.reading.stand_ins\n", b"cutils.datastructures\n")
    )
    return path


def test_missing_rows_of_an_expert_store(tmp_path):
    rows = np.array([[1, 2], [NAN, NAN], [3, 4]], np.float16)
    path = expert_store(
        tmp_path / "x.pkl", store=rows, keymap={"b": 1, "a": 0, "c": 2}, missing={"c"}
    )
    ours = dict(read_features(path))
    assert list(ours) == ["b", "a", "c"]
    assert ours["a"].tolist() == [1, 2]
    assert ours["b"] is None
    assert ours["c"] is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"store": None, "keymap": {}}, "without rows"),
        ({"store": np.ones(3), "keymap": {}}, "without rows"),
        ({"store": np.ones((2, 2)), "keymap": None}, "without rows"),
        ({"store": np.ones((2, 2)), "keymap": {"a": 2}}, "clip 'a': found row 2 of 2"),
        ({"store": np.ones((2, 2)), "keymap": {"a": -1}}, "found row -1"),
        ({"store": np.ones((2, 2)), "keymap": {"a": True}}, "found row True"),
        ({"store": np.array([[1, INFINITY]]), "keymap": {"a": 0}}, "clip 'a': its features hold"),
    ],
)
def test_damaged_expert_stores(tmp_path, fields, message):
    path = expert_store(tmp_path / "x.pkl", **fields)
    with pytest.raises(DataError, match=message):
        list(read_features(path))


def test_one_array_under_many_names_is_refused(tmp_path):
    shared = np.zeros((1000, 1000), np.float32)
    dump_plain({str(n): shared for n in range(100)}, tmp_path / "x.pkl")
    with pytest.raises(UnsafeFileError, match="its clips share values"):
        list(read_features(tmp_path / "x.pkl"))
    # ... but not in a measure that real files reach.
    dump_plain({str(n): shared[:100] for n in range(100)}, tmp_path / "x.pkl")
    assert len(list(read_features(tmp_path / "x.pkl"))) == 100


def test_rows_of_an_expert_store_that_many_clips_share_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "ALWAYS_ALLOWED", 0)
    rows = np.ones((2, 1000), np.float16)
    own = {"a": 0, "b": 1}
    assert len(list(read_features(expert_store(tmp_path / "x.pkl", store=rows, keymap=own)))) == 2
    shared = {str(n): 0 for n in range(100)}
    path = expert_store(tmp_path / "y.pkl", store=rows, keymap=shared)
    with pytest.raises(UnsafeFileError, match="its clips share values"):
        list(read_features(path))


def test_what_is_missing_from_an_expert_store_may_be_a_long_list(tmp_path):
    """Each clip was looked for in the list: 30,000 among 30,000 took half a minute."""
    clips = {str(n): 0 for n in range(30_000)}
    missing = [["nested"], *(f"other {n}" for n in range(30_000)), "7"]
    path = expert_store(tmp_path / "x.pkl", store=np.ones((1, 2)), keymap=clips, missing=missing)
    began = time.monotonic()
    ours = dict(read_features(path))
    assert [clip for clip, value in ours.items() if value is None] == ["7"]
    assert time.monotonic() - began < 5


# Text


@pytest.mark.parametrize("shared", [[""] * 2000, []], ids=["empty words", "captions without words"])
def test_shared_captions_are_counted_even_when_they_say_nothing(tmp_path, monkeypatch, shared):
    monkeypatch.setattr(readers, "ALWAYS_ALLOWED", 0)
    dump_plain({"a": [shared] * 2000}, tmp_path / "x.pkl")
    with pytest.raises(UnsafeFileError, match="its clips share values"):
        read_captions(tmp_path / "x.pkl")


def test_shared_text_vectors_are_counted_even_when_they_are_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "ALWAYS_ALLOWED", 0)
    shared = [np.ones((0, 3))] * 2000
    dump_plain({str(n): shared for n in range(100)}, tmp_path / "x.pkl")
    with pytest.raises(UnsafeFileError, match="its clips share values"):
        list(read_text_features(tmp_path / "x.pkl"))


def test_the_densest_real_captions_stay_far_from_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "ALWAYS_ALLOWED", 0)
    words = [f"word {n}" for n in range(500)]
    draw = np.random.default_rng(0).integers(500, size=(2000, 5, 10))
    values = {str(n): [[words[i] for i in line] for line in draw[n]] for n in range(2000)}
    dump_plain(values, tmp_path / "x.pkl")
    assert read_captions(tmp_path / "x.pkl") == values


def test_text_vectors_come_back(tmp_path):
    values = {
        "a": [np.ones((3, 5)), np.ones((1, 5))],
        "b": (np.ones((0, 5), np.float16),),
        "c": [],
    }
    dump_plain(values, tmp_path / "x.pkl")
    ours = dict(read_text_features(tmp_path / "x.pkl"))
    assert [[words.shape for words in captions] for captions in ours.values()] == [
        [(3, 5), (1, 5)],
        [(0, 5)],
        [],
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones((2, 3)), "clip 'a': found an array"),
        ("text", "clip 'a': found text"),
        ([np.ones((2, 3)), np.ones(3)], r"clip 'a', caption 1: found an array of shape \(3,\)"),
        ([[1.0]], "caption 0: found a list"),
        ([np.full((2, 3), NAN)], "caption 0: its vectors hold NaN"),
        ([[[1.0, NAN]]], "caption 0: its vectors hold NaN"),
        ([[[1.0, 2.0], [1.0]]], "caption 0: found a list"),
        ([[np.ones((1, 2))]], "caption 0: found a list"),
        ([np.ones((2, 3), bool)], "caption 0: found an array"),
    ],
)
def test_what_is_no_text_vectors_is_refused(tmp_path, value, message):
    dump_plain({"a": value}, tmp_path / "x.pkl")
    with pytest.raises(DataError, match=message):
        list(read_text_features(tmp_path / "x.pkl"))


def test_captions_come_back_word_by_word(tmp_path):
    values = {"a": [["a", "dog"], ["<b>", "größe"]], "b": ((),), "c": []}
    dump_plain(values, tmp_path / "x.pkl")
    assert read_captions(tmp_path / "x.pkl") == {"a": values["a"], "b": [[]], "c": []}


def test_published_captions_and_vectors_belong_together():
    [captions] = MINIDATA.rglob("raw-captions.pkl")
    [vectors] = MINIDATA.rglob("w2v.pkl")
    words = read_captions(captions)
    for clip, arrays in read_text_features(vectors):
        assert len(words[clip]) == len(arrays)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1, "clip 'a': found an int, expected a list of captions"),
        (["dog", "cat"], "clip 'a': found texts without blanks"),
        (["a dog", ["a"]], "clip 'a', caption 0: found text, expected a list of words"),
        (b"\xff", "clip 'a': found a bytes"),
        ([["a"], [1]], "clip 'a', caption 1: found a list, expected a list of words"),
        ([[b"\xff"]], "caption 0"),
        ({"a": 1}, "clip 'a': found a dict"),
    ],
)
def test_what_is_no_captions_is_refused(tmp_path, value, message):
    dump_plain({"a": value}, tmp_path / "x.pkl")
    with pytest.raises(DataError, match=message):
        read_captions(tmp_path / "x.pkl")


SAID = {"a": [["a", "dog"], ["größe"]], "b": [["rain"]]}


@pytest.mark.parametrize(
    "values",
    [
        {"a": ["a dog", "größe"], "b": ["rain"]},
        {"a": (" a  dog ", "größe"), "b": "rain"},
        {"a": np.array(["a dog", "größe"]), "b": np.array(["rain"])},
        {"a": np.array(["a dog", "größe"]), "b": np.array([["rain"]])},
        {"a": [np.array(["a", "dog"]), ("größe",)], "b": (("rain",),)},
        {b"a": [b"a dog", "größe".encode()], np.str_("b"): np.array([b"rain"])},
        {np.bytes_("a"): [["a", "dog"], [np.str_("größe")]], "b": [["rain"]]},
    ],
    ids=str,
)
def test_captions_in_other_unambiguous_shapes(tmp_path, values):
    dump_plain(values, tmp_path / "x.pkl")
    assert read_captions(tmp_path / "x.pkl") == SAID


def test_keys_that_mean_the_same_are_refused(tmp_path):
    dump_plain({"a": [["x"]], b"a": [["y"]]}, tmp_path / "x.pkl")
    with pytest.raises(DataError, match="found the key"):
        read_captions(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "values",
    [
        np.arange(12.0).reshape(2, 3, 2),
        np.arange(12).reshape(2, 3, 2).tolist(),
        [[[0, 1.0], (2, 3), [4, 5]], np.arange(6, 12, dtype=np.int16).reshape(3, 2)],
        [list(np.arange(12.0).reshape(2, 3, 2)[0]), tuple(np.arange(6, 12.0).reshape(3, 2))],
    ],
    ids=str,
)
def test_text_vectors_in_other_unambiguous_shapes(tmp_path, values):
    dump_plain({b"a": values}, tmp_path / "x.pkl")
    ((clip, captions),) = read_text_features(tmp_path / "x.pkl")
    assert clip == "a"
    assert np.array_equal(np.stack(captions), np.arange(12).reshape(2, 3, 2))


def test_shared_lists_of_numbers_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "ALWAYS_ALLOWED", 0)
    dump_plain({"a": [[[1.0] * 2000] * 2000] * 2000}, tmp_path / "x.pkl")
    with pytest.raises(UnsafeFileError, match="its clips share values"):
        list(read_text_features(tmp_path / "x.pkl"))


# Masks


def test_masks_come_back(tmp_path):
    values = {"a": [1, 0.0, True], "b": (), "c": np.array([0, 1], np.int64)}
    dump_plain(values, tmp_path / "x.pkl")
    ours = read_masks(tmp_path / "x.pkl")
    assert {clip: mask.tolist() for clip, mask in ours.items()} == {
        "a": [1, 0, 1],
        "b": [],
        "c": [0, 1],
    }
    assert {mask.dtype for mask in ours.values()} == {np.dtype(np.uint8)}


def test_masks_that_share_values_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "ALWAYS_ALLOWED", 0)
    shared = [1] * 1000
    dump_plain({str(n): shared for n in range(100)}, tmp_path / "x.pkl")
    with pytest.raises(UnsafeFileError, match="its clips share values"):
        read_masks(tmp_path / "x.pkl")


def test_lists_in_lists_in_lists_are_no_mask(tmp_path):
    """As an array it would have 30^10 numbers."""
    nested = [1]
    for _ in range(10):
        nested = [nested] * 30
    dump_plain({"a": nested}, tmp_path / "x.pkl")
    with pytest.raises(DataError, match="clip 'a': found a list, expected a list of 0 or 1"):
        read_masks(tmp_path / "x.pkl")
