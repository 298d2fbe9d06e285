"""Checkpoints: written whole, read as they were, restored by names, or refused."""

import copy
import errno
import functools
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import build_model
from small_runs import CE, SINGLE, same
from trainer.checkpoint import (
    FORMAT,
    Checkpoint,
    load_checkpoint,
    load_weights,
    previous_of,
    share_file,
)
from trainer.optimizer import build_optimizer
from trainer.optimizer_state import restore_optimizer
from utils.config import load_config
from utils.errors import CheckpointError
from utils.files import read_json
from utils.reading.checkpoints import Opaque

PUBLISHED = Path(__file__).parent / "data" / "published_ckpt"
SMALL = {
    "experts.ce_shared_dim": 4,
    "arch.args.vlad_clusters": {"text": 1, "audio": 1, "vggsound": 1},
}


def build(base=SINGLE, *, steps=0, optimizer="Ranger"):
    """A small model, and its optimiser after some steps."""
    torch.manual_seed(0)
    config = load_config(base, SMALL | {"optimizer.type": optimizer})
    model = build_model(config)
    optimiser = build_optimizer(config.optimizer, model.parameters())
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimiser.step()
    return model, optimiser


def state_of_epoch(epoch):
    return Checkpoint(epoch, None, {"a": torch.ones(1)})


@pytest.mark.parametrize("links", [True, False])
def test_two_names_for_one_state(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_, **__):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    source, last = tmp_path / "trained_model.pth", tmp_path / "last.pth"
    state_of_epoch(1).write(last)
    state_of_epoch(2).write(source)
    share_file(source, last, keep_previous=True)
    assert [load_checkpoint(p).epoch for p in (last, previous_of(last), source)] == [2, 1, 2]
    assert (last.stat().st_ino == source.stat().st_ino) == links
    state_of_epoch(3).write(last)  # replaces one name, does not change the other
    assert load_checkpoint(source).epoch == 2
    assert not list(tmp_path.glob(".*"))


