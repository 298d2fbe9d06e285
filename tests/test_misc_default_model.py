"""The default model's recordings: licences, folds that share nothing, mixtures, ranks."""

import csv

import numpy as np
import pytest
import torch

from misc.default_model.corpus import COLUMNS, FREE, Listed, draw_pairs, folds_of, mix, read_list
from misc.default_model.measure import Examples, fit_linear, ranks_of_phrases, summary
from search_runs import tone, write_sound
from utils.config import load_config
from utils.errors import DataError


def listed(*lines):
    return [
        Listed(f"{i}.wav", phrase, "CC0", "a", source) for i, (phrase, source) in enumerate(lines)
    ]


def write_index(folder, rows, columns=COLUMNS):
    with (folder / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.mark.parametrize("name", ["CC0", "CC0 1.0", "CC BY", "CC BY 4.0", "CC BY-4.0", "CC BY/CC0"])
def test_free_licences(name):
    assert FREE.match(name)


@pytest.mark.parametrize("name", ["CC BY-NC 3.0", "CC BY NC", "CC BY-SA 4.0", "GPL", "sampling+"])
def test_other_licences(name):
    assert not FREE.match(name)


def test_recordings_of_other_licences_are_left_out(tmp_path):
    rows = [("a.wav", "dog", "CC0", "x", "s"), ("b.wav", "cat", "CC BY-NC 3.0", "x", "t")]
    write_index(tmp_path, rows)
    assert [one.file for one in read_list(tmp_path)] == ["a.wav"]


def test_a_list_without_a_column_is_refused(tmp_path):
    write_index(tmp_path, [("a.wav", "dog")], ("file", "phrase"))
    with pytest.raises(DataError, match="licence"):
        read_list(tmp_path)


def test_folds_share_neither_phrase_nor_source():
    draw = np.random.default_rng(0)
    lines = [(f"p{draw.integers(60)}", f"s{draw.integers(90)}") for _ in range(80)]
    given = listed(*lines, ("alone", "alone"))
    folds = folds_of(given, 4)
    for key in ("phrase", "source"):
        for value in {getattr(one, key) for one in given}:
            assert len({folds[i] for i, one in enumerate(given) if getattr(one, key) == value}) == 1


def test_recordings_linked_through_a_third_go_together():
    folds = folds_of(listed(("a", "x"), ("a", "y"), ("b", "y"), ("c", "z")), 2)
    assert folds[0] == folds[1] == folds[2] != folds[3]


def test_pairs_are_of_one_fold_and_of_different_phrases():
    given = listed(*[(f"p{i // 2}", f"s{i // 2}") for i in range(20)])
    folds = folds_of(given, 3)
    pairs = draw_pairs(given, folds, 30, np.random.default_rng(0))
    assert len(pairs) == 30
    assert all(folds[i] == folds[j] and given[i].phrase != given[j].phrase for i, j in pairs)


def test_a_mixture_holds_both_sounds(tmp_path):
    write_sound(tmp_path / "a.wav", tone(500, 2.0))
    write_sound(tmp_path / "b.wav", tone(3000, 0.5, loudness=0.01))
    wave = mix(tmp_path, ["a.wav", "b.wav"], 16_000, np.random.default_rng(0))
    assert (len(wave), np.abs(wave).max()) == (32_000, pytest.approx(0.5))
    loud = np.abs(np.fft.rfft(wave))
    peaks = [loud[round(f * 2) - 4 : round(f * 2) + 5].max() for f in (500, 3000, 1500)]
    assert min(peaks[:2]) > 20 * peaks[2]


def test_a_phrase_has_the_rank_of_its_best_recording():
    config = load_config("configs/default-model.json")
    draw = np.random.default_rng(0)
    vectors = np.eye(384, dtype=np.float32)[[0, 0, 1, 2]]
    features = [{"aisfx": draw.normal(size=(3, 512)).astype(np.float32)} for _ in range(4)]
    examples = Examples(features, ["a", "a", "b", "c"], vectors, np.zeros(4, dtype=np.int64))
    model = fit_linear(config, {"ridge": 1e-3, "whitening": 0.0}, examples)
    assert ranks_of_phrases(model, config, examples) == [1, 1, 1]
    torch.nn.init.zeros_(model.map)  # all alike: in the middle of those of other phrases
    assert ranks_of_phrases(model, config, examples) == [2, 2, 2]
    assert summary([1, 3, 11, 20]) == {
        "R@1": 25.0, "R@5": 50.0, "R@10": 50.0, "MedR": 7.0, "phrases": 4,
    }  # fmt: skip
