"""Checkpoints: written whole, read as they were, restored by names, or refused."""

import copy
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from misc.soak import differences
from model import build_model
from small_runs import CE, SINGLE
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


def snapshot(model, optimiser, **changes):
    values = {
        "epoch": 3,
        "config": {"seed": 1},
        "state_dict": model.published_state_dict(),
        "optimizer": optimiser.state_dict(),
        "monitor_best": 12.5,
        "progress": {"epoch": 3, "losses": [0.25]},
    }
    return Checkpoint(**{**values, **changes})


@pytest.mark.parametrize("links", [True, False])
def test_two_names_for_one_state(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_, **__):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    source, last = tmp_path / "trained_model.pth", tmp_path / "last.pth"
    snapshot(*build(), epoch=1).write(last)
    snapshot(*build(), epoch=2).write(source)
    share_file(source, last, keep_previous=True)
    assert [load_checkpoint(p).epoch for p in (last, previous_of(last), source)] == [2, 1, 2]
    assert (last.stat().st_ino == source.stat().st_ino) == links
    snapshot(*build(), epoch=3).write(last)  # replaces one name, does not change the other
    assert load_checkpoint(source).epoch == 2
    assert not list(tmp_path.glob(".*"))


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    snapshot(*build()).write(path)
    before = path.read_bytes()

    class Full:
        def __init__(self, file):
            self.file, self.left = file, 5000

        def write(self, data):
            self.left -= len(memoryview(data).cast("B"))
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def flush(self):
            self.file.flush()

    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: save(content, Full(file)))
    with pytest.raises(OSError, match="No space left") as raised:  # not torch's RuntimeError
        snapshot(*build(), epoch=9).write(path, keep_previous=True)
    assert raised.value.filename == str(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pth"]


# What is no checkpoint of ours


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 1}, "no state_dict"),
        ({"state_dict": {}}, "no state_dict"),
        ({"state_dict": {"a": 1}}, "'a' of its state_dict is not a named tensor"),
        ({"state_dict": {1: torch.ones(1)}}, "1 of its state_dict"),
        ({"state_dict": {"a": torch.tensor([torch.inf])}}, "'a' hold NaN or infinite"),
        ({"state_dict": {"a": torch.ones(1)}, "epoch": "x"}, "epoch is 'x'"),
        ({"state_dict": {"a": torch.ones(1)}, "epoch": -1}, "epoch is -1"),
        ({"state_dict": {"a": torch.ones(1)}, "epoch": True}, "epoch is True"),
        (
            {"state_dict": {"a": torch.ones(1)}, "format": FORMAT, "progress": [1]},
            r"progress is \[1\]",
        ),
    ],
)
def test_no_checkpoint(tmp_path, content, words):
    path = tmp_path / "x.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=words) as raised:
        load_checkpoint(path)
    assert str(path) in str(raised.value)


def test_damage_is_noticed(tmp_path):
    path = tmp_path / "x.pth"
    model, optimiser = build(steps=1)
    snapshot(model, optimiser).write(path)
    content = path.read_bytes()
    weights = next(model.parameters()).detach().numpy().tobytes()
    for damaged in (
        content.replace(weights, bytes([weights[0] ^ 1]) + weights[1:]),  # one bit
        *(content[: len(content) * part // 10] for part in range(10)),
    ):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


@pytest.mark.parametrize("best", [float("nan"), float("-inf"), 10**400, "x"])
def test_a_best_value_that_is_none(tmp_path, best):
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {"a": torch.ones(1)}, "monitor_best": best}, path)
    assert load_checkpoint(path).monitor_best is None


@pytest.mark.parametrize("state", [None, {"_config": 5}, {"other": {}}])
def test_a_pickled_object_that_holds_no_configuration(tmp_path, monkeypatch, state):
    content = {"state_dict": {"a": torch.ones(1)}, "config": Opaque("x.ConfigParser", state=state)}
    monkeypatch.setattr("trainer.checkpoint.read_torch_checkpoint", lambda _: content)
    (tmp_path / "x.pth").touch()
    assert load_checkpoint(tmp_path / "x.pth").config is None


