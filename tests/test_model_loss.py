"""Losses: by hand, against loops over pairs, by their properties, and the recorded numbers."""

import itertools
import math

import numpy as np
import pytest
import torch

from golden import load_case
from model.loss import LOSSES, InfoNCE, MaxMarginRankingLoss, SeveralPositivesLoss, SigmoidLoss


def loop_loss(sims, margin, fix_norm):
    """Sum the hinges pair by pair."""
    count, terms = len(sims), []
    for i in range(count):
        for j in range(count):
            if fix_norm and i == j:
                continue
            terms.append(max(0.0, margin + sims[i, j] - sims[i, i]))
            terms.append(max(0.0, margin + sims[j, i] - sims[i, i]))
    return sum(terms) / len(terms)


def test_two_pairs_by_hand():
    sims = torch.tensor([[0.9, 0.8], [0.1, 0.5]])
    # i=0: row .2+.8-.9 = .1, column .2+.1-.9 < 0; i=1: row .2+.1-.5 < 0, column .2+.8-.5 = .5
    assert MaxMarginRankingLoss(0.2, fix_norm=True)(sims).item() == pytest.approx(0.6 / 4)
    # the diagonal adds the margin four times, over all 8 terms
    assert MaxMarginRankingLoss(0.2, fix_norm=False)(sims).item() == pytest.approx(1.4 / 8)


@pytest.mark.parametrize("count", [2, 3, 17])
@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("fix_norm", [True, False])
def test_equals_a_loop(count, margin, fix_norm):
    sims = np.random.default_rng(count).normal(size=(count, count)) / 2
    loss = MaxMarginRankingLoss(margin, fix_norm)(torch.from_numpy(sims))
    assert loss.item() == pytest.approx(loop_loss(sims, margin, fix_norm), abs=1e-12)


def test_properties():
    sims = torch.randn(8, 8, dtype=torch.float64)
    loss = MaxMarginRankingLoss()
    torch.testing.assert_close(loss(sims), loss(sims.T))  # both directions count alike
    torch.testing.assert_close(loss(sims), loss(sims + 3))  # only differences count
    order = torch.randperm(8)
    torch.testing.assert_close(loss(sims), loss(sims[order][:, order]))
    assert loss(sims + 100 * torch.eye(8)).item() == 0  # all matching pairs ahead by the margin
    assert loss(sims + 0.01) >= 0


@pytest.mark.parametrize("fix_norm", [True, False])
def test_gradient_by_finite_differences(fix_norm):
    sims = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MaxMarginRankingLoss(0.2, fix_norm), (sims,))


def test_nan_shows():
    sims = torch.randn(4, 4)
    sims[1, 2] = torch.nan
    assert MaxMarginRankingLoss()(sims).isnan()


CASE, ARRAYS = load_case("loss")


@pytest.mark.parametrize("name", CASE["cases"])
def test_repeats_the_published_numbers(name):
    spec = CASE["cases"][name]
    sims = torch.from_numpy(ARRAYS[f"{name}/x"]).requires_grad_()
    loss = MaxMarginRankingLoss(spec["margin"], spec["fix_norm"])(sims)
    loss.backward()
    assert loss.item() == pytest.approx(spec["loss"], abs=1e-6)
    recorded = ARRAYS[f"{name}/grad"]
    allowed = max(1e-4 * np.abs(recorded).max(), 1e-6)
    np.testing.assert_allclose(sims.grad.numpy(), recorded, rtol=0, atol=allowed)


SIMS = torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.8, 0.4], [0.5, 0.6, 0.7]], dtype=torch.float64)
NONE = torch.zeros(3, 3, dtype=torch.bool)


def pair(first, second, size=3):
    same = torch.zeros(size, size, dtype=torch.bool)
    same[first, second] = same[second, first] = True
    return same


def drawn(size=6):
    draw = torch.Generator().manual_seed(1)
    sims = torch.rand(size, size, generator=draw, dtype=torch.float64) * 2 - 1
    return sims, pair(0, 3, size) | pair(2, 5, size)


def test_infonce_worked_by_hand():
    sims = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = math.log(1 + math.exp(-2))  # 1 / 0.5
    assert float(InfoNCE(temperature=0.5)(sims)) == pytest.approx(expected)


def test_sigmoid_worked_by_hand():
    sims = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = SigmoidLoss(temperature=0.5, bias=-1.0)(sims)
    expected = (2 * math.log(1 + math.exp(-1)) + 2 * math.log(1 + math.exp(-1))) / 2
    assert float(loss.detach()) == pytest.approx(expected)


def test_several_positives_worked_by_hand():
    sims = torch.tensor([[0.5, 0.4], [0.1, 0.5]])
    # pair 0,1: 0.2+0.4-0.5 by its row and by its column; pair 1,0: 0
    assert float(SeveralPositivesLoss(0.2)(sims)) == pytest.approx((0.1 + 0.1) / 4)
    assert float(SeveralPositivesLoss(0.2)(sims, same=pair(0, 1, 2))) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_infonce_is_the_sum_over_pairs(smoothing):
    sims, same = drawn()
    count, total = len(sims), 0.0
    matching = same | torch.eye(count, dtype=torch.bool)
    for i, j in itertools.product(range(count), repeat=2):
        for logits, positive in ((sims, matching), (sims.T, matching.T)):
            logits = logits / 0.1
            target = positive[i, j].double() / positive[i].sum()
            target = (1 - smoothing) * target + smoothing / count
            total -= float(target * (logits[i, j] - logits[i].logsumexp(0)))
    loss = InfoNCE(0.1, label_smoothing=smoothing)(sims, same=same)
    assert float(loss) == pytest.approx(total / (2 * count))


def test_sigmoid_is_the_sum_over_pairs():
    sims, same = drawn()
    matching = same | torch.eye(len(sims), dtype=torch.bool)
    total = 0.0
    for i, j in itertools.product(range(len(sims)), repeat=2):
        logit = float(sims[i, j]) / 0.1 - 10
        total += math.log1p(math.exp(-logit if matching[i, j] else logit))
    assert float(SigmoidLoss()(sims, same=same).detach()) == pytest.approx(total / len(sims))


def test_several_positives_is_the_sum_over_pairs():
    sims, same = drawn()
    matching = same | torch.eye(len(sims), dtype=torch.bool)
    total, pairs = 0.0, 0
    for i, j in itertools.product(range(len(sims)), repeat=2):
        if matching[i, j]:
            continue
        pairs += 1
        by_row = min(float(sims[i, k]) for k in range(len(sims)) if matching[i, k])
        by_column = min(float(sims[k, j]) for k in range(len(sims)) if matching[k, j])
        total += max(0.0, 0.3 + float(sims[i, j]) - by_row)
        total += max(0.0, 0.3 + float(sims[i, j]) - by_column)
    found = SeveralPositivesLoss(0.3)(sims, same=same)
    assert float(found) == pytest.approx(total / (2 * pairs))


@pytest.mark.parametrize("name", ["InfoNCE", "SigmoidLoss", "SeveralPositivesLoss"])
def test_without_further_pairs_the_diagonal_matches(name):
    loss = LOSSES[name]()
    assert torch.equal(loss(SIMS), loss(SIMS, same=NONE))


@pytest.mark.parametrize("name", ["InfoNCE", "SigmoidLoss"])
def test_the_parameters_are_trained(name):
    loss = LOSSES[name](**({"learned": True} if name == "InfoNCE" else {}))
    loss(SIMS.float()).backward()
    assert list(loss.parameters())
    assert all(one.grad is not None and one.grad.isfinite() for one in loss.parameters())
