"""Several processes train as one: the same losses, weights and metrics, one writer."""

import pytest
import torch
import torch.distributed as dist

from small_runs import CE, Place
from synthetic import write_dataset
from trainer.checkpoint import load_checkpoint
from trainer.distributed import (
    Processes,
    _GatherRows,
    gather_rows,
    processes_of,
)
from utils.errors import UsageError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    # 34 clips in batches of 8: the last batch has 2 clips, and one of three processes gets none;
    # of the 2 test clips likewise
    sizes = {"train": 34, "val": 9, "test": 2}
    (folder / "runs").mkdir()
    made = write_dataset(folder / "CLOTHO", "CLOTHO", sizes=sizes, missing={"audio": []})
    return Place(folder / "runs", made)


def config_of(place, changes=None, **named):
    settings = {"trainer.epochs": 2, "data_loader.args.batch_size": 8}
    return place.config(settings | (changes or {}), base=CE, **named)


@pytest.fixture(scope="module")
def alone(place):
    return place.train("--config", config_of(place))


@pytest.fixture(scope="module", params=[2, 3])
def together(place, alone, request):
    return place.train_by_torchrun(request.param, "--config", config_of(place))


def assert_nearly_equal(found, expected):
    """Compare the losses and all validation metrics of two runs."""
    for one, other in zip(found.metrics, expected.metrics, strict=True):
        assert {**one, "seconds": 0} == pytest.approx({**other, "seconds": 0}, abs=1e-4)


def test_several_processes_repeat_one(alone, together):
    run, done = together
    assert [line["epoch"] for line in run.metrics] == [1, 2]
    assert_nearly_equal(run, alone)
    expected, found = (load_checkpoint(one.last).state_dict for one in (alone, run))
    assert found.keys() == expected.keys()
    for name, value in expected.items():  # the statistics of batch norms among them
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4, msg=name)
    assert done.stdout.count("results:") == 1  # one writer
    assert run.results["seeds"]["0"] == alone.results["seeds"]["0"]


def test_several_processes_warn_of_nothing(together):
    assert "Warning" not in together[1].stderr


def test_a_run_of_several_processes_resumes(place, alone):
    once = ("--custom_args", "trainer.epochs@1")
    tagged = "clotho-once-trainer-epochs-1"
    place.train_by_torchrun(2, "--config", config_of(place, name="once"), *once)
    first = place.newest(tagged)
    config = config_of(place, name="once")
    place.train_by_torchrun(2, "--config", config, "--resume", first.last)
    assert [line["epoch"] for line in first.metrics] == [1, 2]
    assert first.metrics[-1]["loss"] == pytest.approx(alone.metrics[-1]["loss"], abs=1e-5)


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


@pytest.mark.slow  # half a minute
def test_several_processes_augment_average_and_learn_from_teachers_as_one(place, alone):
    teachers = {"teachers": [str(alone.models)]}
    changes = {
        "data_loader.args.expert_dropout": 0.3,
        "data_loader.args.feature_noise": 0.1,
        "data_loader.args.mix_up": 0.5,
        "data_loader.args.text_dropout": 0.3,
        "arch.args.pooling": {"audio": "attention", "vggsound": "statistics"},
        "trainer.ema": 0.8,
        "loss": {"type": "CorrespondenceDistillation", "args": teachers},
    }
    config = config_of(place, changes)
    expected = place.train("--config", config)
    found, _ = place.train_by_torchrun(3, "--config", config)
    assert found.models != expected.models
    assert_nearly_equal(found, expected)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK"])
def test_settings_that_are_no_numbers_are_refused(monkeypatch, name):
    monkeypatch.setenv(name, "x")
    with pytest.raises(UsageError, match=f"{name} is 'x'"), processes_of(torch.device("cpu")):
        pass
