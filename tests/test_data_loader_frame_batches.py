"""Splits as MMT reads them: joined or single captions as ids, and frames drawn in training."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from data_loader import build_dataset
from data_loader.frames import published_draw
from synthetic import write_dataset
from text.token_ids import CaptionIds
from text.wordpiece import WordPieces
from utils.batches import BatchNeeds, Frames
from utils.config import load_config
from utils.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
PLACES = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "CLOTHO"
    made = write_dataset(
        folder,
        "CLOTHO",
        sizes={"train": 23, "val": 5, "test": 6},
        captions_per_clip={"train": 5, "val": 5, "test": 3},
        missing={"audio": [23, 24, 30], "vggsound": [25, 31]},
        tokens=(1, 40),
    )
    words = {word for texts in made.captions.values() for text in texts for word in text}
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "0", *sorted(words)]
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    return made


def open_split(made, split, **changes):
    values = {f"data_loader.args.{key}": value for key, value in changes.items()}
    values |= {
        "data_loader.args.data_dir": str(made.data_dir),
        "data_loader.args.packed_dir": None,
        "data_loader.args.batch_size": 8,
        "data_loader.args.max_tokens": {"text": PLACES, "audio": 10, "vggsound": 15},
    }
    config = load_config(ROOT / "configs" / "clotho" / "train-vggish-vggsound.json", values)
    needs = BatchNeeds(frames=True, token_ids=True, vocabulary=str(made.data_dir / "vocab.txt"))
    return build_dataset(dataclasses.replace(config, needs=needs), split)


def expected_ids(made, texts):
    return CaptionIds(WordPieces.read(made.data_dir / "vocab.txt"), PLACES).encode(texts)


def test_joined_captions_are_one_query(made):
    text, _, _, masks, clips = open_split(made, "test", fuse_captions=True).evaluation()
    joined = [[word for words in made.captions[clip] for word in words] for clip in clips]
    np.testing.assert_array_equal(text[:, 0], expected_ids(made, joined))
    assert text.dtype == torch.int64
    assert masks.tolist() == [[1]] * 6


def test_single_captions_are_queries_of_their_own(made):
    text, _, _, masks, clips = open_split(made, "test", num_test_captions=5).evaluation()
    assert text.shape == (6, 5, PLACES, 2)
    for clip, ids in zip(clips, text, strict=True):
        np.testing.assert_array_equal(ids[:3], expected_ids(made, made.captions[clip]))
        np.testing.assert_array_equal(ids[3:], expected_ids(made, [["0"], ["0"]]))
    assert masks.tolist() == [[1, 1, 1, 0, 0]] * 6


def test_evaluation_keeps_the_published_frames(made):
    _, experts, available, _, clips = open_split(made, "test").evaluation()
    for name, most in (("audio", 10), ("vggsound", 15)):
        found = experts[name]
        assert isinstance(found, Frames)
        for b, clip in enumerate(clips):
            values = made.experts[name].get(clip)
            assert available[name][b] == (values is not None)
            if values is None:
                assert not found.tokens[b].any()
                assert not found.mask[b].any()
                assert not found.pooled[b].any()
                continue
            n = len(values)
            kept = np.arange(n) if n <= most else published_draw(n, most)
            np.testing.assert_array_equal(found.tokens[b, : len(kept)], values[kept])
            np.testing.assert_array_equal(found.times[b, : len(kept)], kept + 0.5)
            assert found.mask[b].sum() == len(kept)
            assert not found.tokens[b, len(kept) :].any()
            maximum = values.max(axis=0).astype(np.float16)
            np.testing.assert_array_equal(found.pooled[b], maximum.astype(np.float32))


def parts(batch):
    text, experts, available = batch[:3]
    return [text, *(part for one in experts.values() for part in one), *available.values()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(parts(first), parts(second), strict=True))


def test_training_draws_frames_by_epoch_seed_and_place_alone(made):
    train = open_split(made, "train", fuse_captions=True)
    whole = list(train.epoch(2, seed=5))
    assert all(map(same, whole, open_split(made, "train", fuse_captions=True).epoch(2, seed=5)))
    assert all(map(same, whole[1:], train.epoch(2, seed=5, first_batch=1)))
    assert not all(map(same, whole, train.epoch(3, seed=5)))
    assert not all(map(same, whole, train.epoch(2, seed=6)))
    shares = [train.epoch(2, seed=5, share=(rank, 3)) for rank in range(3)]
    for batch, *split in zip(whole, *shares, strict=True):
        for together, *each in zip(parts(batch), *map(parts, split), strict=True):
            assert torch.equal(together, torch.cat(each))
    times = whole[0][1]["vggsound"].times
    assert (torch.diff(times, dim=1)[times[:, 1:] > 0] > 0).all()


def test_training_draws_single_captions(made):
    train = open_split(made, "train")
    seen = {
        tuple(ids[0, :, 0].tolist())
        for epoch in range(9)
        for ids in next(iter(train.epoch(epoch, 0)))[0]
    }
    known = {
        tuple(ids[:, 0].tolist())
        for clip in train.clips
        for ids in expected_ids(made, made.captions[clip])
    }
    assert seen <= known
    assert len(seen) > 23


def test_chosen_clips_and_captions(made):
    train = open_split(made, "train")
    text, experts, _ = train.batch([3, 0], captions=[4, 1])
    chosen = [made.captions[train.clips[3]][4], made.captions[train.clips[0]][1]]
    np.testing.assert_array_equal(text[:, 0], expected_ids(made, chosen))
    again = train.batch([3, 0], captions=[4, 1])
    assert same((text, experts, {}), (*again[:2], {}))


def test_the_identity_names_the_vocabulary(made):
    split = open_split(made, "test")
    assert split.identity["vocabulary"] == WordPieces.read(made.data_dir / "vocab.txt").sha256
    assert not any("w2v" in name for name in split.identity["features"])


def test_a_missing_vocabulary_is_named(made, tmp_path):
    made_elsewhere = dataclasses.replace(made, data_dir=made.data_dir)
    path = made.data_dir / "vocab.txt"
    kept = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(DataError, match=r"vocab\.txt"):
            open_split(made_elsewhere, "test")
    finally:
        path.write_bytes(kept)
