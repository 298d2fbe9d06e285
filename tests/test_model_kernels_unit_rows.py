"""Rows of unit length with gradients of their own, against torch's."""

import pytest
import torch
import torch.nn.functional as F

from model.kernels.unit_rows import unit_rows


def test_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    unit = unit_rows(x)
    assert torch.equal(unit, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    unit.backward(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    # what is orthogonal to (0.6, 0.8) of (1, 0) is (0.64, -0.48), over a length of 5
    torch.testing.assert_close(x.grad[0], torch.tensor([0.128, -0.096]))
    assert not x.grad[1].any()


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 6), (1, 1)])
def test_equals_its_formula(shape):
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(*shape, dtype=torch.float64)
    ours, plain = unit_rows(x), F.normalize(x, dim=-1)
    torch.testing.assert_close(ours, plain)
    gradients = [torch.autograd.grad((rows * weights).sum(), x)[0] for rows in (ours, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_rows_of_zeros_pass_gradients_as_torch_does():
    x = torch.zeros(2, 3, requires_grad=True)
    weights = torch.tensor([[1.0, -2.0, 3.0]] * 2)
    [ours] = torch.autograd.grad((unit_rows(x) * weights).sum(), x)
    [plain] = torch.autograd.grad((F.normalize(x, dim=-1) * weights).sum(), x)
    torch.testing.assert_close(ours, plain)
