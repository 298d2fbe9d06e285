"""The training step as configured: its precision, its compiler, and the same on a GPU."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from model import build_model
from model.loss import build_loss
from small_runs import CE
from trainer.cuda_graphs import gradients_of
from trainer.device import set_precision
from trainer.evaluator import evaluate
from trainer.loop import READ_LOSSES_EVERY
from trainer.optimizer import Ranger, build_optimizer
from trainer.ranking_step import CompiledStep, RankingStep, build_step
from utils.batches import EvaluationData
from utils.config import load_config

SMALL = {
    "experts.ce_shared_dim": 16,
    "data_loader.args.batch_size": 12,
    "arch.args.vlad_clusters": {"text": 2, "audio": 2, "vggsound": 2},
    "data_loader.args.max_tokens": {"text": 4, "audio": 3, "vggsound": 2},
}
CPU = torch.device("cpu")


def config_of(**changes):
    return load_config(CE, SMALL | {f"trainer.{key}": value for key, value in changes.items()})


def draw_batch(clips=12, captions=1, device=CPU):
    draw = torch.Generator().manual_seed(3)
    topics = torch.randn(clips, 1, 512, generator=draw)  # heard and read of alike

    def near(*shape):
        return torch.randn(*shape, generator=draw) + topics[..., : shape[-1]]

    text = near(clips, 4 * captions, 300).view(clips, captions, 4, 300)
    experts = {"audio": near(clips, 3, 128), "vggsound": near(clips, 2, 512)}
    available = {"audio": torch.ones(clips), "vggsound": (torch.arange(clips) % 5 > 0).float()}
    return (
        text.to(device),
        {name: value.to(device) for name, value in experts.items()},
        {name: value.to(device) for name, value in available.items()},
    )


def parts_of(config, device=CPU):
    torch.manual_seed(0)
    model = build_model(config).to(device).train()
    step = build_step(config, model, build_loss(config.loss))
    return model, step, build_optimizer(config.optimizer, step.parameters())


def train(config, steps, device=CPU):
    """Return the losses of some steps on one batch, read at the end, and the model."""
    model, step, optimizer = parts_of(config, device)
    batch, losses = draw_batch(device=device), []
    replay = config.trainer.cuda_graphs
    gradients = gradients_of(step, optimizer, replay=replay, device=device, alone=True)
    for _ in range(steps):
        losses.append(gradients(batch).clone())
        optimizer.step()
    return torch.stack(losses).tolist(), model


def test_bfloat16_trains_almost_like_float32():
    exact, _ = train(config_of(), 15)
    found, model = train(config_of(precision="bf16"), 15)
    assert found != exact
    assert found == pytest.approx(exact, abs=3e-3)
    assert exact[-1] < exact[0] / 2
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("changes", [{}, {"cuda_graphs": True}])
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_the_step_is_compiled_when_asked_for(changes):
    assert isinstance(parts_of(config_of(**changes))[1], RankingStep)
    assert isinstance(parts_of(config_of(compile=True, **changes))[1], CompiledStep)


def test_batches_of_full_size_are_compiled(monkeypatch):
    asked = []

    def pretend(step, **_):
        return lambda *batch: asked.append(len(batch[0])) or step(*batch)

    monkeypatch.setattr(torch, "compile", pretend)
    step = CompiledStep(parts_of(config_of())[1], 12)
    for clips in (12, 5, 12):
        assert step(*draw_batch(clips)).requires_grad
    assert asked == [12, 12]


def test_a_compiler_that_fails_is_left_alone(monkeypatch, caplog):
    tried = []

    def pretend(_, **__):
        def fail(*_):
            tried.append(1)
            raise TorchDynamoException("no compiler here\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", pretend)
    plain = parts_of(config_of())[1](*draw_batch())
    step = CompiledStep(parts_of(config_of())[1], 12)
    assert torch.equal(step(*draw_batch()), plain)
    step(*draw_batch())
    assert len(tried) == 1
    assert "trainer.compile" in caplog.text


def test_an_error_of_the_step_itself_is_not_the_compilers(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    step = CompiledStep(parts_of(config_of())[1], 12)
    text, experts, available = draw_batch()
    with pytest.raises(RuntimeError):
        step(text[..., :7], experts, available)


@pytest.mark.slow  # half a minute
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_the_compiler_takes_the_whole_step_as_one(monkeypatch):
    """A graph break would leave parts of the step to Python, and more kernels to launch."""
    whole = partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    losses, models = [], []
    for compiled in (False, True):
        model, step, _ = parts_of(config_of())
        loss = (CompiledStep(step, 12) if compiled else step)(*draw_batch())
        loss.backward()
        losses.append(loss.item())
        models.append(model)
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5)
    for one, other in zip(models[0].buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(other, one)


@pytest.mark.gpu
class TestOnAGpu:
    device = torch.device("cuda", 0)

    @pytest.fixture(autouse=True)
    def exact_products(self):
        set_precision("fp32")

    @pytest.mark.parametrize("changes", [{}, {"compile": True}])
    @pytest.mark.filterwarnings("default")  # the compiler's own
    def test_a_step_is_that_of_the_cpu(self, changes):
        for device, keys in ((CPU, {}), (self.device, changes)):
            model, step, _ = parts_of(config_of(**keys), device)
            loss = step(*draw_batch(device=device))
            loss.backward()
            if device == CPU:
                expected, twin = loss.item(), model
        assert loss.item() == pytest.approx(expected, abs=1e-5)
        for name, parameter in model.named_parameters():
            wanted = twin.get_parameter(name).grad
            allowed = max(1e-3 * float(wanted.abs().max()), 1e-5)
            torch.testing.assert_close(parameter.grad.cpu(), wanted, rtol=0, atol=allowed, msg=name)
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(buffer.cpu(), twin.get_buffer(name), rtol=1e-4, atol=1e-5)

    def test_ranger_takes_the_steps_of_the_cpu(self):
        found = []
        for device in (CPU, self.device):
            draw = torch.Generator().manual_seed(0)
            weights = [nn.Parameter(torch.randn(n, 3, generator=draw).to(device)) for n in (2, 5)]
            optimizer = Ranger(weights, lr=0.01, weight_decay=1e-3)
            for _ in range(14):  # past two Lookahead steps
                for weight in weights:
                    weight.grad = torch.randn(weight.shape, generator=draw).to(device)
                optimizer.step()
            found.append([weight.detach().cpu() for weight in weights])
        torch.testing.assert_close(*found, rtol=0, atol=1e-6)

    def test_the_evaluator_scores_as_on_the_cpu(self):
        torch.manual_seed(0)
        model = build_model(config_of())
        text, experts, available = draw_batch(captions=3)
        names = [f"clip {number}" for number in range(len(text))]
        data = EvaluationData(text, experts, available, torch.ones(len(text), 3), names)
        expected = evaluate(model, data, device=CPU)
        found = evaluate(model.to(self.device), data, device=self.device)
        np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-5)

    @pytest.mark.parametrize("changes", [{"cuda_graphs": True}, {"compile": True}])
    @pytest.mark.filterwarnings("default")  # the compiler's own
    def test_many_replayed_steps_are_the_plain_ones(self, changes):
        """The first loss tells the code apart; at this learning rate each step enlarges rounding.

        Compiled code alone adds up in another order.
        """
        steps = READ_LOSSES_EVERY + 5
        expected, _ = train(config_of(cuda_graphs=False), steps, self.device)
        found, _ = train(config_of(**changes), steps, self.device)
        early = 2e-3 if "compile" in changes else 1e-4
        assert found[0] == pytest.approx(expected[0], abs=1e-5)
        assert found[:5] == pytest.approx(expected[:5], abs=early)
        assert found == pytest.approx(expected, abs=0.02)

    @pytest.mark.parametrize("changes", [{"cuda_graphs": True}, {"compile": True}])
    @pytest.mark.filterwarnings("default")  # the compiler's own
    def test_replayed_steps_at_a_small_rate_are_the_plain_ones(self, changes):
        losses = []
        for keys in ({"cuda_graphs": False}, changes):
            config = load_config(
                CE,
                SMALL
                | {"optimizer.args.lr": 1e-5}
                | {f"trainer.{key}": value for key, value in keys.items()},
            )
            losses.append(train(config, 15, self.device)[0])
        assert losses[1] == pytest.approx(losses[0], abs=1e-5)
        assert losses[0][-1] < losses[0][0]

    def test_bfloat16_trains(self):
        losses, _ = train(config_of(precision="bf16"), 15, self.device)
        assert losses[-1] < losses[0] / 2


class Seen(nn.Module):
    """A loss that keeps which pairs match."""

    def forward(self, sims, same):
        self.same = same
        return sims.sum()


def test_captions_that_are_equal_or_of_one_clip_match():
    config = config_of()
    loss = Seen()
    step = build_step(config, build_model(config), loss)
    text, experts, available = draw_batch(clips=5)
    text[3] = text[1]
    step(text, experts, available, torch.tensor([7, 8, 9, 6, 7]))
    found = {(i, j) for i, j in loss.same.nonzero().tolist() if i < j}
    assert found == {(1, 3), (0, 4)}
