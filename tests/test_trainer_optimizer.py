"""Ranger and RAdam: by hand, against plain numbers, properties, and the recorded trajectories."""

import io
import math

import numpy as np
import pytest
import torch

from golden import build_recorded_model, load_case, published_state
from model.loss import MaxMarginRankingLoss
from small_runs import same
from trainer.optimizer import OPTIMIZERS, Cosine, RAdam, Ranger, build_scheduler
from utils.declared import Part


class SlowRanger:
    """The update of one number in float64, line by line; k = 0 leaves Lookahead out."""

    def __init__(self, value, lr, *, betas, eps, decay=0.0, k=0, alpha=0.5, threshold=None):
        self.p, self.slow, self.m, self.v, self.t = value, value, 0.0, 0.0, 0
        self.lr, self.betas, self.eps, self.decay = lr, betas, eps, decay
        self.k, self.alpha, self.threshold = k, alpha, threshold

    def step(self, g):
        b1, b2 = self.betas
        self.t += 1
        t = self.t
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        longest = 2 / (1 - b2) - 1
        rho = longest - 2 * t * b2**t / (1 - b2**t)
        self.p -= self.lr * self.decay * self.p
        if rho >= 5 if self.threshold is None else rho > self.threshold:
            step = (1 - b2**t) * (rho - 4) / (longest - 4) * (rho - 2) / rho
            step = math.sqrt(step * longest / (longest - 2)) / (1 - b1**t)
            self.p -= self.lr * step * self.m / (math.sqrt(self.v) + self.eps)
        else:
            self.p -= self.lr / (1 - b1**t) * self.m
        if self.k and t % self.k == 0:
            self.slow += self.alpha * (self.p - self.slow)
            self.p = self.slow


def take_steps(optimizer, parameters, gradients):
    """Set gradients (steps, parameters) and step; return the values after each step."""
    path = []
    for row in gradients:
        for parameter, gradient in zip(parameters, row, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        optimizer.step()
        path.append([p.detach().clone() for p in parameters])
        assert same([parameter.grad for parameter in parameters], list(row))  # it only reads them
    return path


def draw(shapes, steps, seed=0):
    torch.manual_seed(seed)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    return parameters, [[torch.randn(shape) for shape in shapes] for _ in range(steps)]


def test_first_steps_by_hand():
    p = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = Ranger([p], lr=0.1, weight_decay=0.5, k=2, alpha=0.25)
    take_steps(optimizer, [p], [[torch.tensor([2.0])]])
    assert p.item() == pytest.approx(0.75)  # decay to .95, then .1 * 2: no adaptive step yet
    take_steps(optimizer, [p], [[torch.tensor([2.0])]])
    # decay to .7125, step .1 * 2 to .5125; Lookahead: 1 + .25 * (.5125 - 1)
    assert p.item() == pytest.approx(0.878125)
    assert optimizer.state[p]["slow_buffer"].item() == p.item()


@pytest.mark.parametrize("kind", ["Ranger", "RAdam"])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_equals_plain_numbers(kind, decay):
    (p,), gradients = draw([(4,)], 40)
    gradients[7][0][2] = 0.0
    start = p.tolist()
    own = {"betas": (0.95, 0.999), "eps": 1e-5, "k": 6, "threshold": 5}
    if kind == "RAdam":
        own = {"betas": (0.9, 0.999), "eps": 1e-8}
    slow = [SlowRanger(value, 0.01, decay=decay, **own) for value in start]
    optimizer = OPTIMIZERS[kind]([p], lr=0.01, weight_decay=decay)
    for row, (value,) in zip(gradients, take_steps(optimizer, [p], gradients), strict=True):
        for one, gradient in zip(slow, row[0].tolist(), strict=True):
            one.step(gradient)
        np.testing.assert_allclose(value.numpy(), [one.p for one in slow], rtol=0, atol=3e-6)


def test_a_parameter_without_gradient_is_left_alone():
    parameters, gradients = draw([(3,), (2, 2)], 10)
    before = parameters[1].detach().clone()
    without = [[row[0], None] for row in gradients]
    optimizer = Ranger(parameters, lr=0.1, weight_decay=0.5)
    take_steps(optimizer, parameters, without)
    assert torch.equal(parameters[1], before)
    assert parameters[1] not in optimizer.state
    # Its own steps are counted from its first gradient, whatever the others did.
    late = take_steps(optimizer, parameters, gradients)
    (alone,), _ = draw([(2, 2)], 1)
    alone.data.copy_(before)
    path = take_steps(
        Ranger([alone], lr=0.1, weight_decay=0.5), [alone], [[row[1]] for row in gradients]
    )
    for (_, value), (expected,) in zip(late, path, strict=True):
        torch.testing.assert_close(value, expected)


def test_lookahead_of_the_whole_way_is_none():
    (fast, gradients), (others, _) = draw([(5, 5)], 14), draw([(5, 5)], 14)
    plain = RAdam(others, lr=0.1, betas=(0.95, 0.999), eps=1e-5)
    torch.testing.assert_close(
        take_steps(Ranger(fast, lr=0.1, alpha=1.0), fast, gradients),
        take_steps(plain, others, gradients),
    )


@pytest.mark.parametrize("kind", ["Ranger", "RAdam"])
def test_state_dict_continues_exactly(kind):
    shapes = [(4, 3), (7,)]
    parameters, gradients = draw(shapes, 20)
    optimizer = OPTIMIZERS[kind](parameters, lr=0.1, weight_decay=0.01)
    take_steps(optimizer, parameters, gradients[:8])
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), [p.detach() for p in parameters]], file)
    expected = take_steps(optimizer, parameters, gradients[8:])
    file.seek(0)
    state, values = torch.load(file, weights_only=True)
    again = [torch.nn.Parameter(value) for value in values]
    other = OPTIMIZERS[kind](again, lr=77.0)
    other.load_state_dict(state)
    continued = take_steps(other, again, gradients[8:])
    assert same(continued, expected)
    assert same(other.state_dict(), optimizer.state_dict())


