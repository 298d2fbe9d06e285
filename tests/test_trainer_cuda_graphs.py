"""Gradients by replay: what is recorded, what is computed as usual, and that both are the same."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import nn

from small_runs import same
from trainer import cuda_graphs
from trainer.cuda_graphs import WARM_UP, ReplayedGradients, copied, gradients_of, plain_gradients
from utils.batches import PlannedBatch

CPU = torch.device("cpu")


class Pair(NamedTuple):
    tokens: torch.Tensor
    mask: torch.Tensor


class Step(nn.Module):
    """Counts its calls; its batch norm moves with each."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.linear = nn.Linear(3, 1)
        self.unused = nn.Parameter(torch.ones(2))
        self.calls = 0

    def forward(self, words, experts):
        self.calls += 1
        return self.linear(self.norm(words * experts["a"].tokens)).square().mean()


def sgd(step):
    return torch.optim.SGD(step.parameters(), lr=0.1)


def with_sgd(step):
    return step, sgd(step)


def batch_of(rows, seed):
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rows, 3, generator=draw)
    return torch.randn(rows, 3, generator=draw), {"a": Pair(tokens, torch.ones(rows))}


class Streams:
    """Stands for CUDA's streams, of which the CPU has none."""

    device = CPU

    def __init__(self, *_):
        pass

    def wait_stream(self, _):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def recorder(monkeypatch):
    """Record as a GPU would: nothing is computed before the replay, which writes in place."""
    recorded = []

    def record(work, _):
        step = work.func.args[0] if isinstance(work.func, partial) else work.args[0]
        before = {name: value.clone() for name, value in step.state_dict().items()}
        result = work()
        step.load_state_dict(before)
        gradients = {parameter: parameter.grad for parameter in step.parameters()}

        def replay():
            kept = {parameter: parameter.grad for parameter in step.parameters()}
            result.copy_(work())
            for parameter, static in gradients.items():
                if static is not None:
                    static.copy_(parameter.grad)
                parameter.grad = kept[parameter]

        recorded.append(work)
        return replay, result

    monkeypatch.setattr(cuda_graphs, "record", record)
    monkeypatch.setattr(torch.cuda, "Stream", Streams)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Streams)
    return recorded


def twins():
    torch.manual_seed(0)
    one, other = Step(), Step()
    other.load_state_dict(one.state_dict())
    return one, other


def whole_batches():
    for number, rows in enumerate([4] * 7 + [2] + [4] * 3 + [2, 4]):
        batch = batch_of(rows, number)
        yield batch, copied(batch)


def planned_batches():
    """The places change with each batch, the rows they are gathered from stay."""
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(5))

    def gather(places, others):
        return rows[places], {"a": Pair(rows[others], torch.ones(len(others)))}

    draw = torch.Generator().manual_seed(6)
    for count in [4] * 6 + [3] + [4] * 2:
        places = tuple(torch.randint(40, (count,), generator=draw) for _ in range(2))
        yield PlannedBatch(gather, places), gather(*places)


@pytest.mark.parametrize("batches", [whole_batches, planned_batches])
def test_replayed_gradients_are_the_plain_ones(recorder, batches):
    plain, replayed = twins()
    optimizers = [sgd(step) for step in (plain, replayed)]
    gradients = ReplayedGradients(replayed, optimizers[1], CPU)
    for batch, twin in batches():
        assert torch.equal(gradients(batch), plain_gradients(plain, optimizers[0], twin))
        for optimizer in optimizers:
            optimizer.step()
        assert same(dict(plain.state_dict()), dict(replayed.state_dict()))
    assert len(recorder) == 1
    assert plain.unused.grad is None
    assert replayed.unused.grad is None


def test_the_first_steps_are_computed_as_usual(recorder):
    gradients = ReplayedGradients(*with_sgd(twins()[0]), CPU)
    for number in range(WARM_UP):
        gradients(batch_of(4, number))
        assert not gradients.is_recorded
    gradients(batch_of(4, 9))
    assert gradients.is_recorded


def test_a_shape_that_comes_now_and_then_is_not_recorded(recorder):
    gradients = ReplayedGradients(*with_sgd(twins()[0]), CPU)
    for number in range(4 * WARM_UP):
        gradients(batch_of(2 + number % 2, number))
    assert not recorder


def test_a_step_that_cannot_be_recorded_is_computed_as_usual(recorder, monkeypatch, caplog):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graphs, "record", refuse)
    plain, replayed = twins()
    optimizers = [sgd(step) for step in (plain, replayed)]
    gradients = ReplayedGradients(replayed, optimizers[1], CPU)
    for number in range(WARM_UP + 3):
        batch = batch_of(4, number)
        assert torch.equal(gradients(batch), plain_gradients(plain, optimizers[0], batch))
    assert not gradients.is_recorded
    assert len(caplog.records) == 1
    assert "trainer.cuda_graphs" in caplog.text


@pytest.mark.parametrize(
    ("replay", "device", "alone", "replayed"),
    [
        (True, "cuda", True, True),
        (False, "cuda", True, False),
        (True, "cuda", False, False),
        (True, "cpu", True, False),
    ],
)
def test_where_steps_are_replayed(recorder, replay, device, alone, replayed):
    found = gradients_of(*with_sgd(Step()), replay=replay, device=torch.device(device), alone=alone)
    assert isinstance(found, ReplayedGradients) == replayed


def moved(batch, device):
    words, experts = batch
    there = {name: Pair(*(part.to(device) for part in pair)) for name, pair in experts.items()}
    return words.to(device), there


@pytest.mark.gpu
class TestOnAGpu:
    device = torch.device("cuda", 0)

    def test_replayed_gradients_are_the_plain_ones(self):
        plain, replayed = (step.to(self.device) for step in twins())
        optimizers = [sgd(step) for step in (plain, replayed)]
        gradients = ReplayedGradients(replayed, optimizers[1], self.device)
        for number, rows in enumerate([4] * 7 + [2] + [4] * 3 + [2, 4]):
            batch = moved(batch_of(rows, number), self.device)
            expected = plain_gradients(plain, optimizers[0], copied(batch))
            assert gradients(batch).item() == pytest.approx(expected.item(), abs=1e-6)
            for optimizer in optimizers:
                optimizer.step()
        assert gradients.is_recorded
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(replayed.state_dict()[name], value, msg=name)

    def test_a_step_that_waits_for_the_device_is_computed_as_usual(self, caplog):
        class Waits(Step):
            def forward(self, words, experts):
                loss = super().forward(words, experts)
                return loss if loss.item() >= 0 else -loss

        gradients = ReplayedGradients(*with_sgd(Waits().to(self.device)), self.device)
        for number in range(WARM_UP + 2):
            loss = gradients(moved(batch_of(4, number), self.device))
            assert loss.item() >= 0
        assert not gradients.is_recorded
        assert "trainer.cuda_graphs" in caplog.text
