"""Gated units: by hand, against plain arithmetic, and their properties."""

import numpy as np
import pytest
import torch

from model.gating import ContextGate, GatedEmbeddingUnit, ReduceDim

UNIT_VARIANCE = (1 + 1e-5) ** 0.5  # what a fresh batch norm divides by in evaluation


def normalise(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def batch_norm(rows, layer, training):
    mean = rows.mean(axis=0) if training else layer.running_mean.numpy()
    var = rows.var(axis=0) if training else layer.running_var.numpy()
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return (rows - mean) / np.sqrt(var + 1e-5) * weight + bias


def linear(rows, layer):
    return rows @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def shake(module):
    """Give batch norms weights and statistics of their own, so that a mix-up shows."""
    torch.manual_seed(0)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point():
            positive = name.endswith(("running_var", "batch_norm.weight", "batch_norm2.weight"))
            torch.nn.init.uniform_(value, 0.5 if positive else -1.0, 1.5)
    return module.double()


def test_gate_by_hand():
    gate = ContextGate(2).eval()
    with torch.no_grad():
        gate.fc.weight.zero_()
        gate.fc.bias.copy_(torch.tensor([np.log(3) * UNIT_VARIANCE, 0.0]))
    # sigmoid(log 3) = 3/4 and sigmoid(0) = 1/2: (3, 4) becomes (9/4, 2) before normalisation.
    expected = np.array([2.25, 2.0]) / np.hypot(2.25, 2.0)
    assert gate(torch.tensor([[3.0, 4.0]])).tolist()[0] == pytest.approx(expected, abs=1e-6)


def test_gate_with_message_by_hand():
    gate = ContextGate(2, with_message=True).eval()
    with torch.no_grad():
        gate.fc.weight.zero_()
        gate.fc.bias.copy_(torch.tensor([np.log(2) * UNIT_VARIANCE, 0.0]))
    message = torch.tensor([[np.log(1.5) * UNIT_VARIANCE, -np.log(3) * UNIT_VARIANCE]])
    # Both normalised and added: sigmoid(log 3) = 3/4, sigmoid(-log 3) = 1/4.
    expected = np.array([2.25, 1.0]) / np.hypot(2.25, 1.0)
    got = gate(torch.tensor([[3.0, 4.0]]), message.float()).tolist()[0]
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_units_equal_plain_arithmetic(training):
    x = torch.randn(6, 4, dtype=torch.float64)
    message = torch.randn(6, 4, dtype=torch.float64) * 2
    gate = shake(ContextGate(4)).train(training)
    plain = x.numpy()
    expected = normalise(
        plain * sigmoid(batch_norm(linear(plain, gate.fc), gate.batch_norm, training))
    )
    np.testing.assert_allclose(gate(x).detach().numpy(), expected, atol=1e-12)

    gate = shake(ContextGate(4, with_message=True)).train(training)
    both = batch_norm(message.numpy(), gate.batch_norm, training)
    both = both + batch_norm(linear(plain, gate.fc), gate.batch_norm2, training)
    expected = normalise(plain * sigmoid(both))
    np.testing.assert_allclose(gate(x, message).detach().numpy(), expected, atol=1e-12)

    unit = shake(GatedEmbeddingUnit(4, 3)).train(training)
    y = linear(plain, unit.fc)
    gated = y * sigmoid(batch_norm(linear(y, unit.gate.fc), unit.gate.batch_norm, training))
    np.testing.assert_allclose(unit(x).detach().numpy(), normalise(gated), atol=1e-12)

    reduce = shake(ReduceDim(4, 5)).train(training)
    expected = normalise(linear(plain, reduce.fc))
    np.testing.assert_allclose(reduce(x).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("unit", [ContextGate(4), GatedEmbeddingUnit(4, 7), ReduceDim(4, 7)])
def test_unit_length_and_order_of_clips(unit):
    unit = shake(unit).train()
    x = torch.randn(9, 4, dtype=torch.float64)
    out = unit(x)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(9, dtype=torch.float64))
    order = torch.randperm(9)
    torch.testing.assert_close(unit(x[order]), out[order])


@pytest.mark.parametrize("training", [True, False])
def test_gradients_by_finite_differences(training):
    gate = shake(ContextGate(3, with_message=True)).train(training)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    message = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, m, *_: gate(x, m), (x, message, *gate.parameters()), atol=1e-6
    )