def test_closure_is_called_with_gradients_on():
    p = torch.nn.Parameter(torch.tensor([3.0]))

    def closure():
        loss = (p**2).sum()
        loss.backward()
        return loss.item()

    assert RAdam([p], lr=0.1).step(closure) == 9.0
    assert p.item() == pytest.approx(3 - 0.1 * 6)


def test_groups_have_settings_of_their_own():
    parameters, gradients = draw([(3,), (3,)], 7)
    first = parameters[0].detach().clone()
    groups = [{"params": parameters[:1], "lr": 0.0, "k": 2}, {"params": parameters[1:]}]
    optimizer = Ranger(groups, lr=0.1)
    take_steps(optimizer, parameters, gradients)
    torch.testing.assert_close(parameters[0].detach(), first, rtol=0, atol=0)
    assert [group["k"] for group in optimizer.param_groups] == [2, 6]


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        *(("lr", -1.0), ("eps", -1.0), ("weight_decay", -1.0), ("betas", (1.0, 0.9))),
        *(("alpha", 1.5), ("k", 0)),
    ],
)
def test_wrong_settings_are_errors(key, wrong):
    with pytest.raises(ValueError, match=f"{key}: found"):
        Ranger([torch.nn.Parameter(torch.zeros(1))], **{key: wrong})


RECORDED = ["ranger_default", "ranger_float64", "ranger_nowd_k3", "radam_default", "radam_betas"]


@pytest.mark.parametrize("name", RECORDED)
def test_repeats_the_published_trajectory(name):
    case, arrays = load_case(name)
    dtype = getattr(torch, case["dtype"].removeprefix("torch."))
    names = ("W", "b", "late")
    parameters = [torch.nn.Parameter(torch.tensor(arrays[f"{n}0"], dtype=dtype)) for n in names]
    optimizer = OPTIMIZERS[case["class"]](parameters, **case["kwargs"])
    scheduler = build_scheduler(Part("StepLR", {"step_size": 1, "gamma": 0.95}), optimizer)
    for t in range(30):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(arrays["traj/lr"][t], abs=1e-12)
        rows = [arrays[f"traj/g{n}"][t] for n in names]
        given = [None if np.isnan(r).any() else torch.tensor(r, dtype=dtype) for r in rows]
        (values,) = take_steps(optimizer, parameters, [given])
        for n, value in zip(names, values, strict=True):
            np.testing.assert_allclose(value.numpy(), arrays[f"traj/{n}"][t], rtol=0, atol=1e-6)
        if (t + 1) % 10 == 0:
            scheduler.step()
    for i, parameter in enumerate(parameters):
        state = optimizer.state[parameter]
        assert {f"state/{i}/{key}" for key in state} == {
            key for key in arrays if key.startswith(f"state/{i}/")
        }
        for key, value in state.items():
            recorded = arrays[f"state/{i}/{key}"]
            np.testing.assert_allclose(
                torch.as_tensor(value).numpy(), recorded, rtol=1e-6, atol=1e-6
            )
            assert torch.as_tensor(value).numpy().dtype == recorded.dtype


@pytest.mark.parametrize("name", ["traj_ce2", "traj_moee2"])
def test_repeats_the_published_training(name):
    case, arrays = load_case(name)
    model = build_recorded_model(case["constructor"], published_state(arrays)).train()
    optimizer = Ranger(model.parameters(), lr=0.01, weight_decay=1e-3)
    scheduler = build_scheduler(Part("StepLR", {"step_size": 1, "gamma": 0.95}), optimizer)
    loss_of = MaxMarginRankingLoss(case["loss"]["margin"], case["loss"]["fix_norm"])
    losses = []
    for t in range(case["steps"]):
        batch = f"batch{t % case['batches']}"
        experts = {n: torch.from_numpy(arrays[f"{batch}/experts/{n}"]) for n in model.names}
        available = {n: torch.from_numpy(arrays[f"{batch}/ind/{n}"]) for n in model.names}
        loss = loss_of(model(torch.from_numpy(arrays[f"{batch}/text"]), experts, available))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if (t + 1) % case["batches"] == 0:
            scheduler.step()
    np.testing.assert_allclose(losses[:3], arrays["losses"][:3], rtol=0, atol=1e-6)
    np.testing.assert_allclose(losses, arrays["losses"], rtol=0, atol=1e-4)


def test_the_cosine_rises_then_falls_to_nothing():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    assert build_scheduler(None, optimizer) is None
    schedule, rates = Cosine(optimizer, epochs=6, warm_up=2), []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    half = 0.5**0.5
    expected = [2 / 3, 4 / 3, 2, 1 + half, 1, 1 - half, 0]
    assert rates == pytest.approx(expected)