def test_an_epoch_that_is_nested_too_deeply_to_be_shown(tmp_path, monkeypatch):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    content = {"state_dict": {"a": torch.ones(1)}, "epoch": deep}
    monkeypatch.setattr("trainer.checkpoint.read_torch_checkpoint", lambda _: content)
    (tmp_path / "x.pth").touch()
    with pytest.raises(CheckpointError, match="its epoch is"):
        load_checkpoint(tmp_path / "x.pth")


def test_progress_is_taken_from_our_own_files_alone(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {"a": torch.ones(1)}, "progress": {"epoch": 1}}, path)
    assert load_checkpoint(path).progress is None


# Optimisers


@pytest.mark.parametrize("kind", ["Ranger", "RAdam", "Adam", "AdamW"])
def test_an_optimiser_is_restored(tmp_path, kind):
    model, optimiser = build(CE, steps=3, optimizer=kind)
    optimiser.param_groups[0]["lr"] = 0.003
    snapshot(model, optimiser).write(tmp_path / "x.pth")
    other, fresh = build(CE, optimizer=kind)
    restore_optimizer(fresh, other, load_checkpoint(tmp_path / "x.pth"))
    assert not differences(fresh.state_dict(), optimiser.state_dict(), "optimizer")


def test_an_optimiser_is_matched_by_the_order_of_the_files_own_names(tmp_path):
    """Released files list experts in another order: index i is the i-th name of that file."""
    model, optimiser = build(CE, steps=2)
    state = model.published_state_dict()
    learnt = [model.published_name(name) for name, _ in model.named_parameters()]
    names = [*reversed(learnt), *(name for name in state if name not in learnt)]
    stored = optimiser.state_dict()
    moments = {i: stored["state"][len(learnt) - 1 - i] for i in range(len(learnt))}
    turned = {"state": moments, "param_groups": stored["param_groups"]}
    shuffled = {name: state[name] for name in names}
    snapshot(model, optimiser, state_dict=shuffled, optimizer=turned).write(tmp_path / "x.pth")
    other, fresh = build(CE)
    restore_optimizer(fresh, other, load_checkpoint(tmp_path / "x.pth"))
    for i, moment in stored["state"].items():
        assert not differences(fresh.state_dict()["state"][i], moment, str(i))


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
        assert not differences(dict(mine), theirs, name)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()


def test_an_optimiser_that_does_not_fit(tmp_path):
    model, optimiser = build(steps=1)
    snapshot(model, optimiser).write(tmp_path / "x.pth")
    good = load_checkpoint(tmp_path / "x.pth")
    first = {**good.optimizer["state"][0], "exp_avg": torch.zeros(2, 2)}
    bad = [
        ({"state": {**good.optimizer["state"], 0: first}}, r"exp_avg of .* is \(2, 2\), expected"),
        ({"param_groups": []}, "does not fit Ranger"),
        ({"param_groups": [{"params": [0, 999]}]}, "does not fit"),
        ({"state": 3}, "does not fit"),
    ]
    for change, words in bad:
        checkpoint = replace(good, optimizer={**good.optimizer, **change})
        with pytest.raises(CheckpointError, match=words):
            restore_optimizer(build()[1], model, checkpoint)
    with pytest.raises(CheckpointError, match="no optimiser state"):
        restore_optimizer(optimiser, model, replace(good, optimizer=None))


NAN, HUGE = float("nan"), 10**400


