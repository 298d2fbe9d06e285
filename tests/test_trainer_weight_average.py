"""The average of weights: by hand, against a sum over all steps, and through a whole training."""

import math

import pytest
import torch

import train
from small_runs import Place, assert_same_run, content_of, same
from trainer.checkpoint import load_checkpoint
from trainer.evaluator import evaluate
from trainer.job import build_training
from trainer.weight_average import WeightAverage
from utils.config import load_config
from utils.errors import CheckpointError

SETTINGS = {
    "trainer.epochs": 2,
    "trainer.ema": 0.7,
    "trainer.save_only_best": False,
    "data_loader.args.text_dropout": 0.4,
}


class Weights(torch.nn.Module):
    def __init__(self, *values):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))
        self.register_buffer("running", torch.tensor(values, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))

    def become(self, values):
        self.weight.data[:] = torch.as_tensor(values, dtype=torch.float64)
        self.running[:] = 2 * self.weight.data
        self.count += 1


def test_worked_by_hand():
    model = Weights(100.0)
    average = WeightAverage(model, 0.5)
    for value, expected in ((1.0, 1.0), (4.0, (0.5 * 1 + 4) / 1.5), (2.0, (0.25 + 2 + 2) / 1.75)):
        model.become([value])
        average.follow(model)
        assert average.model.weight.item() == pytest.approx(expected)
        assert average.model.running.item() == pytest.approx(2 * expected)
    assert average.model.count == 3
    assert model.weight.item() == 2.0  # the trained weights stay as they are


@pytest.mark.parametrize("decay", [0.1, 0.9, 0.999])
def test_it_is_the_weighted_sum_over_all_steps(decay):
    model = Weights(0.0, 0.0)
    average, steps = WeightAverage(model, decay), torch.randn(60, 2, dtype=torch.float64)
    for step in steps:
        model.become(step)
        average.follow(model)
    shares = [decay ** (len(steps) - 1 - t) for t in range(len(steps))]
    expected = sum(share * step for share, step in zip(shares, steps, strict=True))
    torch.testing.assert_close(average.model.weight.data, expected / math.fsum(shares))


def test_weights_that_do_not_move_are_their_average_to_the_last_bit():
    model = Weights(0.1, -7.3, 1e30)
    average = WeightAverage(model, 0.99)
    for _ in range(50):
        average.follow(model)
    assert torch.equal(average.model.weight, model.weight)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, made):
    place = Place(tmp_path_factory.mktemp("undisturbed"), made)
    return place.train("--config", place.config(SETTINGS))


def test_it_goes_on_within_an_epoch(place, undisturbed, monkeypatch):
    follow = WeightAverage.follow

    def die(average, model):
        if average.steps == 5:
            raise ZeroDivisionError
        follow(average, model)

    config = place.config(SETTINGS | {"trainer.save_every_minutes": 1e-9})
    with monkeypatch.context() as patch:
        patch.setattr(WeightAverage, "follow", die)
        with pytest.raises(ZeroDivisionError):
            place.call(train.main, "--config", config)
    assert load_checkpoint(place.newest().last).progress["average"]["steps"] == 5
    assert_same_run(place.train("--config", config, "--resume", "auto"), undisturbed)


def test_the_average_is_saved_and_the_weights_beside_it(place, undisturbed):
    plain = place.train("--config", place.config(SETTINGS | {"trainer.ema": 0.0}))
    last, without = load_checkpoint(undisturbed.last), load_checkpoint(plain.last)
    assert same(last.progress["average"]["trained"], without.state_dict)  # it does not disturb
    assert same(last.optimizer, without.optimizer)
    assert "average" not in without.progress
    name = next(name for name in last.state_dict if name.endswith("weight"))
    assert not torch.equal(last.state_dict[name], without.state_dict[name])
    kept = place.train("--config", place.config({**SETTINGS, "trainer.include_optim_in_ckpts": 0}))
    assert "average" not in load_checkpoint(kept.trained_model).progress
    assert same(
        content_of(kept.trained_model)["state_dict"],
        content_of(undisturbed.trained_model)["state_dict"],
    )


def test_the_average_is_what_is_evaluated(place, undisturbed, monkeypatch):
    seen = []

    def look(model, *args, **keys):
        seen.append({name: value.clone() for name, value in model.published_state_dict().items()})
        return evaluate(model, *args, **keys)

    monkeypatch.setattr("trainer.loop.evaluate", look)
    run = place.train("--config", place.config(SETTINGS))
    assert same(seen[-1], load_checkpoint(run.last).state_dict)


@pytest.mark.parametrize(
    "change",
    [{"steps": -1}, {"steps": "x"}, {"trained": None}, {"trained": {"a": torch.ones(1)}}, None],
)
def test_a_state_that_no_training_leaves(undisturbed, change):
    checkpoint = load_checkpoint(undisturbed.last)
    config = load_config(undisturbed.models / "config.json")
    stored = checkpoint.progress
    stored["average"] = None if change is None else {**stored["average"], **change}
    with pytest.raises(CheckpointError, match=r"last\.pth"):
        build_training(config, 0, torch.device("cpu")).restore(checkpoint)
