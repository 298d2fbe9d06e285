"""Kernel alignment: by hand, by its properties, against kernel ridge regression in dual form."""

import math

import numpy as np
import pytest
import torch

from model.kernel_alignment import KernelAlignment
from small_runs import Place, make_data
from test_model_linear_alignment import expert, made_batches, small, text_of

RECIPE = "configs/recipes/clotho-best.json"


def kernel(**arguments):
    experts = [expert("a", 3), expert("b", 2, tokens=False)]
    return KernelAlignment(experts, text_of(4), **{"passes": 1, "landmarks": 64, **arguments})


def test_likeness_worked_by_hand():
    model = kernel(sharpness=2.0)
    found = model.likeness(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
    assert found[0].tolist() == pytest.approx([1.0, math.exp(-5)])


@pytest.mark.parametrize("ridge", [0.05, 1.0])
def test_with_enough_landmarks_it_is_kernel_ridge_regression(ridge):
    batches, text, experts, available = made_batches()
    model = kernel(ridge=ridge)
    loss = model.prepare(lambda _: batches, 1)
    x = model.statistics(experts, available).double().numpy()
    y = model.encode_captions(text)[0].double().numpy()
    y -= y.mean(0)
    likeness = np.array([[math.exp(-0.6 * ((a - b) ** 2).mean()) for b in x] for a in x])
    expected = likeness @ np.linalg.solve(likeness + ridge * np.eye(len(x)), y)
    found = model.describe(model.statistics(experts, available)) @ model.map
    np.testing.assert_allclose(found.detach(), expected, atol=1e-4)
    assert float(loss) == pytest.approx(((y - expected) ** 2).sum(1).mean(), rel=1e-3)


def test_fewer_landmarks_than_clips_fit_less_well():
    batches, *_ = made_batches()
    losses = [
        float(kernel(landmarks=count, ridge=0.01).prepare(lambda _: batches, 1))
        for count in (4, 16, 64)
    ]
    assert losses == sorted(losses, reverse=True)


def test_unused_landmarks_do_not_matter():
    batches, text, experts, available = made_batches()
    scores = []
    for count in (40, 64):
        model = kernel(landmarks=count)
        model.prepare(lambda _: batches, 1)
        scores.append(model(text, experts, available))
    assert torch.allclose(*scores, atol=1e-6)


def test_the_recipe_trains_and_is_scored(tmp_path):
    place = Place(tmp_path, make_data(tmp_path / "made"))
    changes = small() | {"arch.args": {"ridge": 0.01, "landmarks": 16, "passes": 2}}
    run = place.train("--config", place.config(changes, base=RECIPE))
    scored = place.evaluate("--resume", run.trained_model)["seeds"]["0"]
    assert scored["t2v_metrics"] == run.results["seeds"]["0"]["t2v_metrics"]
