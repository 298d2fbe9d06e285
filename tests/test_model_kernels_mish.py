"""Mish: by hand, against torch's own, and where exponentials overflow."""

import math

import pytest
import torch
import torch.nn.functional as F

from model.kernels.mish import Mish


def test_by_hand():
    assert Mish()(torch.tensor([0.0])).item() == 0
    # log(1 + e^x) = log 2 at x = 0, and tanh(log 2) = 3/5
    x = torch.tensor([0.0], requires_grad=True)
    Mish()(x).backward()
    assert x.grad.item() == pytest.approx(0.6)
    assert Mish()(torch.tensor([1.0])).item() == pytest.approx(math.tanh(math.log(1 + math.e)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torchs_own(dtype):
    x = torch.cat([torch.linspace(-120, 120, 4001), torch.randn(5000)]).to(dtype)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = Mish()(mine), F.mish(theirs)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-30)
    pull = torch.randn(len(x), dtype=dtype)
    found.backward(pull)
    expected.backward(pull)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=2e-6)


def test_nothing_overflows():
    x = torch.tensor([-3e38, -1e4, -104.0, 89.0, 1e4, 3e38], requires_grad=True)
    found = Mish()(x)
    found.sum().backward()
    assert found.tolist() == pytest.approx([0, 0, 0, 89, 1e4, 3e38], rel=1e-6, abs=1e-30)
    assert x.grad.tolist() == pytest.approx([0, 0, 0, 1, 1, 1], abs=1e-30)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_left_to_torch(dtype):
    x = torch.linspace(-20, 20, 401).to(dtype).requires_grad_()
    found = Mish()(x)
    assert torch.equal(found, F.mish(x))
    found.sum().backward()
    assert x.grad.isfinite().all()
