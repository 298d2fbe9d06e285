"""BatchNorm over groups is the same as one call after another."""

import pytest
import torch
from torch import nn

from model.batch_norm import BatchNorm


def one_after_another(layer, rows):
    """Normalise (B, P, C) by P calls of torch's own layer."""
    return torch.stack([layer(rows[:, p]) for p in range(rows.shape[1])], dim=1)


def twins(channels, *, momentum=0.1):
    """Return our layer and torch's with the same weights and statistics."""
    torch.manual_seed(1)
    ours, torchs = (
        BatchNorm(channels, momentum=momentum),
        nn.BatchNorm1d(channels, momentum=momentum),
    )
    for value in (ours.weight, ours.running_var):
        nn.init.uniform_(value, 0.5, 2.0)
    for value in (ours.bias, ours.running_mean):
        nn.init.normal_(value)
    torchs.load_state_dict(ours.state_dict())
    return ours.double(), torchs.double()


def test_two_rows_by_hand():
    layer = BatchNorm(1)
    rows = torch.tensor([[[1.0], [10.0]], [[3.0], [10.0]]])  # groups (1, 3) and (10, 10)
    unit = 1 / (1 + 1e-5) ** 0.5
    assert layer(rows).flatten().tolist() == pytest.approx([-unit, 0, unit, 0], abs=1e-4)
    assert layer.running_mean.item() == pytest.approx(0.1 * 2 * 0.9 + 0.1 * 10)
    assert layer.running_var.item() == pytest.approx((0.9 + 0.1 * 2) * 0.9)  # unbiased: 2 and 0
    assert layer.num_batches_tracked.item() == 2


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 5])
@pytest.mark.parametrize("momentum", [0.1, 0.37])
def test_groups_equal_calls_in_turn(training, groups, momentum):
    ours, torchs = twins(6, momentum=momentum)
    ours.train(training), torchs.train(training)
    rows = torch.randn(7, groups, 6, dtype=torch.float64) * 3 + 1
    mine, theirs = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    pull = torch.randn(7, groups, 6, dtype=torch.float64)
    for _ in range(3):
        result, expected = ours(mine), one_after_another(torchs, theirs)
        torch.testing.assert_close(result, expected)
        (result * pull).sum().backward()
        (expected * pull).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, torchs.get_parameter(name).grad)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, torchs.get_buffer(name))


@pytest.mark.parametrize("training", [True, False])
def test_rows_equal_torchs_own_layer(training):
    ours, torchs = twins(6)
    ours.train(training), torchs.train(training)
    rows = torch.randn(7, 6, dtype=torch.float64) - 5
    torch.testing.assert_close(ours(rows), torchs(rows))
    torch.testing.assert_close(dict(ours.named_buffers()), dict(torchs.named_buffers()))


def test_large_offsets_lose_no_accuracy():
    ours, torchs = twins(3)
    ours, torchs = ours.float(), torchs.float()
    rows = torch.randn(64, 2, 3) + 1000
    torch.testing.assert_close(ours(rows), one_after_another(torchs, rows), atol=2e-3, rtol=0)
    torch.testing.assert_close(ours.running_var, torchs.running_var, atol=1e-3, rtol=1e-3)


def test_a_single_row_cannot_be_normalised():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchNorm(3)(torch.randn(1, 2, 3))


@pytest.mark.parametrize("groups", [1, 4])
def test_autocast_does_not_round_the_statistics(groups):
    plain, cast = twins(6)[0].float(), twins(6)[0].float()
    rows = (torch.randn(64, groups, 6) + 3).bfloat16()
    plain(rows)
    with torch.autocast("cpu", torch.bfloat16):
        assert cast(rows).dtype == torch.bfloat16
    assert torch.equal(cast.running_mean, plain.running_mean)
    assert torch.equal(cast.running_var, plain.running_var)


@pytest.fixture
def summed_alone(monkeypatch):
    """Pretend that several processes train of which the others hold no rows."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)


@pytest.mark.parametrize("shape", [(1827, 6), (1827, 3, 6)])
def test_shared_statistics_of_low_precision(summed_alone, shape):
    alone, shared = twins(6)[0].float(), twins(6)[0].float()
    shared.shared = True
    rows = (torch.randn(shape) + 3).bfloat16()
    found = shared(rows)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, alone(rows.float()).bfloat16(), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(shared.running_mean, alone.running_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(shared.running_var, alone.running_var, rtol=1e-5, atol=1e-6)


def test_shared_gradients_by_finite_differences(summed_alone):
    layer = twins(2)[0].train()
    layer.shared = True
    rows = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (rows, *layer.parameters()), atol=1e-6)
