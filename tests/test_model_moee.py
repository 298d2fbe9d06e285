"""MoEE and CE of one expert: each expert by itself."""

import torch
import torch.nn.functional as F

from model.gating import GatedEmbeddingUnit
from model.moee import MixtureOfEmbeddingExperts, SingleExpert


def test_moee_is_one_gated_unit_per_expert():
    torch.manual_seed(0)
    model = MixtureOfEmbeddingExperts([5, 3], [4, 2]).eval()
    vectors, available = [torch.randn(6, 5), torch.randn(6, 3)], torch.ones(6, 2)
    for i, embedded in enumerate(model(vectors, available)):
        alone = GatedEmbeddingUnit(*[(5, 4), (3, 2)][i]).eval()
        alone.load_state_dict(model.units[i].state_dict())
        torch.testing.assert_close(embedded, alone(vectors[i]))
    assert model.out_dims == [4, 2]


def test_moee_experts_do_not_see_each_other():
    model = MixtureOfEmbeddingExperts([5, 3], [4, 2]).train()
    vectors, available = [torch.randn(6, 5), torch.randn(6, 3)], torch.ones(6, 2)
    before = model(vectors, available)
    after = model([vectors[0], vectors[1] + 1], torch.zeros(6, 2))
    torch.testing.assert_close(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 1e-3


def test_single_expert_step_by_step():
    torch.manual_seed(0)
    model = SingleExpert(5, 4).double().eval()
    x = torch.randn(6, 5, dtype=torch.float64)
    reduced = F.normalize(model.reduce[0].fc(x), dim=1)
    own = model.gates[0].fc(reduced) / (1 + 1e-5) ** 0.5  # a fresh batch norm in evaluation
    expected = F.normalize(reduced * torch.sigmoid(own), dim=1)
    (found,) = model([x], torch.ones(6, 1))
    torch.testing.assert_close(found, expected)
    assert model.out_dims == [4]
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6, dtype=torch.float64))
