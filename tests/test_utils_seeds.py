"""Chance: the same seed draws the same, and a stored state goes on where it was."""

import random

import numpy as np
import pytest
import torch

from utils.seeds import random_state, restore_random_state, seed_everything


def draw():
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),  # the second of a pair waits in the generator
        torch.rand(3).tolist(),
    ]


def test_a_seed_decides_everything():
    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
    seed_everything(6)
    assert draw() != first


def test_a_state_goes_on_where_it_was(tmp_path):
    seed_everything(5)
    draw()
    state = random_state()
    torch.save(state, tmp_path / "state")
    following = [draw() for _ in range(3)]
    seed_everything(9)
    restore_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert [draw() for _ in range(3)] == following
    restore_random_state(state)  # drawing did not change it
    assert [draw() for _ in range(3)] == following


@pytest.mark.parametrize(("in_use", "restored"), [(True, [0]), (False, [])])
def test_states_of_gpus_that_are_not_here_or_not_in_use(monkeypatch, in_use, restored):
    set_states = []
    state = random_state() | {"cuda": [torch.ones(2)] * 3}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: in_use)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda _, device: set_states.append(device))
    restore_random_state(state)
    assert set_states == restored


def test_gpus_that_are_not_in_use_are_not_asked(monkeypatch):
    def wake():
        raise AssertionError("a device was woken")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", wake)
    assert random_state()["cuda"] == []


@pytest.mark.parametrize(("words", "position"), [(624, -1), (624, 625), (900, 800), (3, 2)])
def test_a_state_that_numpy_would_read_beyond(words, position):
    state = random_state()
    name, _, _, *gauss = state["numpy"]
    state["numpy"] = (name, torch.zeros(words, dtype=torch.int64), position, *gauss)
    with pytest.raises(ValueError, match=f"is at {position} of {words}"):
        restore_random_state(state)
