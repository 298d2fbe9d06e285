"""Several processes train as one: the same losses, weights and metrics, one writer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from synthetic import write_dataset
from trainer.checkpoint import load_checkpoint
from trainer.distributed import (
    Processes,
    _GatherRows,
    gather_rows,
    local_device,
    processes_of,
)
from utils.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    # 34 clips in batches of 8: the last batch has 2 clips, and one of three processes gets none;
    # of the 2 test clips likewise
    write_dataset(
        folder / "CLOTHO", "CLOTHO", sizes={"train": 34, "val": 9, "test": 2}, missing={"audio": []}
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


def last_state(done):
    """Return the weights and buffers that a finished run ended with."""
    models = done.stdout.split("checkpoints:")[1].split("\n")[0].strip()
    return load_checkpoint(Path(models) / "last.pth").state_dict


@pytest.fixture(scope="module")
def alone(config_file):
    return train(config_file, 1)


@pytest.fixture(scope="module", params=[2, 3])
def together(config_file, request):
    return train(config_file, request.param)


def test_several_processes_repeat_one(alone, together):
    history, results, done = together
    history_alone, results_alone, done_alone = alone
    assert [line["epoch"] for line in history] == [1, 2]
    for one, several in zip(history_alone, history, strict=True):
        timeless = ({k: v for k, v in line.items() if k != "seconds"} for line in (one, several))
        expected, found = timeless
        assert found == pytest.approx(expected, abs=1e-4)  # the losses, all validation metrics
    expected, found = last_state(done_alone), last_state(done)
    assert found.keys() == expected.keys()
    for name, value in expected.items():  # the statistics of batch norms among them
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4, msg=name)
    assert done.stdout.count("results:") == 1  # one writer
    assert results["seeds"]["0"] == results_alone["seeds"]["0"]


def test_several_processes_warn_of_nothing(together):
    assert "Warning" not in together[2].stderr


def test_a_run_of_several_processes_resumes(config_file, alone):
    train(config_file, 2, "--custom_args", "trainer.epochs@1")
    models = config_file.parent / "saved" / "models"
    first = next(models.glob("*trainer-epochs-1/*/last.pth"))
    resumed, _, _ = train(config_file, 2, "--resume", str(first))
    assert [line["epoch"] for line in resumed] == [1, 2]
    assert resumed[-1]["loss"] == pytest.approx(alone[0][-1]["loss"], abs=1e-5)


def test_shares_cover_everything_once():
    for count in (0, 1, 2, 7, 8):
        shares = [Processes(rank, 3).share(count) for rank in range(3)]
        assert [i for share in shares for i in range(count)[share]] == list(range(count))
        assert Processes(1, 3).share_sizes(count) == [s.stop - s.start for s in shares]


@pytest.fixture
def equal_twin(monkeypatch):
    """Pretend that a second process holds the same: sums over both are twice as much."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, **_: tensor.mul_(2))


def test_parts_are_gathered_with_their_shapes(equal_twin):
    parts = [torch.ones(2, 3), torch.ones(2, 4, 5), torch.ones(2, 0)]
    assert [tuple(whole.shape) for whole in gather_rows(parts, [2, 1])] == [
        (3, 3),
        (3, 4, 5),
        (3, 0),
    ]
    assert gather_rows([torch.ones(0, 3)], [0, 2])[0].shape == (2, 3)
    assert gather_rows([torch.tensor([7, 8])], [2, 1])[0].tolist() == [14, 16, 0]  # of clips


def test_gradients_of_others_stay_as_they_are(equal_twin):
    own, other = torch.ones(2, 3, requires_grad=True), torch.ones(4, 3, requires_grad=True)
    total = other * 1
    total = _GatherRows.apply(own, [2, 2]) + total
    (total * torch.ones(4, 3)).sum().backward()  # both are handed the same gradient
    assert (own.grad == 2).all()
    assert (other.grad == 1).all()


@pytest.fixture
def joined(monkeypatch):
    """Pretend to be the second of two processes; return what was done to join and leave."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    done = []
    for module, name in (
        (torch.cuda, "set_device"),
        (dist, "init_process_group"),
        (dist, "destroy_process_group"),
    ):
        monkeypatch.setattr(module, name, lambda *args, name=name, **_: done.append((name, *args)))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    return done


def test_the_gpu_is_set_before_the_processes_join(joined):
    gpu = torch.device("cuda", 1)
    with processes_of(gpu) as processes:
        assert processes == Processes(1, 2)
        assert joined == [("set_device", gpu), ("init_process_group", "nccl")]
    assert joined[2:] == [("destroy_process_group",)]


def test_who_fails_does_not_wait_for_the_others(joined):
    with pytest.raises(KeyError), processes_of(torch.device("cpu")):
        raise KeyError
    assert joined == [("init_process_group", "gloo")]


def test_each_local_process_gets_its_own_gpu(monkeypatch):
    assert local_device("2") == "2"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device("2") == "3"
    assert local_device(None) is None


@pytest.mark.slow  # half a minute
def test_several_processes_augment_average_and_learn_from_teachers_as_one(config_file, alone):
    models = alone[2].stdout.split("checkpoints:")[1].split("\n")[0].strip()
    content = json.loads(config_file.read_text(encoding="utf-8"))
    content["data_loader"]["args"] |= {
        "expert_dropout": 0.3,
        "feature_noise": 0.1,
        "mix_up": 0.5,
        "text_dropout": 0.3,
    }
    content["arch"]["args"]["pooling"] = {"audio": "attention", "vggsound": "statistics"}
    content["trainer"]["ema"] = 0.8
    content["loss"] = {"type": "CorrespondenceDistillation", "args": {"teachers": [models]}}
    path = config_file.with_name("pieces.json")
    path.write_text(json.dumps(content), encoding="utf-8")
    expected, found = train(path, 1)[0], train(path, 3)[0]
    for one, several in zip(expected, found, strict=True):
        timeless = ({k: v for k, v in line.items() if k != "seconds"} for line in (several, one))
        assert next(timeless) == pytest.approx(next(timeless), abs=1e-4)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK"])
def test_settings_that_are_no_numbers_are_refused(monkeypatch, name):
    monkeypatch.setenv(name, "x")
    with pytest.raises(UsageError, match=f"{name} is 'x'"), processes_of(torch.device("cpu")):
        pass
