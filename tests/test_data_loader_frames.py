"""Frames and captions of MMT's batches: the recorded ones, and those worked by hand."""

import numpy as np
import pytest
import torch

from data_loader.frames import NO_FRAME, ClipFrames, published_draw, rounded
from data_loader.readers import read_captions
from data_loader.split import SplitList, open_expert
from data_loader.store import FeatureStore
from golden_mmt import DATA, cases, load_case
from text.token_ids import CaptionIds, sentence
from text.wordpiece import WordPieces
from utils.config import ExpertConfig
from utils.reading.hickle import write_hickle

OURS = {"vggish": "audio", "vggsound": "vggsound"}
WIDTHS = {"vggish": 128, "vggsound": 512}


def open_frames(root, split, most, widths=WIDTHS):
    store = FeatureStore(root, None, "", "keep")
    experts = []
    for name, width in widths.items():
        file = root / f"aggregated_{OURS[name]}" / f"{name}-raw.hickle"
        config = ExpertConfig(name, width, True, most, True, None)
        experts.append(open_expert(split, config, (store.features(file, name),)))
    return ClipFrames(experts)


@pytest.fixture(params=cases("batch_mmt_*"))
def recorded(request):
    """The recording, the split that it is of, and its clips' places there."""
    case, arrays = load_case(request.param)
    root = DATA / "minidata" / case["dataset"] / "structured-symlinks"
    split = SplitList(root / f"{case['split']}_list.txt")
    return case, arrays, root, split, np.array([split.clips.index(clip) for clip in case["clips"]])


def test_recorded_captions(recorded):
    case, arrays, root, _, _ = recorded
    captions = read_captions(root / "structured-symlinks" / "raw-captions.pkl")
    encoder = CaptionIds(WordPieces.read(DATA / "vocab.txt"), case["max_text_words"])
    for clip, expected in zip(case["clips"], arrays["token_ids"], strict=True):
        texts = captions[clip]
        if case["query_shuffling"] == "cat":
            texts = [[word for words in texts for word in words]]
        found = encoder.encode(texts[: case["captions_per_video"]])
        np.testing.assert_array_equal(found, expected)


def test_recorded_frames(recorded):
    case, arrays, root, split, clips = recorded
    frames = open_frames(root, split, case["max_expert_tokens"])
    places = frames.choose(clips)
    if case["training"]:
        for name in WIDTHS:
            drawn = arrays[f"features_t/{name}"].astype(np.int64) - 2
            places[name] = np.where(arrays[f"features_ind/{name}"] > 0, drawn, NO_FRAME)
    for name, found in frames.take(clips, places).items():
        mask = arrays[f"features_ind/{name}"]
        np.testing.assert_array_equal(found.mask, mask)
        np.testing.assert_array_equal(found.tokens, arrays[f"features/{name}"])
        times = np.where(mask > 0, arrays[f"features_t/{name}"] - 2, 0)
        np.testing.assert_array_equal(found.times, times)
        np.testing.assert_array_equal(found.pooled, arrays[f"features_maxpool/{name}"])


@pytest.fixture
def few(tmp_path):
    """Three clips of 2, 7 and no frames; frame i holds i and -i."""
    (tmp_path / "aggregated_audio").mkdir()
    (tmp_path / "list.txt").write_text("a\nb\nc\n")
    values = {
        clip: np.stack([np.arange(n), -np.arange(n)], axis=1).astype(np.float32)
        for clip, n in (("a", 2), ("b", 7))
    }
    values["c"] = None
    write_hickle(tmp_path / "aggregated_audio" / "vggish-raw.hickle", values)
    return open_frames(tmp_path, SplitList(tmp_path / "list.txt"), 4, {"vggish": 2})


def test_frames_worked_by_hand(few):
    clips = np.array([2, 0, 1])
    places = few.choose(clips)
    assert places["vggish"][:2].tolist() == [[-1, -1, -1, -1], [0, 1, -1, -1]]
    assert places["vggish"][2].tolist() == sorted(np.random.RandomState(0).choice(7, 4, False))
    found = few.take(clips, {"vggish": np.array([[-1] * 4, [0, 1, -1, -1], [1, 2, 4, 6]])})[
        "vggish"
    ]
    assert found.tokens[..., 0].tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 2, 4, 6]]
    assert found.times.tolist() == [[0, 0, 0, 0], [0.5, 1.5, 0, 0], [1.5, 2.5, 4.5, 6.5]]
    assert found.mask.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert found.pooled.tolist() == [[0, 0], [1, 0], [6, 0]]  # also of frames that are left out
    assert all(part is None or part.dtype == torch.float32 for part in found)


def test_training_draws_evenly_and_in_order(few):
    draws = [np.random.default_rng([0, row]) for row in range(3000)]
    places = few.choose(np.ones(3000, np.int64), draws.__getitem__)["vggish"]
    assert (np.diff(places, axis=1) > 0).all()
    counts = np.bincount(places.ravel(), minlength=7) / 3000
    np.testing.assert_allclose(counts, 4 / 7, atol=0.04)
    again = few.choose(np.ones(2, np.int64), lambda row: np.random.default_rng([0, row + 7]))
    np.testing.assert_array_equal(again["vggish"], places[7:9])  # wherever a batch is cut


def test_evaluation_always_keeps_the_same_frames(few):
    places = few.choose(np.ones(3, np.int64))["vggish"]
    assert (places == published_draw(7, 4)).all()


def test_maxima_are_rounded_to_half_precision():
    values = np.array([0.1, 1e6, -3.0], np.float32)
    assert rounded(values).tolist() == [np.float32(np.float16(0.1)), 1e6, -3.0]


@pytest.mark.parametrize(
    ("words", "most", "text"),
    [
        (["a", "Dog", "barks"], 9, "A dog barks."),
        (["a", "dog", "barks"], 2, "A dog."),
        (["rain", "falling", "."], 9, "Rain falling ."),
        (["what", "is", "it?"], 9, "What is it?"),
        (["0"], 9, "0."),
    ],
)
def test_sentences_end_with_a_mark(words, most, text):
    assert sentence(words, most) == text
