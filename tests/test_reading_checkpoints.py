"""Checkpoints are read as tensors and plain values, whoever wrote them; nothing in them acts."""

import argparse
import collections
import pathlib
import random
import sys
import types
import zipfile

import numpy as np
import pytest
import torch

from utils.errors import CheckpointError, ProjectError, UnsafeFileError
from utils.reading.checkpoints import Opaque, read_torch_checkpoint
from values import same


def state():
    """Everything a checkpoint of ours or of others may hold."""
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    layer = torch.nn.Linear(3, 2)
    return {
        "state_dict": layer.state_dict(),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "views": [base, base[1:, ::2], base.T, base.reshape(-1)[5]],
        "kinds": {
            str(dtype): torch.ones(3, 2).to(dtype)
            for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.uint8,
                          torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16)
        },
        "empty": [torch.empty(0), torch.empty(3, 0), torch.tensor(2.5)],
        "numbers": [1, 2**200, -1, 0.5, float("nan"), None, True, "ü", b"bytes", (1, (2,))],
        "generators": [torch.get_rng_state(), (3, tuple(range(2**31, 2**31 + 9)))],
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{}]},
    }  # fmt: skip


def test_checkpoints_come_back_as_torch_reads_them(tmp_path):
    torch.save(state(), tmp_path / "x.pth")
    ours = read_torch_checkpoint(tmp_path / "x.pth")
    theirs = torch.load(tmp_path / "x.pth", weights_only=True)
    assert same(ours, theirs)
    assert type(ours["state_dict"]) is dict
    assert not ours["parameter"].requires_grad


def test_tensors_that_shared_their_numbers_still_do(tmp_path):
    base = torch.zeros(4)
    torch.save({"a": base, "b": base[2:]}, tmp_path / "x.pth")
    ours = read_torch_checkpoint(tmp_path / "x.pth")
    ours = ours["state_dict"]
    ours["a"][3] = 7
    assert ours["b"].tolist() == [0, 7]


def test_changing_a_tensor_leaves_the_file_alone(tmp_path):
    torch.save({"a": torch.zeros(4)}, tmp_path / "x.pth")
    read_torch_checkpoint(tmp_path / "x.pth")["state_dict"]["a"].fill_(1)
    assert read_torch_checkpoint(tmp_path / "x.pth")["state_dict"]["a"].tolist() == [0] * 4


def released(monkeypatch):
    """Such an object as released checkpoints hold; its class is gone when they are read."""
    module = types.ModuleType("parse_config")
    module.ConfigParser = type("ConfigParser", (), {"__module__": "parse_config"})
    monkeypatch.setitem(sys.modules, "parse_config", module)
    held = module.ConfigParser()
    held.args = argparse.Namespace(device="0", config="configs/a.json")
    held.save_dir = pathlib.PosixPath("data/saved/models")
    held.best = np.float64(0.25)
    held.table = collections.OrderedDict(a=1)
    return held


def test_foreign_objects_stay_inert(tmp_path, monkeypatch):
    held = released(monkeypatch)
    weights = torch.nn.Linear(2, 2).state_dict()
    torch.save({"state_dict": weights, "config": held, "monitor_best": held.best}, tmp_path / "x")
    monkeypatch.delitem(sys.modules, "parse_config")
    ours = read_torch_checkpoint(tmp_path / "x")
    assert same(ours["state_dict"], dict(weights))
    assert ours["monitor_best"] == 0.25
    assert type(ours["monitor_best"]) is float
    config = ours["config"]
    assert isinstance(config, Opaque)
    assert config.name == "parse_config.ConfigParser"
    assert config.state["save_dir"] == "data/saved/models"
    assert config.state["args"].name == "argparse.Namespace"
    assert config.state["args"].state == {"device": "0", "config": "configs/a.json"}
    assert config.state["table"] == {"a": 1}
    assert "parse_config" not in sys.modules


def test_checkpoints_saved_without_checksums_are_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(3)}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_torch_checkpoint(tmp_path / "x.pth")["state_dict"]["a"].tolist() == [0, 1, 2]


def test_types_of_numbers_come_back(tmp_path):
    torch.save({"a": torch.float16, "b": torch.float8_e5m2}, tmp_path / "x.pth")
    assert read_torch_checkpoint(tmp_path / "x.pth") == {
        "a": torch.float16,
        "b": torch.float8_e5m2,
    }


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"x\.pth is missing"):
        read_torch_checkpoint(tmp_path / "x.pth")


