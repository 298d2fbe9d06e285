"""misc/soak.py: a short soak, and that it would see a difference."""

import pytest
import torch

from misc import soak
from misc.soak import differences
from small_runs import Place, make_data
from utils.errors import ProjectError


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, make_data(tmp_path))


@pytest.fixture
def config(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    return place.config({"data_loader.args.text_dropout": 0.4})


def test_three_kills_leave_no_trace(config, capsys):
    assert soak.main(["--config", str(config), "--kills", "3", "--epochs", "6"]) == 0
    figures = capsys.readouterr().out
    assert "kills (SIGKILL):       3 (" in figures
    assert "differences:           0" in figures


def test_a_training_that_fails_is_no_success(place, monkeypatch, capsys):
    monkeypatch.chdir(place.folder)
    config = place.config({"data_loader.args.data_dir": "data/nowhere"})
    assert soak.main(["--config", str(config), "--kills", "1"]) == 1
    assert "data/nowhere" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_noticed(config, tmp_path):
    (tmp_path / "soak").mkdir()
    training = soak.Training(config, tmp_path / "soak" / "one", epochs=1)
    folder = training.folder / "saved" / "models" / "x" / "y"
    folder.mkdir(parents=True)
    (folder / "last.pth").write_bytes(b"half")
    with pytest.raises(ProjectError, match="damaged checkpoint"):
        training.check_states()


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2)}, []),
        ({"a": torch.zeros(2)}, {"a": torch.tensor([0.0, 1e-45])}, ["x/a"]),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2).double()}, ["x/a"]),
        ({"a": [1, {"b": 2.0}]}, {"a": (1, {"b": 2.5})}, ["x/a/1/b"]),
        ({"a": [1]}, {"a": [1, 2]}, ["x/a: 1 against 2"]),
        ({"a": 1}, {"b": 1}, ["x: ['a', 'b']"]),
        ({"seconds": 1}, {"seconds": 2}, []),
        ({"a": 1}, {"a": 1.0}, ["x/a"]),
    ],
)
def test_differences_are_named(first, second, named):
    assert differences(first, second, "x") == named
