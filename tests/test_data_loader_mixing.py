"""Mixed clips: by hand, token by token, by their properties, and in a whole epoch."""

import numpy as np
import pytest
import torch

from data_loader import build_dataset
from data_loader.mixing import draw_partners, join_words, mix, mix_features
from synthetic import write_dataset
from test_data_loader_augmentation import config_of, epoch
from utils.batches import Frames
from utils.config import load_config
from utils.errors import ConfigError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_dataset(
        tmp_path_factory.mktemp("data") / "CLOTHO",
        "CLOTHO",
        sizes={"train": 23, "val": 5, "test": 6},
        missing={"vggsound": [1, 12]},
        tokens=(1, 40),
        words=(2, 9),
    )


def same(first, second):
    return torch.equal(first[0], second[0]) and all(
        torch.equal(first[part][name], second[part][name])
        for part in (1, 2)
        for name in first[part]
    )


def test_features_by_hand():
    first = torch.tensor([[[1.0, 2.0], [4.0, 0.0], [0.0, 0.0]]])
    second = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]])
    expected = [[[2.0, 3.0], [4.0, 0.0], [0.0, 0.0]]]
    assert mix_features(first, second).tolist() == mix_features(second, first).tolist() == expected
    assert mix_features(first[:, 0], second[:, 1]).tolist() == [[1.0, 2.0]]  # it lacks the expert


def test_words_by_hand():
    first = torch.tensor([1.0, 2.0, 0.0, 0.0]).view(1, 1, 4, 1)
    second = torch.tensor([5.0, 6.0, 7.0, 0.0]).view(1, 1, 4, 1)
    assert join_words(first, second, averaged=False).flatten().tolist() == [1, 2, 5, 6]
    assert join_words(second, first, averaged=False).flatten().tolist() == [5, 6, 7, 1]
    mean = join_words(first, second, averaged=True)
    assert mean.flatten().tolist() == [3.0, 4.0, 3.5, 0.0]
    one = join_words(first[:, :, :1], second[:, :, :1], averaged=False)
    assert one.flatten().tolist() == [3.0]


def test_words_are_joined_as_lists_are():
    draw = np.random.default_rng(0)
    lists = [[list(draw.normal(size=(draw.integers(1, 7), 3))) for _ in range(9)] for _ in "ab"]
    padded = [
        torch.tensor(np.array([one + [np.zeros(3)] * (6 - len(one)) for one in side]))
        for side in lists
    ]
    found = join_words(padded[0][:, None], padded[1][:, None], averaged=False)
    for row, (one, other) in enumerate(zip(*lists, strict=True)):
        words = (one + other + [np.zeros(3)] * 12)[:6]
        np.testing.assert_allclose(found[row, 0], np.array(words), rtol=1e-6)


def test_partners_are_others_and_as_many_as_asked_for():
    def draw(place):
        return np.random.default_rng([1, place])

    rows, partners = draw_partners(range(100, 1100), 2000, 0.3, draw)
    assert len(rows) == pytest.approx(300, abs=50)
    assert all(100 + row != partner for row, partner in zip(rows, partners, strict=True))
    assert 0 <= min(partners) < 100 < 1900 < max(partners) < 2000
    assert draw_partners(range(5), 2, 1.0, draw) == ([0, 1, 2, 3, 4], [1, 0, 1, 0, 1])
    assert draw_partners(range(5), 9, 0.0, draw) == ([], [])


def test_an_epoch_without_mixing_is_as_before(made):
    assert all(map(same, epoch(made), epoch(made, mix_up=0.0)))


def clips_of(batches):
    """Return text, audio, vggsound, their availabilities and the place of each clip, one by one."""
    for text, experts, available, places in batches:
        yield from zip(text, *experts.values(), *available.values(), places, strict=True)


def test_every_clip_of_an_epoch_is_the_mean_of_two(made):
    plain = list(clips_of(epoch(made)))
    for row, found in enumerate(clips_of(epoch(made, mix_up=1.0))):
        expected = []
        for other in plain[:row] + plain[row + 1 :]:
            (text, *experts, place), (text_of_other, *others, _) = plain[row], other
            mixed = [
                *map(mix_features, experts[:2], others[:2]),
                *map(torch.maximum, experts[2:], others[2:]),
            ]
            joined = join_words(text[None], text_of_other[None], averaged=False)[0]
            expected.append((joined, *mixed, place))
        assert any(all(map(torch.equal, found, one)) for one in expected)


def test_some_clips_stay_as_they_are(made):
    plain, found = epoch(made), epoch(made, mix_up=0.5)
    stayed = [
        torch.equal(one, other)
        for first, second in zip(plain, found, strict=True)
        for one, other in zip(first[0], second[0], strict=True)
    ]
    assert 0 < sum(stayed) < len(stayed)


@pytest.mark.parametrize("settings", [{}, {"text_dropout": 0.5, "expert_dropout": 0.5}])
def test_an_epoch_is_the_same_however_it_is_made(made, settings):
    settings = {"mix_up": 0.6, **settings}
    whole = epoch(made, **settings)
    assert all(map(same, whole[1:], epoch(made, first_batch=1, **settings)))
    assert all(map(same, whole, epoch(made, planned=True, **settings)))
    assert not same(whole[0], epoch(made, seed=8, **settings)[0])
    shares = [epoch(made, share=(rank, 3), **settings) for rank in range(3)]
    for number, (text, experts, available, _) in enumerate(whole):
        parts = [share[number] for share in shares]
        assert torch.equal(torch.cat([part[0] for part in parts]), text)
        for name in experts:
            assert torch.equal(torch.cat([part[1][name] for part in parts]), experts[name])
            assert torch.equal(torch.cat([part[2][name] for part in parts]), available[name])


def test_no_other_split_is_mixed(made):
    plain, config = config_of(made, {}), config_of(made, {"mix_up": 1.0})
    first, second = (build_dataset(one, "val").evaluation() for one in (plain, config))
    assert torch.equal(first.text, second.text)


def test_frames_are_refused():
    with pytest.raises(ConfigError, match="mix_up"):
        load_config("configs/clotho/train-mmt.json", {"data_loader.args.mix_up": 0.5})
    frames = Frames(*(torch.ones(2, 3, 4) for _ in range(4)))
    batch = torch.ones(2, 1, 3, 4), {"audio": frames}, {"audio": torch.ones(2)}
    with pytest.raises(TypeError, match="frames"):
        mix(batch, [0, 1], batch, averaged=False)
