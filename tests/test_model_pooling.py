"""Poolings without padding: by hand, token by token, by their properties, and in every mixture."""

import numpy as np
import pytest
import torch

from model import build_model
from model.pooling import HEADS, POOLINGS, AttentionPooling, StatisticsPooling
from small_runs import CE, SINGLE
from utils.config import load_config

MOEE = "configs/clotho/train-vggish-vggsound-moee.json"


def drawn(lengths, width=5, places=6):
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randn(len(lengths), places, width, generator=draw, dtype=torch.float64)
    for row, length in enumerate(lengths):
        tokens[row, length:] = 0
    return tokens


def made(kind, width=5):
    torch.manual_seed(0)
    return POOLINGS[kind](width).double().eval()


def test_statistics_by_hand():
    tokens = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [0.0, 0.0]], [[0.0, 0.0]] * 3])
    pooled = StatisticsPooling(2).eval()(tokens)
    expected = [[2, -3, 3, -2, 1, 1], [0] * 6]
    np.testing.assert_allclose(pooled.detach(), expected, rtol=1e-4)  # a fresh batch norm


def test_statistics_are_those_of_numpy():
    tokens, lengths = drawn([6, 1, 3, 4]), [6, 1, 3, 4]
    for row, length in enumerate(lengths):
        real = tokens[row, :length].numpy()
        expected = np.concatenate([real.mean(0), real.max(0), real.std(0)])
        found = made("statistics")(tokens)[row].detach().numpy()
        np.testing.assert_allclose(found, expected / np.sqrt(1 + 1e-5), atol=1e-12)


def test_attention_by_hand():
    pooling = AttentionPooling(2).eval()
    with torch.no_grad():
        for value in pooling.heads.parameters():
            value.zero_()  # all tokens weigh alike
    pooled = pooling(torch.tensor([[[1.0, 3.0], [2.0, 5.0], [0.0, 0.0]]]))
    np.testing.assert_allclose(pooled.detach(), [[1.5, 4.0] * HEADS], rtol=1e-4)


def test_attention_is_what_a_loop_does():
    tokens, lengths = drawn([6, 1, 3, 4]), [6, 1, 3, 4]
    pooling = made("attention")
    found = pooling(tokens).detach().view(4, HEADS, 5)
    for row, length in enumerate(lengths):
        scores = []
        for token in tokens[row, :length]:
            hidden = pooling.hidden.weight @ (token / token.norm()) + pooling.hidden.bias
            scores.append(pooling.heads.weight @ hidden.tanh() + pooling.heads.bias)
        shares = torch.stack(scores).exp()
        shares = shares / shares.sum(dim=0)
        expected = sum(
            share[:, None] * token for share, token in zip(shares, tokens[row], strict=False)
        )
        torch.testing.assert_close(found[row], expected.detach() / np.sqrt(1 + 1e-5))


@pytest.mark.parametrize("kind", list(POOLINGS))
def test_padding_does_not_count(kind):
    tokens, pooling = drawn([4, 2, 3]), made(kind)
    expected = pooling(tokens)
    torch.testing.assert_close(pooling(tokens[:, :4]), expected)
    torch.testing.assert_close(pooling(torch.cat([tokens[:, :0], tokens, 0 * tokens], 1)), expected)
    order = torch.tensor([3, 5, 0, 2, 1, 4])
    torch.testing.assert_close(pooling(tokens[:, order]), expected)
    assert not pooling(torch.zeros(2, 3, 5, dtype=torch.float64)).any()


@pytest.mark.parametrize("kind", list(POOLINGS))
def test_the_scale_of_features_hardly_matters_in_training(kind):
    tokens, pooling = drawn([6] * 8), made(kind).train()
    torch.testing.assert_close(pooling(tokens), pooling(200 * tokens), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", list(POOLINGS))
@pytest.mark.parametrize("base", [CE, MOEE, SINGLE])
def test_every_mixture_takes_it_for_experts_and_words(base, kind):
    experts = ("audio",) if base == SINGLE else ("audio", "vggsound")
    kinds = {f"arch.args.pooling.{name}": kind for name in ("text", *experts)}
    config = load_config(base, {"experts.ce_shared_dim": 8, **kinds})
    torch.manual_seed(0)
    model = build_model(config)
    text = torch.randn(6, 1, 5, 300)
    features = {name: torch.randn(6, 4, {"audio": 128}.get(name, 512)) for name in experts}
    available = {name: torch.ones(6) for name in experts}
    available[experts[-1]][2] = float(len(experts) == 1)
    features[experts[-1]][2] *= available[experts[-1]][2]
    sims = model(text, features, available)
    sims.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.pooling.parameters())
    hidden = {name: torch.where(available[name].view(-1, 1, 1) > 0, f, torch.nan)
              for name, f in features.items()}  # fmt: skip
    model.eval()
    assert torch.equal(model(text, hidden, available), model(text, features, available))
    longer = {name: torch.cat([f, torch.zeros_like(f)], dim=1) for name, f in features.items()}
    torch.testing.assert_close(
        model(text, longer, available), model(text, features, available), atol=1e-5, rtol=1e-4
    )