@pytest.mark.parametrize("kind", ["Ranger", "Adam"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("lr", wrong) for wrong in ("x", -1, NAN, HUGE, None)),
        *(("betas", wrong) for wrong in (5, (0.9,), (0.9, 1.0), ("a", "b"))),
        *(("eps", wrong) for wrong in (0, "x")),
        *(("weight_decay", wrong) for wrong in (-1.0, "x")),
    ],
)
def test_settings_that_no_optimiser_has(tmp_path, kind, key, value):
    model, optimiser = build(steps=1, optimizer=kind)
    stored = optimiser.state_dict()
    stored["param_groups"][0][key] = value
    snapshot(model, optimiser, optimizer=stored).write(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=rf"x\.pth: .*{key}: found"):
        restore_optimizer(optimiser, model, load_checkpoint(tmp_path / "x.pth"))


def of(key, change):
    """Change an entry of the state of the first parameter."""
    return lambda stored: stored["state"][0].update({key: change(stored["state"][0][key])})


def group(**values):
    return lambda stored: stored["param_groups"][0].update(values)


SPOILT = [
    *((group(k=wrong), "k: found") for wrong in (0, "x", None)),
    (group(alpha=2), "alpha: found"),
    *((group(params=wrong), "does not fit") for wrong in ([0, -1], [1, 1], ["a"], [None, 0])),
    (lambda stored: stored["param_groups"][0].pop("k"), "'k' is missing"),
    *(
        (of("step", lambda _, wrong=wrong: wrong), "step of .* is ")
        for wrong in ("x", NAN, -5, 1.5, None, True, torch.ones(2))
    ),
    *(
        (of("exp_avg", lambda _, wrong=wrong: wrong), "exp_avg of .* is ")
        for wrong in ("x", None, 0.5)
    ),
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
    assert not differences(fresh.state_dict(), before, "optimizer")


def test_the_state_of_another_optimiser():
    model, optimiser = build(steps=1, optimizer="RAdam")
    checkpoint = in_memory(model, optimiser.state_dict())
    with pytest.raises(CheckpointError, match="does not fit Ranger: 'alpha' is missing"):
        restore_optimizer(build()[1], model, checkpoint)


def in_memory(model, stored):
    return Checkpoint(3, None, model.published_state_dict(), stored, path=Path("memory.pth"))


def test_weights_of_another_architecture_are_told_with_both_files():
    model, _ = build()
    other, optimiser = build(CE)
    checkpoint = in_memory(other, optimiser.state_dict())
    with pytest.raises(
        CheckpointError, match=r"(?s)^memory\.pth does not fit a/b\.json: .*unknown"
    ):
        load_weights(model, checkpoint, "a/b.json")


def test_the_form_of_another_version_is_refused(tmp_path):
    snapshot(*build()).write(tmp_path / "last.pth")
    content = torch.load(tmp_path / "last.pth", weights_only=True)
    torch.save(content | {"format": "audio-retrieval 99"}, tmp_path / "last.pth")
    with pytest.raises(CheckpointError, match=r"another version .*'audio-retrieval 99'"):
        load_checkpoint(tmp_path / "last.pth")


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
def test_other_weights_are_named_shortly(tmp_path, change, problem):
    model, optimiser = build()
    snapshot(model, optimiser, state_dict=change(model.published_state_dict())).write(
        tmp_path / "x.pth"
    )
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_weights(model, load_checkpoint(tmp_path / "x.pth"))
    assert max(map(len, str(caught.value).splitlines())) < 800
    assert "\x1b" not in str(caught.value)


def test_half_precision_is_taken(tmp_path):
    model, optimiser = build()
    state = {k: v.half() if v.is_floating_point() else v
             for k, v in model.published_state_dict().items()}  # fmt: skip
    snapshot(model, optimiser, state_dict=state).write(tmp_path / "x.pth")
    load_weights(model, load_checkpoint(tmp_path / "x.pth"))
    name, weights = next(iter(state.items()))
    assert torch.equal(model.published_state_dict()[name], weights.float())


def test_a_tensor_without_numbers_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(2, device="meta")}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="without numbers"):
        load_checkpoint(tmp_path / "x.pth")
