"""Similarity: by hand, against a loop, and its properties."""

import numpy as np
import pytest
import torch

from model.similarity import similarity


def loop_similarity(texts, clips, weights, available):
    """Average the inner products pair by pair over the experts the clip has."""
    sims = np.empty((len(weights), len(available)))
    for t in range(len(weights)):
        for b in range(len(available)):
            there = [i for i in range(len(texts)) if available[b, i]]
            total = sum(weights[t, i] * (texts[i][t] @ clips[i][b]) for i in there)
            sims[t, b] = total / sum(weights[t, i] for i in there)
    return sims


def draw_inputs(queries=7, clips=6, widths=(4, 9, 2), seed=0):
    torch.manual_seed(seed)
    texts = [torch.randn(queries, width, dtype=torch.float64) for width in widths]
    embedded = [torch.randn(clips, width, dtype=torch.float64) for width in widths]
    weights = torch.softmax(torch.randn(queries, len(widths), dtype=torch.float64), dim=1)
    available = torch.randint(0, 2, (clips, len(widths)), dtype=torch.float64)
    available[available.sum(dim=1) == 0, -1] = 1
    return texts, embedded, weights, available


def test_two_experts_by_hand():
    texts = [torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0]])]
    clips = [torch.tensor([[3.0, 5.0], [7.0, 5.0]]), torch.tensor([[4.0], [10.0]])]
    weights = torch.tensor([[0.25, 0.75]])
    available = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    # .25*3 + .75*8 = 6.75; the second clip has its first expert alone: 7
    assert similarity(texts, clips, weights, available).tolist() == [[6.75, 7.0]]


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_loop(seed):
    texts, clips, weights, available = draw_inputs(seed=seed)
    expected = loop_similarity(
        [t.numpy() for t in texts], [c.numpy() for c in clips], weights.numpy(), available.numpy()
    )
    found = similarity(texts, clips, weights, available)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_weights_count_by_their_ratio():
    texts, clips, weights, available = draw_inputs()
    torch.testing.assert_close(
        similarity(texts, clips, 5 * weights, available),
        similarity(texts, clips, weights, available),
    )


def test_a_clip_without_experts_is_not_scored():
    texts, clips, weights, available = draw_inputs()
    available[2] = 0
    sims = similarity(texts, clips, weights, available)
    assert sims[:, 2].isnan().all()
    assert sims[:, [0, 1, 3, 4, 5]].isfinite().all()


def test_gradients_by_finite_differences():
    texts, clips, weights, available = draw_inputs(3, 4, (2, 3))
    for value in (*texts, *clips, weights):
        value.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b, c, d, w: similarity([a, b], [c, d], w, available), (*texts, *clips, weights)
    )
