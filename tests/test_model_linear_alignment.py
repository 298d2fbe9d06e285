"""The closed-form baseline: by hand, by its properties, against least squares."""

import numpy as np
import pytest
import torch

from model.linear_alignment import LinearAlignment
from model.token_statistics import CaptionMeans, TokenStatistics
from small_runs import Place, make_data
from trainer.checkpoint import load_checkpoint
from utils.config import ExpertConfig, TextConfig

LINEAR = "configs/clotho/train-linear.json"
CHANGES = {
    "arch.args": {"ridge": 1, "ridge_factor": 10, "whitening": 0.5, "passes": 2},
    "experts.ce_shared_dim": 768,
}


def expert(name, width, *, tokens=True):
    return ExpertConfig(name, width, tokens, 5 if tokens else None, True, None)


def text_of(width):
    return TextConfig("w2v", width, "vlad", 4)


def made_batches(clips=40, seed=0):
    """Return batches of 4-wide words, tokens 3 wide and an averaged expert 2 wide."""
    draw = torch.Generator().manual_seed(seed)
    text = torch.randn(clips, 1, 4, 4, generator=draw)
    tokens = torch.randn(clips, 5, 3, generator=draw)
    tokens[::3, 3:] = 0
    average = torch.randn(clips, 2, generator=draw)
    available = {"a": torch.ones(clips), "b": torch.ones(clips)}
    available["b"][::4] = 0
    batches = [
        (
            text[part],
            {"a": tokens[part], "b": average[part]},
            {name: one[part] for name, one in available.items()},
            torch.arange(clips)[part],
        )
        for part in (slice(0, 16), slice(16, clips))
    ]
    return batches, text, {"a": tokens, "b": average}, available


def linear(**arguments):
    experts = [expert("a", 3), expert("b", 2, tokens=False)]
    return LinearAlignment(experts, text_of(4), **{"passes": 1, **arguments})


def test_a_map_of_one_number_worked_by_hand():
    model = LinearAlignment([expert("b", 1, tokens=False)], text_of(2), ridge=2.0, passes=1)
    model.captions.power = 0.0
    text = torch.tensor([[[[3.0, 0.0]]], [[[0.0, 5.0]]]])  # of unit length: x and y axis
    batch = (text, {"b": torch.tensor([[1.0], [5.0]])}, {"b": torch.ones(2)}, torch.arange(2))
    loss = model.prepare(lambda _: [batch], 1)
    # standardised -1 and 1, captions +-(1, -1)/sqrt(2): sum x y' = -(2, -2)/sqrt(2), sum x^2 = 2
    assert model.map[0].tolist() == pytest.approx([-1 / 8**0.5, 1 / 8**0.5])
    # (1/sqrt(2) - 1/sqrt(8))^2 twice
    assert float(loss) == pytest.approx(2 * (0.5**0.5 - 0.125**0.5) ** 2)


@pytest.mark.parametrize("ridge", [0.5, 30.0])
@pytest.mark.parametrize("whitening", [0.0, 0.5])
def test_the_map_is_that_of_least_squares_with_ridge_rows(ridge, whitening):
    batches, text, experts, available = made_batches()
    model = linear(ridge=ridge, whitening=whitening)
    loss = model.prepare(lambda _: batches, 1)
    x = model.statistics(experts, available).double().numpy()
    y = model.encode_captions(text)[0].double().numpy()
    rows = np.vstack([x, np.sqrt(ridge) * np.eye(x.shape[1])])
    targets = np.vstack([y - y.mean(0), np.zeros((x.shape[1], 4))])
    expected = np.linalg.lstsq(rows, targets, rcond=None)[0]
    np.testing.assert_allclose(model.map.detach().numpy(), expected, atol=1e-5)
    residual = ((y - y.mean(0) - x @ expected) ** 2).sum(1).mean()
    assert float(loss) == pytest.approx(residual, rel=1e-5)


def test_training_statistics_have_mean_0_and_deviation_1_where_they_are():
    batches, _, experts, available = made_batches()
    model = linear()
    model.prepare(lambda _: batches, 1)
    found = model.statistics(experts, available)
    there = available["b"] > 0
    assert torch.allclose(found[:, :9].mean(0), torch.zeros(9), atol=1e-6)
    assert torch.allclose(found[:, :9].std(0, correction=0), torch.ones(9), atol=1e-5)
    assert torch.allclose(found[there, 9:].std(0, correction=0), torch.ones(2), atol=1e-5)
    assert not found[~there, 9:].any()


def test_padding_and_what_a_missing_expert_holds_change_nothing():
    batches, text, experts, available = made_batches()
    model = linear()
    model.prepare(lambda _: batches, 1)
    expected = model(text, experts, available)
    longer = torch.nn.functional.pad(experts["a"], (0, 0, 0, 3))
    absent = (available["b"] == 0)[:, None]
    other = {"a": longer, "b": torch.where(absent, torch.nan, experts["b"])}
    assert torch.allclose(model(text, other, available), expected)


def test_a_greater_ridge_makes_a_smaller_map_and_a_greater_error():
    batches, *_ = made_batches()
    model = linear(ridge=0.1, ridge_factor=10.0)
    losses, sizes = [], []
    for epoch in range(1, 6):
        losses.append(float(model.prepare(lambda _: batches, epoch)))
        sizes.append(float(model.map.detach().norm()))
    assert losses == sorted(losses)
    assert sizes == sorted(sizes, reverse=True)


def test_full_whitening_gives_captions_equal_variances():
    rows = torch.randn(500, 4, dtype=torch.float64) * torch.tensor([4.0, 2.0, 2.0, 1.0])
    captions = CaptionMeans(4, 1.0)
    captions.fit(rows)
    found = (rows - rows.mean(0)).float() @ captions.rotation
    assert torch.allclose(found.var(0, correction=0), torch.ones(4), atol=0.2)


def test_availability_may_be_one_tensor():
    statistics = TokenStatistics([expert("a", 3), expert("b", 2, tokens=False)])
    _, _, experts, available = made_batches()
    together = torch.stack([available["a"], available["b"]], dim=1)
    assert torch.equal(statistics(experts, together), statistics(experts, available))


def test_it_trains_resumes_and_is_scored_like_any_model(tmp_path):
    place = Place(tmp_path, make_data(tmp_path / "made"))
    config = place.config(small(), base=LINEAR)
    run = place.train("--config", config)
    assert [line["epoch"] for line in run.metrics] == [1, 2, 3]
    best = run.results["seeds"]["0"]
    scored = place.evaluate("--resume", run.trained_model)["seeds"]["0"]
    assert scored["t2v_metrics"] == best["t2v_metrics"]

    place.forget_runs()
    first = place.train("--config", place.config(small() | {"trainer.epochs": 1}, base=LINEAR))
    place.config(small(), base=LINEAR)
    again = place.train("--config", config, "--resume", first.last)
    theirs = load_checkpoint(again.last).state_dict
    assert len(again.metrics) == 3
    assert theirs.keys() >= {"map", "statistics.mean", "captions.rotation"}


def small():
    return {
        "data_loader.args.batch_size": 6,
        "trainer.epochs": 3,
        "trainer.tensorboard": False,
        **CHANGES,
    }
