"""Hidden experts and noise: by hand, by their properties, clip by clip, and in a whole epoch."""

import numpy as np
import pytest
import torch

from data_loader import build_dataset
from data_loader.augmentation import Augmentation, add_noise, stay_available
from small_runs import CE
from synthetic import write_dataset
from utils.batches import Frames
from utils.config import load_config

BOTH = {"expert_dropout": 0.6, "feature_noise": 0.3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_dataset(
        tmp_path_factory.mktemp("data") / "CLOTHO",
        "CLOTHO",
        sizes={"train": 23, "val": 5, "test": 6},
        missing={"vggsound": [1, 12]},
        tokens=(1, 40),
        words=(2, 30),
    )


def config_of(made, settings):
    values = {
        "data_dir": str(made.data_dir),
        "packed_dir": None,
        "batch_size": 8,
        "feat_aggregation.vggsound.flaky": True,
        **settings,
    }
    return load_config(CE, {f"data_loader.args.{key}": value for key, value in values.items()})


def epoch(made, seed=7, *, first_batch=0, share=(0, 1), planned=False, **settings):
    dataset = build_dataset(config_of(made, settings), "train")
    return list(dataset.epoch(2, seed, first_batch=first_batch, share=share, planned=planned))


def same(first, second):
    """Say whether two batches are equal: text, experts, availabilities."""
    return torch.equal(first[0], second[0]) and all(
        torch.equal(first[part][name], second[part][name])
        for part in (1, 2)
        for name in first[part]
    )


def generators(rows):
    return [np.random.default_rng([5, row]) for row in range(rows)]


def test_experts_hidden_by_hand():
    available = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0]]) > 0
    luck = np.array([[0.9, 0.4, 0.6], [0.1, 0.3, 0.9], [0.2, 0.1, 0.9], [0.9, 0.9, 0.9]])
    expected = np.array([[1, 0, 1], [0, 1, 0], [0, 1, 0], [0, 0, 0]]) > 0
    np.testing.assert_array_equal(stay_available(available, 0.5, luck), expected)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_hiding_is_what_a_loop_does(probability):
    draw = np.random.default_rng(0)
    available, luck = draw.random((400, 3)) < 0.7, draw.random((400, 3))
    found = stay_available(available, probability, luck)
    for row, (has, lot) in enumerate(zip(available, luck, strict=True)):
        kept = {i for i in range(3) if has[i] and lot[i] >= probability}
        if has.any() and not kept:
            kept = {max((lot[i], i) for i in range(3) if has[i])[1]}
        assert set(np.flatnonzero(found[row])) == kept
    complete = np.ones((20000, 2), bool)
    share = stay_available(complete, probability, draw.random((20000, 2))).mean()
    # of two experts one comes back where both would be hidden
    assert share == pytest.approx(1 - probability + probability**2 / 2, abs=0.01)


def test_noise_has_the_deviation_it_is_given_and_leaves_padding():
    features = torch.zeros(50, 40, 3)
    features[:, :30] = 1.0
    noise = add_noise(features, torch.tensor([0.0, 1.0, 4.0]), generators(50)) - features
    assert not noise[:, 30:].any()
    deviations = noise[:, :30].flatten(0, 1).std(dim=0)
    torch.testing.assert_close(deviations, torch.tensor([0.0, 1.0, 4.0]), rtol=0.05, atol=0)
    assert noise[:, :30].mean().abs() < 0.1


def test_noise_is_drawn_clip_by_clip():
    features = torch.rand(4, 5, 3)
    features[1] = 0
    features[2, 3:] = 0
    found = add_noise(features, torch.ones(3), generators(4))
    for row, generator in enumerate(generators(4)):
        for token in features[row]:
            if token.any():
                token += torch.from_numpy(generator.standard_normal(3, np.float32))
    torch.testing.assert_close(found, features)
    vectors = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    expected = generators(1)[0].standard_normal(2, np.float32)
    found = add_noise(vectors, torch.ones(2), generators(2)) - vectors
    np.testing.assert_allclose(found, [expected, [0, 0]], rtol=1e-6)


def test_frames_keep_their_times_and_padding():
    tokens = torch.ones(2, 3, 4)
    tokens[:, 2] = 0
    frames = Frames(tokens, torch.ones(2, 3), (tokens[..., 0] > 0).float(), torch.ones(2, 4))
    augment = Augmentation(0.0, 0.5, {"audio": torch.ones(4)})
    experts, available = augment(
        {"audio": frames}, {"audio": torch.ones(2)}, generators(2).__getitem__
    )
    found = experts["audio"]
    assert torch.equal(found.times, frames.times)
    assert torch.equal(found.mask, frames.mask)
    assert not found.tokens[:, 2].any()
    assert (found.tokens[:, :2] != 1).all()
    assert (found.pooled != 1).all()
    assert available["audio"].all()


def test_an_epoch_without_augmentation_is_as_before(made):
    plain = epoch(made)
    assert all(map(same, plain, epoch(made, expert_dropout=0.0, feature_noise=0.0)))


def test_an_epoch_hides_experts_and_never_all(made):
    plain, found = epoch(made), epoch(made, expert_dropout=0.6)
    before = torch.cat([torch.stack(list(batch[2].values()), 1) for batch in plain])
    after = torch.cat([torch.stack(list(batch[2].values()), 1) for batch in found])
    assert (after <= before).all()
    assert 0.3 < after.sum() / before.sum() < 0.9
    assert after.any(dim=1).all()
    for first, second in zip(plain, found, strict=True):
        assert torch.equal(first[0], second[0])
        assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


def test_the_noise_is_relative_to_the_tokens_of_training(made):
    plain, found = epoch(made), epoch(made, feature_noise=0.3)
    for name in ("audio", "vggsound"):
        tokens = np.concatenate(
            [rows for clip, rows in made.experts[name].items() if clip in made.clips["train"]]
        )
        noise = np.concatenate(
            [
                (second[1][name] - first[1][name])[(first[1][name] != 0).any(dim=2)]
                for first, second in zip(plain, found, strict=True)
            ]
        )
        ratio = noise.std() / np.sqrt(tokens.var(axis=0).mean())
        assert ratio == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("ranks", [2, 3])
def test_an_epoch_is_the_same_however_it_is_made(made, ranks):
    whole = epoch(made, **BOTH)
    assert all(map(same, whole[1:], epoch(made, first_batch=1, **BOTH)))
    assert not same(whole[0], epoch(made, seed=8, **BOTH)[0])
    shares = [epoch(made, share=(rank, ranks), **BOTH) for rank in range(ranks)]
    for number, (_, experts, available, _) in enumerate(whole):
        for name in experts:
            parts = [(share[number][1][name], share[number][2][name]) for share in shares]
            assert torch.equal(torch.cat([part[0] for part in parts]), experts[name])
            assert torch.equal(torch.cat([part[1] for part in parts]), available[name])


def test_neither_depends_on_the_other(made):
    hidden, noisy = epoch(made, expert_dropout=0.6), epoch(made, feature_noise=0.3)
    for one, other, both in zip(hidden, noisy, epoch(made, **BOTH), strict=True):
        for name in both[1]:
            assert torch.equal(both[2][name], one[2][name])
            assert torch.equal(both[1][name], other[1][name])


def test_augmented_batches_are_never_planned_and_no_other_split_is(made):
    assert all(map(same, epoch(made, **BOTH), epoch(made, planned=True, **BOTH)))
    plain, config = config_of(made, {}), config_of(made, BOTH)
    for split in ("val", "test"):
        first, second = (build_dataset(one, split).evaluation() for one in (plain, config))
        assert same(first, second)