# What is no checkpoint of ours


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Load x.pth as if the file held this."""

    def load(content):
        monkeypatch.setattr("trainer.checkpoint.read_torch_checkpoint", lambda _: content)
        (tmp_path / "x.pth").touch()
        return load_checkpoint(tmp_path / "x.pth")

    return load


WEIGHTS = {"state_dict": {"a": torch.ones(1)}}
OURS = WEIGHTS | {"format": FORMAT}
DEEP = functools.reduce(lambda inner, _: [inner], range(100_000), [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 1}, "no state_dict"),
        ({"state_dict": {}}, "no state_dict"),
        ({"state_dict": {"a": 1}}, "'a' of its state_dict is not a named tensor"),
        ({"state_dict": {1: torch.ones(1)}}, "1 of its state_dict"),
        ({"state_dict": {"a": torch.tensor([torch.inf])}}, "'a' hold NaN or infinite"),
        *((WEIGHTS | {"epoch": wrong}, f"epoch is {wrong!r}") for wrong in ("x", -1, True)),
        (WEIGHTS | {"epoch": DEEP}, "its epoch is"),
        (WEIGHTS | {"format": "audio-retrieval 99"}, "another version .*'audio-retrieval 99'"),
        (OURS | {"progress": [1]}, r"progress is \[1\]"),
        (OURS | {"loss": 5}, "loss is 5"),
        (OURS | {"loss": {"scale": 3.0}}, "'scale' of its loss"),
        (OURS | {"loss": {"scale": torch.tensor(torch.nan)}}, "'scale' hold NaN"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_checkpoint(read, content, words):
    with pytest.raises(CheckpointError, match=rf"x\.pth.*{words}"):
        read(content)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("monitor_best", wrong) for wrong in (float("nan"), float("-inf"), 10**400, "x")),
        *(
            ("config", Opaque("x.ConfigParser", state=wrong))
            for wrong in (None, {"_config": 5}, {"other": {}})
        ),
        ("progress", {"epoch": 1}),
    ],
)
def test_what_else_a_foreign_file_holds_is_left_out(read, key, value):
    assert getattr(read(WEIGHTS | {key: value}), key) is None


# Optimisers


@pytest.mark.parametrize("kind", ["Ranger", "RAdam", "Adam", "AdamW"])
def test_an_optimiser_is_restored(kind):
    model, optimiser = build(CE, steps=3, optimizer=kind)
    optimiser.param_groups[0]["lr"] = 0.003
    other, fresh = build(CE, optimizer=kind)
    restore_optimizer(fresh, other, in_memory(model, optimiser.state_dict()))
    assert same(fresh.state_dict(), optimiser.state_dict())


def test_an_optimiser_is_matched_by_the_order_of_the_files_own_names():
    """Released files list experts in another order: index i is the i-th name of that file."""
    model, optimiser = build(CE, steps=2)
    state = model.published_state_dict()
    learnt = [model.published_name(name) for name, _ in model.named_parameters()]
    names = [*reversed(learnt), *(name for name in state if name not in learnt)]
    stored = optimiser.state_dict()
    moments = {i: stored["state"][len(learnt) - 1 - i] for i in range(len(learnt))}
    turned = {"state": moments, "param_groups": stored["param_groups"]}
    shuffled = {name: state[name] for name in names}
    other, fresh = build(CE)
    restore_optimizer(fresh, other, in_memory(model, turned, state_dict=shuffled))
    assert same(dict(sorted(fresh.state_dict()["state"].items())), stored["state"])


def test_a_released_file_is_restored_with_its_optimiser():
    """Its moments belong to the parameters of the same names: their shapes say so."""
    checkpoint = load_checkpoint(PUBLISHED / "trained_model.pth")
    assert (checkpoint.epoch, checkpoint.progress) == (6, None)
    beside = read_json(PUBLISHED / "config.json")
    assert {key: checkpoint.config[key] for key in ("arch", "experts", "optimizer")} == {
        key: beside[key] for key in ("arch", "experts", "optimizer")
    }
    config = load_config(PUBLISHED / "config.json")
    model = build_model(config)
    optimiser = build_optimizer(config.optimizer, model.parameters())
    model.load_published(checkpoint.state_dict)
    restore_optimizer(optimiser, model, checkpoint)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.01 * 0.95**6)
    names = [model.published_name(name) for name, _ in model.named_parameters()]
    stored = [
        name for name in checkpoint.state_dict if "running" not in name and "num_" not in name
    ]
    assert sorted(names) == sorted(stored)
    for name, parameter in zip(names, model.parameters(), strict=True):
        mine = optimiser.state[parameter]
        theirs = checkpoint.optimizer["state"].get(stored.index(name), {})
        assert same(dict(mine), theirs), name
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()


NAN, HUGE = float("nan"), 10**400


def of(key, change):
    """Change an entry of the state of the first parameter."""
    return lambda stored: stored["state"][0].update({key: change(stored["state"][0][key])})


def group(**values):
    return lambda stored: stored["param_groups"][0].update(values)


SPOILT = [
    *((group(lr=wrong), "lr: found") for wrong in ("x", -1, NAN, HUGE, None)),
    *((group(betas=wrong), "betas: found") for wrong in (5, (0.9,), (0.9, 1.0), ("a", "b"))),
    *((group(eps=wrong), "eps: found") for wrong in (0, "x")),
    *((group(weight_decay=wrong), "weight_decay: found") for wrong in (-1.0, "x")),
    (lambda stored: stored.update(param_groups=[]), "does not fit Ranger"),
    (lambda stored: stored.update(state=3), "does not fit"),
    *((group(k=wrong), "k: found") for wrong in (0, "x", None)),
    (group(alpha=2), "alpha: found"),
    *((group(params=wrong), "does not fit") for wrong in ([0, 99], [1, 1], ["a"], [None, 0])),
    (lambda stored: stored["param_groups"][0].pop("k"), "'k' is missing"),
    *(
        (of("step", lambda _, wrong=wrong: wrong), "step of .* is ")
        for wrong in ("x", NAN, -5, 1.5, None, True, torch.ones(2))
    ),
    *(
        (of("exp_avg", lambda _, wrong=wrong: wrong), "exp_avg of .* is ")
        for wrong in ("x", None, 0.5)
    ),
    (of("exp_avg", lambda _: torch.zeros(2, 2)), r"exp_avg of .* is \(2, 2\), expected"),
    (of("exp_avg", lambda moments: moments.long()), "exp_avg of .*floating-point"),
    (of("exp_avg", lambda moments: moments * NAN), "exp_avg of .*NaN or infinite"),
    (of("slow_buffer", lambda moments: moments / 0), "slow_buffer of .*NaN or infinite"),
    (of("exp_avg_sq", lambda moments: moments - 100), "exp_avg_sq of .*negative"),
    *(
        (lambda stored, key=key: stored["state"][0].pop(key), rf"it keeps .*expected .*'{key}'")
        for key in ("step", "exp_avg", "slow_buffer")
    ),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILT)
def test_a_state_that_no_training_leaves(spoil, words):
    """Restoring a spoilt copy of Ranger's state is refused; the optimiser stays as it was."""
    model, optimiser = build(steps=1)
    stored = copy.deepcopy(optimiser.state_dict())
    spoil(stored)
    _, fresh = build()
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(CheckpointError, match=words) as raised:
        restore_optimizer(fresh, model, in_memory(model, stored))
    assert str(raised.value).startswith("memory.pth: ")
    assert "--finetune" in str(raised.value)
    assert same(fresh.state_dict(), before)


def test_the_state_of_another_optimiser():
    model, optimiser = build(steps=1, optimizer="RAdam")
    checkpoint = in_memory(model, optimiser.state_dict())
    with pytest.raises(CheckpointError, match="does not fit Ranger: 'alpha' is missing"):
        restore_optimizer(build()[1], model, checkpoint)


def in_memory(model, stored, **changes):
    checkpoint = Checkpoint(3, None, model.published_state_dict(), stored, path=Path("memory.pth"))
    return replace(checkpoint, **changes)


def test_weights_of_another_architecture_are_told_with_both_files():
    model, _ = build()
    other, optimiser = build(CE)
    checkpoint = in_memory(other, optimiser.state_dict())
    with pytest.raises(
        CheckpointError, match=r"(?s)^memory\.pth does not fit a/b\.json: .*unknown"
    ):
        load_weights(model, checkpoint, "a/b.json")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda state: {key: (100 * value).long() for key, value in state.items()},
            "whole numbers",
        ),
        (lambda state: state | {"x" * 1000 + "\x1b[2J": torch.zeros(1)}, "1 unknown: x"),
    ],
)
def test_other_weights_are_named_shortly(change, problem):
    model, _ = build()
    checkpoint = in_memory(model, None, state_dict=change(model.published_state_dict()))
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_weights(model, checkpoint)
    assert max(map(len, str(caught.value).splitlines())) < 800
    assert "\x1b" not in str(caught.value)


def test_half_precision_is_taken():
    model, _ = build()
    state = model.published_state_dict()
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    load_weights(model, in_memory(model, None, state_dict=halves))
    name, weights = next(iter(halves.items()))
    assert torch.equal(model.published_state_dict()[name], weights.float())


def test_a_tensor_without_numbers_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(2, device="meta")}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="without numbers"):
        load_checkpoint(tmp_path / "x.pth")
