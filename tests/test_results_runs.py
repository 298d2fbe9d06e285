"""Stored runs are found by any of their names, joined when they belong together, or refused."""

import json
import shutil

import pytest

from results.runs import load_run, load_runs
from stored_runs import write_run
from utils.errors import DataError, UsageError


def test_a_run_is_found_by_its_folder_and_its_file(tmp_path):
    stored = write_run(tmp_path / "a")
    for name in (tmp_path / "a", tmp_path / "a" / "results.json"):
        run = load_run(name)
        assert run.name == "clotho-a"
        assert list(run.seeds) == ["0", "1", "2"]
        assert run.values("t2v", "R1") == [
            stored[seed].metrics()["t2v_metrics"]["R1"] for seed in run.seeds
        ]
        assert run.ranks("1").identity() == stored["1"].identity()
        assert len(run.curves["2"]) == 4


def test_a_folder_of_checkpoints_leads_to_its_log(tmp_path):
    write_run(tmp_path / "saved" / "log" / "clotho-a" / "2026-01-01_00-00-00")
    models = tmp_path / "saved" / "models" / "clotho-a" / "2026-01-01_00-00-00"
    (models / "seed-0").mkdir(parents=True)
    assert load_run(models).name == "clotho-a"
    (models / "last.pth").touch()
    assert load_run(models / "last.pth").name == "clotho-a"


def test_a_group_is_one_run(tmp_path):
    for seed in (2, 0, 10):
        place = tmp_path / "log" / "clotho-a" / "group" / f"seed-{seed}" / "2026-01-01_00-00-00"
        write_run(place, seeds=(seed,))
    (tmp_path / "models" / "clotho-a" / "group").mkdir(parents=True)
    for name in ("log", "models"):
        run = load_run(tmp_path / name / "clotho-a" / "group")
        assert list(run.seeds) == ["0", "2", "10"]
        assert len(run.files) == 3
        assert run.ranks("10").clips
        assert set(run.curves) == {"0", "2", "10"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seeds": (0,)}, "seed 0"),
        ({"list_sha": "cd"}, "sha256"),
        ({"protocol": {"captions_per_clip": 5}}, "protocol.captions_per_clip: 2 of .*, 5 of"),
        ({"protocol": {"queried_clips": 3}}, "protocol.queried_clips: unset of .*, 3 of"),
        ({"name": "clotho-b"}, "config"),
        ({"change": {"trainable_parameters": 3}}, "trainable_parameters"),
        ({"change": {"mini_train": True}}, "mini_train"),
        ({"change": {"split": "val"}}, "split"),
    ],
)
def test_what_is_not_one_run_is_not_joined(tmp_path, change, word):
    write_run(tmp_path / "a" / "one", seeds=(0,))
    write_run(tmp_path / "a" / "two", **{"seeds": (1,), **change})
    with pytest.raises(UsageError, match=word):
        load_run(tmp_path / "a")


def test_runs_of_one_name_are_told_apart(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    assert len({run.name for run in load_runs([tmp_path / "a", tmp_path / "b"])}) == 2


def test_results_without_a_metric_or_with_one_more_are_read(tmp_path):
    write_run(tmp_path / "a")
    path = tmp_path / "a" / "results.json"
    content = json.loads(path.read_text())
    for metrics in content["seeds"].values():
        for task in ("t2v", "v2t"):
            del metrics[f"{task}_metrics"]["R50"]
            metrics[f"{task}_metrics"]["own"] = 1.0
    path.write_text(json.dumps(content))
    assert "R50" not in load_run(path).metrics
    assert "own" in load_run(path).metrics


def test_what_is_missing_or_damaged_is_named(tmp_path):
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError, match=str(place)):
            load_run(place)
    write_run(tmp_path / "a", ranks=False, curves=False)
    with pytest.raises(DataError, match="seed-0"):
        load_run(tmp_path / "a").ranks("0")
    for wrong in ({}, []):
        (tmp_path / "a" / "results.json").write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=r"results\.json"):
            load_run(tmp_path / "a")


def test_damaged_curves_are_left_out(tmp_path):
    write_run(tmp_path / "a")
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"seed": 0, "epoch": NaN}\n[]\n{"seed": 0}\nx\n{"seed":0,"epoch":9,"a":"b"}\n')
    assert len(load_run(tmp_path / "a").curves["0"]) == 4
    shutil.rmtree(tmp_path / "a" / "seed-1")
    assert "1" not in load_run(tmp_path / "a").ranks_files


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": 3},
        {"seeds": {}},
        {"trainable_parameters": "many"},
        {"trainable_parameters": 1e300},
        {"data": []},
        {"data": {"split_list": "x"}},
        {"seeds": []},
        {"config": "a\x1b[2J"},
        {"seeds": {"0": {"t2v_metrics": {}, "v2t_metrics": {"R1": 1.0}}}},
        {"seeds": {"0": {"t2v_metrics": {"R1": "x"}, "v2t_metrics": {"R1": 1.0}}}},
        {"seeds": {"0": {"t2v_metrics": {"R1": True}, "v2t_metrics": {"R1": 1.0}}}},
        {"seeds": {"0": {"t2v_metrics": {"R1": 10**400}, "v2t_metrics": {"R1": 1.0}}}},
        {"seeds": {"0": {"t2v_metrics": {"\x1b[2J": 1.0}, "v2t_metrics": {"R1": 1.0}}}},
    ],
)
def test_odd_results_are_refused(tmp_path, change):
    write_run(tmp_path / "a", change=change)
    with pytest.raises(DataError, match=r"results\.json"):
        load_run(tmp_path / "a")


def test_ranks_that_are_not_those_of_the_results_are_refused(tmp_path):
    write_run(tmp_path / "a", seeds=(0,))
    write_run(tmp_path / "b", seeds=(0,), name="clotho-b")
    shutil.copy(tmp_path / "b" / "seed-0" / "ranks.npz", tmp_path / "a" / "seed-0")
    with pytest.raises(DataError, match="are not those of"):
        load_run(tmp_path / "a").ranks("0")