def test_any_cut_and_any_changed_byte_of_the_numbers_is_noticed(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.arange(200.0)}, path)
    content = path.read_bytes()
    for end in range(0, len(content), 61):
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError):
            read_torch_checkpoint(path)
    start = content.index(torch.arange(200.0).numpy().tobytes())
    for at in range(start, start + 800, 37):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(CheckpointError, match="CRC"):
            read_torch_checkpoint(path)


# Files of others


def weights():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    return dict(layers.state_dict())


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": weights()},
        weights(),
        {"model": weights(), "epoch": torch.tensor(3)},
        {"model_state_dict": weights()},
        {"state_dict": {f"module.{key}": value for key, value in weights().items()}},
        {"state_dict": {k: v for k, v in weights().items() if not k.endswith("tracked")}},
        collections.OrderedDict(weights()),
    ],
    ids=["plain", "bare", "model", "model_state_dict", "DataParallel", "torch 0.4", "ordered"],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
def test_weights_are_found_in_the_layouts_of_others(tmp_path, content, legacy):
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    ours = read_torch_checkpoint(path)
    assert same(dict(sorted(ours["state_dict"].items())), dict(sorted(weights().items())))
    assert type(ours["state_dict"]) is dict
    assert ours.get("epoch", 3) == 3
    assert type(ours.get("epoch", 3)) is int


@pytest.mark.parametrize("folder", ["archive/", "another name/"])
def test_an_archive_that_was_zipped_again_is_read(tmp_path, folder):
    torch.save({"state_dict": weights()}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir(folder.rstrip("/")) if hasattr(archive, "mkdir") else None
        for name, content in sorted(records.items()):
            archive.writestr(folder + name, content)
    assert same(read_torch_checkpoint(tmp_path / "y.pth")["state_dict"], weights())


def test_the_legacy_format_comes_back_whole(tmp_path):
    content = state()
    del content["kinds"]["torch.uint16"]  # newer than the format
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    torch.save(content, tmp_path / "y.pth")
    assert same(
        read_torch_checkpoint(tmp_path / "x.pth"), read_torch_checkpoint(tmp_path / "y.pth")
    )


def test_arrays_of_numpy_come_back(tmp_path):
    torch.save({"a": np.arange(3.0), "b": [np.float32(2), np.int64(-1)]}, tmp_path / "x.pth")
    ours = read_torch_checkpoint(tmp_path / "x.pth")
    assert ours["a"].tolist() == [0, 1, 2]
    assert ours["b"] == [2.0, -1]


def test_a_whole_module_is_refused_with_the_remedy(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(UnsafeFileError, match=r"whole module.*state_dict\(\)"):
        read_torch_checkpoint(tmp_path / "x.pth")


def test_a_list_nested_in_itself_is_read_at_once(tmp_path):
    nested = []
    for _ in range(32):
        nested = [nested, nested]
    nested.append(nested)
    torch.save({"epoch": nested}, tmp_path / "x.pth")
    ours = read_torch_checkpoint(tmp_path / "x.pth")["epoch"]
    assert ours[0] is ours[1]
    assert ours[2] is ours


def test_one_storage_under_many_names_is_read_once(tmp_path):
    shared = torch.zeros(1 << 20)
    torch.save({"state_dict": {str(n): shared for n in range(2000)}}, tmp_path / "x.pth")
    assert (
        len({id(t) for t in read_torch_checkpoint(tmp_path / "x.pth")["state_dict"].values()}) == 1
    )


@pytest.mark.parametrize("legacy", [False, True])
def test_damage_ends_in_an_error_that_names_the_file(tmp_path, legacy):
    path, draws = tmp_path / "x.pth", random.Random(0)
    torch.save({"state_dict": weights()}, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(draws.randint(1, 3)):
            damaged[draws.randrange(len(damaged))] = draws.randrange(256)
        path.write_bytes(damaged)
        message = message_of_reading(path)
        assert message is None or (str(path) in message and message.isprintable())


def message_of_reading(path):
    """The error that reading ends in, None when it ends in a value; others get through."""
    try:
        read_torch_checkpoint(path)
    except ProjectError as error:
        return str(error)
    return None
