"""Devices: the one that was asked for, or an error; never another."""

import pytest
import torch

from trainer.device import choose_device, describe, require_memory, set_precision
from utils.errors import UsageError


@pytest.fixture
def gpus(monkeypatch):
    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize(
    ("name", "device"),
    [
        *((None, "cpu"), ("cpu", "cpu"), ("1", "cuda:1"), ("cuda:1", "cuda:1")),
        *(("cuda", "cuda:0"), ("0", "cuda:0")),
    ],
)
def test_the_device_that_is_asked_for(gpus, name, device):
    gpus(2)
    assert choose_device(name) == torch.device(device)


def test_each_local_process_gets_its_own_gpu(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("0") == torch.device("cuda", 1)
    assert choose_device(None) == torch.device("cpu")
    with pytest.raises(UsageError, match="--device 2"):
        choose_device("1")


def test_an_apple_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps") == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--device mps"):
        choose_device("mps")


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("0", 0, "--device 0: found no usable GPU"),
        ("3", 2, r"--device 3: found 2 usable \(0 to 1\)"),
        ("-1", 2, "--device -1: expected the number"),
        ("", 2, "expected the number"),
        ("gpu", 2, "--device gpu: expected the number"),
    ],
)
def test_no_such_gpu(gpus, name, count, words):
    gpus(count)
    with pytest.raises(UsageError, match=words):
        choose_device(name)


def test_precision_of_products():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        set_precision("tf32")
        assert torch.get_float32_matmul_precision() == "high"
        for name in ("fp32", "bf16"):
            set_precision(name)
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_devices_in_words(monkeypatch):
    assert describe(torch.device("cpu")) == f"cpu ({torch.get_num_threads()} threads)"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Large GPU")
    assert describe(torch.device("cuda", 1)) == "cuda:1 Large GPU"


def test_a_model_beyond_the_memory_is_refused(monkeypatch, tmp_path):
    require_memory(10**6, torch.device("cpu"))
    with pytest.raises(UsageError, match="has 1,000,000,000,000 parameters"):
        require_memory(10**12, torch.device("cpu"))
    require_memory(10**12, torch.device("cuda"))  # torch says what a GPU lacks
    monkeypatch.setattr("trainer.device.CGROUP_LIMITS", (tmp_path / "memory.max", tmp_path / "x"))
    (tmp_path / "memory.max").write_text("1000000\n")  # of a container
    with pytest.raises(UsageError, match=r"this machine has 0\.0 GB"):
        require_memory(10**5, torch.device("cpu"))
    (tmp_path / "memory.max").write_text("max\n")
    require_memory(10**5, torch.device("cpu"))
