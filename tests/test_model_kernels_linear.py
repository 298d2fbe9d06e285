"""Linear layers by oneDNN: the same numbers as torch's own, whatever the memory layout."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.kernels import linear as module
from model.kernels.linear import Linear, _by_onednn, _onednn_works, linear, onednn_is_faster


@pytest.fixture(autouse=True)
def onednn_wherever_it_is(monkeypatch):
    """Use it on this processor too, whichever is faster here."""
    monkeypatch.setattr(module, "onednn_is_faster", _onednn_works)


def draw(batch=7, width=5, out=4):
    torch.manual_seed(0)
    return torch.randn(batch, width), torch.randn(out, width), torch.randn(out)


def gradients(function, *inputs):
    inputs = [value.clone().requires_grad_() for value in inputs]
    (function(*inputs) ** 3).sum().backward()
    return [value.grad for value in inputs]


def test_by_hand():
    rows, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.0, -1.0]])
    assert linear(rows, weight, torch.tensor([0.5, 0.0])).tolist() == [[11.5, -2.0]]


@pytest.mark.skipif(not _onednn_works(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("shape", [(7, 5, 4), (1, 5, 4), (128, 768, 96), (3, 1, 1)])
def test_equals_torchs_own(shape):
    inputs = draw(*shape)
    torch.testing.assert_close(linear(*inputs), F.linear(*inputs), rtol=1e-5, atol=1e-4)
    ours, expected = gradients(linear, *inputs), gradients(F.linear, *inputs)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * expected[1].abs().max())


@pytest.mark.parametrize(
    "change",
    [
        lambda rows, weight: (rows.repeat(1, 2)[:, :5], weight),
        lambda rows, weight: (rows, weight.repeat(1, 2)[:, 5:]),
        lambda rows, weight: (rows.t().contiguous().t(), weight.t().contiguous().t()),
        lambda rows, weight: (rows[:1].expand(6, 5), weight),
        lambda rows, weight: (rows[::2], weight[1:2]),
    ],
)
def test_any_memory_layout(change):
    rows, weight, _ = draw()
    rows, weight = change(rows, weight)
    torch.testing.assert_close(linear(rows, weight), rows @ weight.T)
    ours = gradients(linear, rows, weight)
    torch.testing.assert_close(ours, gradients(F.linear, rows, weight), rtol=1e-5, atol=1e-5)


def test_leading_dimensions_stay():
    rows, weight, bias = draw(12)
    torch.testing.assert_close(
        linear(rows.view(3, 4, 5), weight, bias), F.linear(rows, weight, bias).view(3, 4, 4)
    )


@pytest.mark.parametrize("shape", [(0, 5), (0, 3, 5), (4, 0, 5)])
def test_no_rows_at_all(shape):
    _, weight, bias = draw()
    rows = torch.zeros(shape)
    assert linear(rows, weight, bias).shape == (*shape[:-1], 4)
    for gradient in gradients(linear, rows, weight, bias):
        assert not gradient.any()


def test_only_wanted_gradients_are_computed():
    rows, weight, bias = draw()
    linear(rows, weight.requires_grad_(), bias).sum().backward()
    assert rows.grad is None
    assert weight.grad is not None
    assert not linear(rows, weight.detach(), bias).requires_grad


@pytest.mark.skipif(not _onednn_works(), reason="this torch has no oneDNN")
@pytest.mark.parametrize(
    ("seconds", "faster"), [(0.5, True), (0.65, True), (0.8, False), (1.1, False)]
)
def test_a_try_chooses_the_library(monkeypatch, seconds, faster):
    tried = iter([seconds, 9 * seconds] + [seconds] * 20)  # one disturbed try changes nothing

    def time(product, *_):
        return 1.0 if product is F.linear else next(tried)

    monkeypatch.setattr(module, "_seconds", time)
    onednn_is_faster.cache_clear()
    threads = torch.get_num_threads()
    assert onednn_is_faster() == faster
    assert torch.get_num_threads() == threads
    onednn_is_faster.cache_clear()


@pytest.fixture
def without_onednn():
    torch._C._set_mkldnn_enabled(False)
    yield
    torch._C._set_mkldnn_enabled(True)


def test_without_onednn_torchs_own_is_used(without_onednn):
    rows, weight, bias = draw()
    assert not _by_onednn(rows)
    assert torch.equal(linear(rows, weight, bias), F.linear(rows, weight, bias))


def test_other_dtypes_and_autocast_are_left_to_torch():
    rows, weight, bias = draw()
    assert not _by_onednn(rows.double())
    assert linear(rows.double(), weight.double(), bias.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(rows, weight, bias).dtype == torch.bfloat16


def test_the_layer_starts_like_torchs_own():
    torch.manual_seed(3)
    ours = Linear(5, 4)
    torch.manual_seed(3)
    torchs = nn.Linear(5, 4)
    for name, value in torchs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    rows = torch.randn(2, 5)
    torch.testing.assert_close(ours(rows), torchs(rows))


def test_the_same_bits_every_time():
    rows, weight, bias = draw(128, 700, 300)
    first = linear(rows, weight, bias), *gradients(linear, rows, weight, bias)
    for _ in range(3):
        again = linear(rows, weight, bias), *gradients(linear, rows, weight, bias)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
