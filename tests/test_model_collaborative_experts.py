"""Collaborative Experts: by hand, against the pairs written one by one, and its properties."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from model.collaborative_experts import CollaborativeExperts

IN_DIMS = [5, 3, 4]


def pairs_one_by_one(model, vectors, available):
    """Do what the paper's system does: pair by pair, each by itself, experts updated in place."""
    experts = [F.normalize(r.fc(x), dim=-1) for r, x in zip(model.reduce, vectors, strict=True)]
    for i in range(len(experts)):
        total, count = 0.0, 0.0
        for j in range(len(experts)):
            if j == i and not model.include_self:
                continue
            pair = model.pair_input(torch.cat([experts[i], experts[j]], dim=1))
            for layer in model.pair_network:
                pair = layer(pair)
            both = (available[:, i] * available[:, j])[:, None]
            total, count = total + both * pair, count + both
        message = total / (count + 1e-11)
        for layer in model.self_network:
            message = layer(message)
        gate = model.gates[i]
        own = gate.batch_norm2(gate.fc(experts[i]))
        mask = torch.sigmoid(gate.batch_norm(message) + own)
        experts[i] = F.normalize(experts[i] * mask, dim=-1)
    return experts


def twins(in_dims=IN_DIMS, width=6, **switches):
    """Return our model and a copy of it whose batch norms are torch's own."""
    torch.manual_seed(0)
    ours = CollaborativeExperts(in_dims, width, **switches)
    for name, value in [*ours.named_parameters(), *ours.named_buffers()]:
        of_norm = "batch_norm" in name or "network.0" in name or "running" in name
        if of_norm and value.is_floating_point() and value.dim() == 1:
            nn.init.uniform_(value, 0.5, 1.5)
    ours.double()
    slow = copy.deepcopy(ours)
    for module in list(slow.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d):
                plain = nn.BatchNorm1d(child.num_features).double()
                plain.load_state_dict(child.state_dict())
                setattr(module, name, plain)
    return ours, slow


def draw_inputs(batch=9, in_dims=IN_DIMS, seed=1):
    torch.manual_seed(seed)
    vectors = [torch.randn(batch, width, dtype=torch.float64) for width in in_dims]
    available = torch.randint(0, 2, (batch, len(in_dims))).double()
    return vectors, available


def test_order_of_gating_by_hand():
    model = CollaborativeExperts([2, 2], 2, num_g_layers=1).eval()
    unit_variance = (1 + 1e-5) ** 0.5
    with torch.no_grad():
        for reduce, gate in zip(model.reduce, model.gates, strict=True):
            reduce.fc.weight.copy_(torch.eye(2))
            reduce.fc.bias.zero_()
            gate.fc.weight.zero_()
            gate.fc.bias.zero_()
        model.pair_input.weight.copy_(torch.tensor([[0, 0, 1.0, 0], [0, 0, 0, 1.0]]))  # p_ij = r_j
        model.pair_input.bias.zero_()
    first, second = np.array([0.6, 0.8]), np.array([0.8, -0.6])

    def gated(expert, message):
        opened = expert / (1 + np.exp(-message / unit_variance))
        return opened / np.linalg.norm(opened)

    first_out = gated(first, (first + second) / 2)
    second_out = gated(second, (first_out + second) / 2)  # sees the first expert gated
    vectors = [torch.tensor(first).float()[None] * 3, torch.tensor(second).float()[None]]
    found = model(vectors, torch.ones(1, 2))
    np.testing.assert_allclose(found[0][0].detach(), first_out, atol=1e-6)
    np.testing.assert_allclose(found[1][0].detach(), second_out, atol=1e-6)
    assert np.abs(second_out - gated(second, (first + second) / 2)).max() > 1e-2


SWITCHES = [
    {},
    {"include_self": False},
    {"use_mish": False},
    {"use_bn_reason": False},
    {"num_g_layers": 1},
    {"num_g_layers": 4, "num_h_layers": 2},
    {"include_self": False, "use_mish": False, "num_h_layers": 1, "num_g_layers": 2},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_equals_pairs_one_by_one(switches, training):
    ours, slow = twins(**switches)
    ours.train(training), slow.train(training)
    vectors, available = draw_inputs()
    mine = [v.clone().requires_grad_() for v in vectors]
    theirs = [v.clone().requires_grad_() for v in vectors]
    pulls = [torch.randn(9, 6, dtype=torch.float64) for _ in vectors]
    for _ in range(2):  # twice: running statistics that moved wrongly would show
        found, expected = ours(mine, available), pairs_one_by_one(slow, theirs, available)
        torch.testing.assert_close(found, expected)
        sum((f * p).sum() for f, p in zip(found, pulls, strict=True)).backward()
        sum((e * p).sum() for e, p in zip(expected, pulls, strict=True)).backward()
    torch.testing.assert_close(dict(ours.named_buffers()), dict(slow.named_buffers()))
    torch.testing.assert_close([v.grad for v in mine], [v.grad for v in theirs])
    for name, parameter in ours.named_parameters():
        expected = slow.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, expected, atol=1e-10, rtol=1e-6, msg=name)


@pytest.mark.parametrize("training", [True, False])
def test_unit_length_and_order_of_clips(training):
    ours, _ = twins()
    ours.train(training)
    vectors, available = draw_inputs()
    found = ours(vectors, available)
    for embedded in found:
        torch.testing.assert_close(embedded.norm(dim=1), torch.ones(9, dtype=torch.float64))
    order = torch.randperm(9)
    moved = ours([v[order] for v in vectors], available[order])
    torch.testing.assert_close(moved, [f[order] for f in found])


def test_an_expert_that_is_missing_says_nothing_to_its_peers():
    """In evaluation a clip's embeddings of the experts it has ignore the vectors it lacks."""
    ours, _ = twins()
    ours.eval()
    vectors, available = draw_inputs()
    changed = [torch.where(available[:, i, None] > 0, v, v + 5) for i, v in enumerate(vectors)]
    before, after = ours(vectors, available), ours(changed, available)
    for i in range(3):
        there = available[:, i] > 0
        torch.testing.assert_close(after[i][there], before[i][there])
        assert (after[i][~there] - before[i][~there]).abs().max() > 1e-3


def test_a_clip_with_nothing_has_the_message_zero():
    ours, slow = twins()
    vectors, available = draw_inputs()
    available[0] = 0
    torch.testing.assert_close(
        ours.eval()(vectors, available), pairs_one_by_one(slow.eval(), vectors, available)
    )
    assert all(e.isfinite().all() for e in ours.train()(vectors, available))


class ListsAsTensors(TorchDispatchMode):
    """Note whether a tensor is indexed by a tensor made of a list."""

    met = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.met = self.met or function is torch.ops.aten.index.Tensor
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("include_self", [True, False])
def test_nothing_waits_for_the_host(include_self):
    """Indexed by a list, a tensor on a GPU waits until the list has been copied there."""
    ours, _ = twins(include_self=include_self)
    with ListsAsTensors() as noted:
        ours(*draw_inputs())
    assert not noted.met
