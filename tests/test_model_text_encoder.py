"""The text side: pooled or plain captions, one embedding an expert, and mixture weights."""

import pytest
import torch

from model.expert_mixture import TextEncoder
from model.net_vlad import NetVLAD


def test_step_by_step():
    torch.manual_seed(0)
    encoder = TextEncoder(3, [4, 2], pooling=NetVLAD(3, 5, 1)).eval()
    words = torch.randn(6, 7, 3)
    caption = encoder.pooling(words)
    assert caption.shape == (6, 15)
    embedded, weights = encoder(words)
    scores = caption @ encoder.mixture.weight.T + encoder.mixture.bias
    torch.testing.assert_close(weights, scores.exp() / scores.exp().sum(dim=1, keepdim=True))
    torch.testing.assert_close(embedded, [gate(caption) for gate in encoder.gates])
    assert [tuple(e.shape) for e in embedded] == [(6, 4), (6, 2)]


def test_weights_sum_to_one_and_vectors_have_unit_length():
    encoder = TextEncoder(3, [4, 2, 6], pooling=NetVLAD(3, 5)).train()
    embedded, weights = encoder(torch.randn(8, 4, 3))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(8))
    for vectors in embedded:
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(8))


def test_without_pooling_the_single_word_is_the_caption():
    encoder = TextEncoder(3, [4], pooling=None).eval()
    words = torch.randn(5, 1, 3)
    torch.testing.assert_close(encoder(words)[0][0], encoder.gates[0](words[:, 0]))
    with pytest.raises(ValueError, match="captions of 2 tokens need a text pooling; expected 1"):
        encoder(torch.randn(5, 2, 3))
