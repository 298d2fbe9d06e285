"""Rows of unit length with gradients of their own, against torch's."""

import pytest
import torch
import torch.nn.functional as F

from model.kernels.unit_rows import gated_unit_rows, unit_rows


def test_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    unit = unit_rows(x)
    assert torch.equal(unit, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    unit.backward(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    # what is orthogonal to (0.6, 0.8) of (1, 0) is (0.64, -0.48), over a length of 5
    torch.testing.assert_close(x.grad[0], torch.tensor([0.128, -0.096]))
    assert not x.grad[1].any()


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 6), (1, 1)])
def test_gradients_are_those_of_torch(shape):
    torch.manual_seed(1)
    x, gate, weights = drawn(*shape), drawn(*shape), torch.randn(*shape, dtype=torch.float64)
    pairs = [
        (unit_rows(x), F.normalize(x, dim=-1)),
        (gated_unit_rows(x, gate), F.normalize(x * torch.sigmoid(gate), dim=-1)),
    ]
    for ours, plain in pairs:
        torch.testing.assert_close(ours, plain)
        assert ours.norm(dim=-1).allclose(torch.ones((), dtype=torch.float64))
        for one, other in zip(
            torch.autograd.grad((ours * weights).sum(), (x, gate), allow_unused=True),
            torch.autograd.grad((plain * weights).sum(), (x, gate), allow_unused=True),
            strict=True,
        ):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_finite_differences():
    torch.manual_seed(2)
    assert torch.autograd.gradcheck(unit_rows, (drawn(3, 4),))
    assert torch.autograd.gradcheck(gated_unit_rows, (drawn(3, 4), drawn(3, 4)))


def test_rows_of_zeros_pass_gradients_as_torch_does():
    x = torch.zeros(2, 3, requires_grad=True)
    weights = torch.tensor([[1.0, -2.0, 3.0]] * 2)
    [ours] = torch.autograd.grad((unit_rows(x) * weights).sum(), x)
    [plain] = torch.autograd.grad((F.normalize(x, dim=-1) * weights).sum(), x)
    torch.testing.assert_close(ours, plain)
