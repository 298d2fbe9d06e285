"""Packing by hand: the whole command, in this process."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from misc.pack_features import main
from synthetic import write_dataset

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def config(tmp_path):
    made = write_dataset(tmp_path / "AudioCaps")
    args = {"data_dir": str(made.data_dir), "packed_dir": str(tmp_path / "packed")}
    content = {
        "inherit_from": "configs/audiocaps/train-vggish-vggsound.json",
        "data_loader": {"args": args},
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_everything_is_packed_and_verified(config, capsys):
    assert main(["--config", str(config)]) == 0
    packed = sorted((config.parent / "packed").rglob("*.packed"))
    assert len(packed) == 4
    said = capsys.readouterr().out
    assert "train: 12 clips\nval: 4 clips\ntest: 4 clips\n" in said
    assert all(str(path) in said for path in packed)
    assert main(["--config", str(config), "--verify"]) == 0


def test_damaged_features_are_noticed(config, capsys):
    assert main(["--config", str(config)]) == 0
    [audio] = (config.parent / "packed").rglob("*vggish*.packed")
    with audio.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff\xff")
    assert main(["--config", str(config), "--verify"]) == 1
    assert (
        f"error: damaged, remove and pack again: {audio} (block 'rows')" in capsys.readouterr().err
    )


def test_without_a_place_there_is_nothing_to_do(config, capsys):
    content = json.loads(config.read_text(encoding="utf-8"))
    content["data_loader"]["args"]["packed_dir"] = None
    config.write_text(json.dumps(content), encoding="utf-8")
    assert main(["--config", str(config)]) == 2
    assert "packed_dir is null" in capsys.readouterr().err


def test_a_place_that_takes_no_files_is_an_error(config, capsys, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("data_loader.store.atomic_writer", refuse)
    assert main(["--config", str(config)]) == 1
    assert "takes no files" in capsys.readouterr().err


def test_help_from_another_folder(tmp_path):
    script = ROOT / "misc" / "pack_features.py"
    command = [sys.executable, str(script), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--verify" in done.stdout
