"""BERT's encoder against the same formulas written out, and what may not change its numbers."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import bert

PARAMS = bert.BertParams(
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
)


def network(params=PARAMS):
    torch.manual_seed(0)
    made = bert.Bert(params, words=20)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def dense(layer, x):
    return x @ layer.weight.T + layer.bias


def norm(layer, x):
    centred = x - x.mean(-1, keepdim=True)
    deviation = torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-12)
    return centred / deviation * layer.weight + layer.bias


def written_out(made, ids, attended):
    """One sequence, one head and one token at a time."""
    x = made.word.weight[ids] + made.position.weight[: len(ids)] + made.segment.weight[0]
    x = norm(made.norm, x)
    for layer in made.layers:
        attention = layer.attention
        q, k, v = (dense(part, x) for part in (attention.query, attention.key, attention.value))
        heads = []
        for head in range(attention.heads):
            w = x.shape[1] // attention.heads
            part = slice(head * w, (head + 1) * w)
            rows = []
            for token in range(len(ids)):
                scores = k[:, part] @ q[token, part] / math.sqrt(w)
                weights = torch.softmax(scores[attended], 0)
                rows.append(weights @ v[attended][:, part])
            heads.append(torch.stack(rows))
        x = norm(layer.attention_norm, dense(attention.join, torch.cat(heads, 1)) + x)
        h = dense(layer.widen, x)
        h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        x = norm(layer.norm, dense(layer.narrow, h) + x)
    return x


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 19), min_size=1, max_size=9), st.data())
def test_it_is_the_formula_written_out(ids, data):
    made = network()
    attended = torch.tensor(
        [True, *data.draw(st.lists(st.booleans(), min_size=len(ids) - 1, max_size=len(ids) - 1))]
    )
    with torch.no_grad():
        found = made(torch.tensor([ids]), attended[None])[0]
        torch.testing.assert_close(found, written_out(made, ids, attended), atol=2e-5, rtol=1e-4)


def test_needed_tokens_are_those_of_the_whole():
    made = network()
    ids, attended = torch.randint(1, 20, (3, 7)), torch.rand(3, 7) > 0.3
    attended[:, 0] = True
    whole = made(ids, attended)
    for needed in (1, 4, 7):
        torch.testing.assert_close(made(ids, attended, needed), whole[:, :needed])


def test_padding_changes_nothing():
    made = network()
    ids = torch.randint(1, 20, (2, 5))
    there = torch.ones(2, 5, dtype=torch.bool)
    padded = torch.cat([ids, torch.zeros(2, 3, dtype=torch.long)], 1)
    exists = torch.cat([there, torch.zeros(2, 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(made(padded, exists)[:, :5], made(ids, there))


def test_the_padding_gets_no_gradient_and_the_pooler_neither():
    made = network().train()
    ids = torch.tensor([[3, 4, 0]])
    made(ids, ids > 0).sum().backward()
    assert not made.word.weight.grad[0].any()
    assert made.word.weight.grad[3].any()
    assert made.pooler.weight.grad is None


def test_dropout_acts_in_training_alone():
    made = network(replace(PARAMS, hidden_dropout_prob=0.5))
    ids = torch.tensor([[3, 4, 5]])
    there = ids > 0
    torch.testing.assert_close(made(ids, there), made(ids, there), atol=0, rtol=0)
    made.train()
    assert not torch.equal(made(ids, there), made(ids, there))


def test_weights_are_drawn_as_published():
    torch.manual_seed(0)
    made = bert.Bert(replace(PARAMS, hidden_size=64, intermediate_size=128), words=500)
    assert made.word.weight[1:].std().item() == pytest.approx(0.02, rel=0.02)
    assert not made.word.weight[0].any()
    assert made.layers[0].widen.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not made.layers[1].attention.query.bias.any()
