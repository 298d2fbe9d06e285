"""NetVLAD's residuals in one step equal their formula, gradients and all."""

import pytest
import torch

from model.kernels.residuals import plain_unit_residuals, unit_residuals


def draw(batch=5, tokens=7, width=6, clusters=3):
    draw = torch.Generator().manual_seed(0)
    options = {"generator": draw, "dtype": torch.float64}
    shares = torch.rand(batch, tokens, clusters, **options)
    return [
        torch.randn(batch, tokens, width, **options).requires_grad_(),
        shares.requires_grad_(),
        torch.randn(1, width, clusters, **options).requires_grad_(),
    ]


@pytest.mark.parametrize("shape", [{}, {"batch": 1, "tokens": 1}, {"clusters": 1}, {"batch": 0}])
def test_equals_its_formula(shape):
    results = []
    for function in (unit_residuals, plain_unit_residuals):
        inputs = draw(**shape)
        residuals = function(*inputs)
        (residuals**3).sum().backward()
        results.append([residuals, *(value.grad for value in inputs)])
    torch.testing.assert_close(*results)


def test_columns_have_unit_length_and_the_whole_too():
    residuals = unit_residuals(*draw())
    torch.testing.assert_close(residuals.flatten(1).norm(dim=1), torch.ones(5).double())
    torch.testing.assert_close(residuals.norm(dim=1), torch.full((5, 3), 3**-0.5).double())


def test_a_column_of_zeros_stays():
    tokens, shares, clusters2 = draw()
    shares = shares.detach().clone()
    shares[:, :, 1] = 0
    found = unit_residuals(tokens, shares, clusters2)
    assert not found[:, :, 1].any()
    torch.testing.assert_close(found, plain_unit_residuals(tokens, shares, clusters2))


def test_gradients_by_finite_differences():
    assert torch.autograd.gradcheck(unit_residuals, draw(2, 3, 4, 2))
