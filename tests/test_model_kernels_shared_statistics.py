"""Statistics over several processes: with one process they are torch's own batch norm."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from model.kernels.shared_statistics import normalise_across_processes


@pytest.fixture
def one_process(monkeypatch):
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, **_: tensor)


@pytest.mark.usefixtures("one_process")
def test_equals_its_formula():
    draw = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(4, generator=draw, dtype=torch.float64) for _ in range(2))
    results = []
    for ours in (True, False):
        draw.manual_seed(1)
        rows = torch.randn(9, 1, 4, generator=draw, dtype=torch.float64).requires_grad_()
        if ours:
            normalised, mean, variance = normalise_across_processes(rows, weight, bias, 1e-5)
        else:
            flat = F.batch_norm(rows[:, 0], None, None, weight, bias, training=True)
            normalised, mean, variance = flat[:, None], rows.mean(dim=0), rows.var(dim=0)
        (normalised**3).sum().backward()
        results.append([normalised, mean.detach(), variance.detach(), rows.grad])
    torch.testing.assert_close(*results)
