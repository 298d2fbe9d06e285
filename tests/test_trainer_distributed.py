"""Two processes train as one: the same losses, one writer, the same results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from synthetic import write_dataset
from trainer.distributed import Processes, gather_rows, local_device

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    # 37 clips in batches of 8: the last batch has 5 clips, shared 2 and 3
    write_dataset(
        folder / "CLOTHO", "CLOTHO", sizes={"train": 37, "val": 9, "test": 7}, missing={"audio": []}
    )
    config = {
        "inherit_from": "configs/clotho/train-vggish-vggsound.json",
        "experts": {"ce_shared_dim": 16},
        "arch": {"args": {"vlad_clusters": {"text": 3, "audio": 2, "vggsound": 2}}},
        "data_loader": {
            "args": {
                "data_dir": str(folder / "CLOTHO"),
                "packed_dir": str(folder / "packed"),
                "batch_size": 8,
            }
        },
        "trainer": {"epochs": 2, "save_dir": str(folder / "saved"), "tensorboard": False},
    }
    path = folder / "tiny.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def train(config_file, processes, *flags):
    command = [sys.executable, "train.py", "--config", str(config_file), *flags]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command[1:1] = launcher
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    results = Path(done.stdout.split("results:")[1].strip())
    lines = (results.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    history = [json.loads(line) for line in lines]
    return history, json.loads(results.read_text()), done


@pytest.fixture(scope="module")
def together(config_file):
    return train(config_file, 2)


def test_two_processes_repeat_one(config_file, together):
    history, results, done = together
    alone, results_alone, _ = train(config_file, 1)
    assert [line["epoch"] for line in history] == [1, 2]
    for one, two in zip(alone, history, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert two["learning_rate"] == one["learning_rate"]
    assert done.stdout.count("results:") == 1  # one writer
    assert results["seeds"]["0"].keys() == results_alone["seeds"]["0"].keys()


def test_a_run_of_two_processes_resumes(config_file, together):
    train(config_file, 2, "--custom_args", "trainer.epochs@1")
    models = config_file.parent / "saved" / "models"
    first = next(models.glob("*trainer-epochs-1/*/last.pth"))
    resumed, _, _ = train(config_file, 2, "--resume", str(first))
    assert [line["epoch"] for line in resumed] == [1, 2]
    assert resumed[-1]["loss"] == pytest.approx(together[0][-1]["loss"], abs=1e-6)


def test_shares_cover_everything_once():
    for count in (0, 1, 2, 7, 8):
        shares = [Processes(rank, 3).share(count) for rank in range(3)]
        assert [i for share in shares for i in range(count)[share]] == list(range(count))


def test_alone_nothing_is_gathered():
    rows = torch.ones(2, 3)
    assert gather_rows(rows) is rows


def test_each_local_process_gets_its_own_gpu(monkeypatch):
    assert local_device("2") == "2"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device("2") == "3"
    assert local_device(None) is None
