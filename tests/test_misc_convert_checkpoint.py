"""Converting checkpoints: the weights arrive exactly, the rest as JSON, nothing is executed."""

import argparse
import builtins
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from misc.convert_checkpoint import main, plain
from utils.reading.checkpoints import Opaque

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkpoint(tmp_path):
    base = torch.randn(3, 4)
    content = {
        "state_dict": {"a.weight": base, "shared": base[1], "turned": base.T},
        "epoch": 7,
        "config": argparse.Namespace(folder=Path("data/saved"), rate=float("inf")),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
    }
    torch.save(content, tmp_path / "x.pth")
    return tmp_path / "x.pth", content["state_dict"]


def test_weights_and_the_rest(tmp_path, checkpoint, capsys):
    safetensors = pytest.importorskip("safetensors.torch")
    path, weights = checkpoint
    assert main([str(path), str(tmp_path / "x.safetensors")]) == 0
    assert "3 tensors, 28 numbers" in capsys.readouterr().out
    found = safetensors.load_file(tmp_path / "x.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    rest = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert rest["epoch"] == 7
    assert rest["config"]["class"] == "argparse.Namespace"
    assert rest["config"]["state"] == {"folder": "data/saved", "rate": "inf"}
    assert rest["optimizer"]["state"]["0"] == {"exp_avg": "tensor (2,) torch.float32"}


def test_mistakes_are_named(tmp_path, checkpoint, capsys):
    pytest.importorskip("safetensors")
    torch.save({"a": 1}, tmp_path / "empty.pth")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "odd.pth")
    for arguments, status, message in [
        (["missing.pth", "x.safetensors"], 1, "missing.pth is missing"),
        ([str(checkpoint[0]), "x.bin"], 2, "x.bin: expected a name that ends in .safetensors"),
        ([str(tmp_path / "empty.pth"), "x.safetensors"], 1, "holds no state_dict"),
        ([str(tmp_path / "odd.pth"), "x.safetensors"], 1, "'a' of its state_dict is not a named"),
    ]:
        assert main(arguments) == status
        assert message in capsys.readouterr().err


def test_a_missing_package_is_named(checkpoint, monkeypatch, capsys):
    real = builtins.__import__

    def without_safetensors(name, *rest):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_safetensors)
    assert main([str(checkpoint[0]), "x.safetensors"]) == 2
    assert "pip install -r requirements/convert.in" in capsys.readouterr().err


def test_what_contains_itself_ends():
    endless = []
    endless.append(endless)
    assert "..." in str(plain(endless))
    assert plain(Opaque("a.B", (1,), {"k": object()})) == {
        "class": "a.B",
        "args": [1],
        "state": {"k": "object"},
    }


def test_help_from_another_folder(tmp_path):
    command = [sys.executable, ROOT / "misc" / "convert_checkpoint.py", "--help"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "usage:" in ended.stdout
