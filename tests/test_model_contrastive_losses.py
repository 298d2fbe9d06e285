"""Losses that take several matching pairs: by hand, by their properties, by loops over pairs."""

import itertools
import math

import pytest
import torch

from model.loss import LOSSES, InfoNCE, SeveralPositivesLoss, SigmoidLoss

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


@pytest.mark.parametrize("name", ["InfoNCE", "SigmoidLoss", "SeveralPositivesLoss"])
def test_likelier_matching_pairs_cost_less(name):
    loss = LOSSES[name]()
    with torch.no_grad():
        before = float(loss(SIMS, same=pair(0, 1)))
        better = SIMS + 0.05 * (torch.eye(3) + pair(0, 1))
        assert float(loss(better, same=pair(0, 1))) <= before


@pytest.mark.parametrize("name", ["InfoNCE", "SigmoidLoss"])
def test_the_parameters_are_trained(name):
    loss = LOSSES[name](**({"learned": True} if name == "InfoNCE" else {}))
    loss(SIMS.float()).backward()
    assert list(loss.parameters())
    assert all(one.grad is not None and one.grad.isfinite() for one in loss.parameters())
