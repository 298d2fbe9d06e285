"""The ranking loss: by hand, against a loop, its properties, and the recorded numbers."""

import math

import numpy as np
import pytest
import torch

from golden import load_case
from model.loss import InfoNCE, MaxMarginRankingLoss, build_loss
from utils.declared import Part


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


def test_it_leaves_the_similarities_as_they_are():
    sims = torch.randn(5, 5)
    before = sims.clone()
    MaxMarginRankingLoss()(sims)
    assert torch.equal(sims, before)


@pytest.mark.parametrize("fix_norm", [True, False])
def test_gradient_by_finite_differences(fix_norm):
    sims = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MaxMarginRankingLoss(0.2, fix_norm), (sims,))


def test_nan_shows():
    sims = torch.randn(4, 4)
    sims[1, 2] = torch.nan
    assert MaxMarginRankingLoss()(sims).isnan()


def test_build_loss_reads_its_section():
    loss = build_loss(Part("MaxMarginRankingLoss", {"margin": 0.5, "fix_norm": False}))
    assert (loss.margin, loss.fix_norm) == (0.5, False)


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


def test_info_nce_worked_by_hand():
    sims = torch.tensor([[1.0, 0.0], [0.5, 0.5]])  # over 0.5: 2 0, 1 1
    captions = math.log(1 + math.exp(-2)), math.log(2)
    clips = math.log(1 + math.exp(-1)), math.log(1 + math.exp(-1))
    expected = (sum(captions) + sum(clips)) / 4
    assert InfoNCE(temperature=0.5)(sims).item() == pytest.approx(expected, abs=1e-6)


def test_info_nce_is_two_cross_entropies():
    sims, matching = torch.randn(6, 6), torch.arange(6)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(sims / 0.07, matching) + cross_entropy(sims.T / 0.07, matching)) / 2
    torch.testing.assert_close(InfoNCE()(sims), expected)
    assert InfoNCE()(100 * torch.eye(4)).item() == pytest.approx(0, abs=1e-6)
