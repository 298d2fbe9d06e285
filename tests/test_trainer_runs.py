"""Run folders: made without collisions, found again, purged with care."""

import json
import logging
import multiprocessing
import shutil
import time
from pathlib import Path

import pytest
import torch

from model.metric import METRICS as TABLE
from trainer import runs
from trainer.checkpoint import Checkpoint
from trainer.runs import (
    damaged_hint,
    finished_checkpoint,
    last_usable,
    new_run,
    newest_runs,
    open_run,
    purge_runs,
    seed_of,
    stamped_folder,
)
from utils.errors import DataError
from utils.files import LEFTOVER_SUFFIX


def save(path, epoch, *, keep_previous=False, **changes):
    state = {"w": torch.ones(1)}
    content = {"optimizer": {}, "progress": {}, "monitor_best": None, **changes}
    Checkpoint(epoch=epoch, config={}, state_dict=state, **content).write(
        path, keep_previous=keep_previous
    )


METRICS = dict.fromkeys(TABLE, 5.0)
REACHED = {"t2v_metrics": METRICS, "v2t_metrics": METRICS, "best_epoch": 2}


def test_folders_of_a_run(tmp_path):
    run = new_run(tmp_path, "exp", [0, 1])
    assert run.models.parent == tmp_path / "models" / "exp"
    assert run.log == tmp_path / "log" / "exp" / run.models.name
    assert [run.folder(seed) for seed in (0, 1)] == [run.models / "seed-0", run.models / "seed-1"]
    assert run.log_of(1) == run.log / "seed-1"
    alone = new_run(tmp_path, "exp", [5])
    assert alone.folder(5) == alone.models
    member = new_run(tmp_path, "exp", [5], "group")
    assert member.models.parent == tmp_path / "models" / "exp" / "group" / "seed-5"


def test_calls_of_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _: "2021-06-10_14-45-51")
    made = [new_run(tmp_path, "exp", [0]).models.name for _ in range(12)]
    assert made[0] == "2021-06-10_14-45-51"
    assert len(set(made)) == 12
    assert [run.models.name for run in newest_runs(tmp_path, "exp")] == made[::-1]


def make_some(parent, count, pipe):
    pipe.send([stamped_folder(Path(parent)).name for _ in range(count)])


def test_processes_of_one_second_get_folders_of_their_own(tmp_path):
    context = multiprocessing.get_context("fork")
    ends = []
    for _ in range(3):
        mine, theirs = context.Pipe()
        child = context.Process(target=make_some, args=(str(tmp_path), 20, theirs))
        child.start()
        ends.append((mine, child))
    names = [name for mine, child in ends for name in mine.recv()]
    for _, child in ends:
        child.join()
    assert len(names) == len(set(names)) == 60


def test_results_of_a_seed(tmp_path):
    run = new_run(tmp_path, "exp", [0, 1])
    assert run.result(0) is None
    run.save_result(0, REACHED, epochs=5)
    assert run.result(0) == run.result(0, epochs=5) == REACHED
    assert run.result(0, epochs=9) is None  # more epochs are wanted now
    assert run.result(1) is None


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", "{}"),
        *(
            json.dumps({"epochs": 5, "reached": reached})
            for reached in (
                *(5, None, [], {}, {"t2v_metrics": {}}, {**REACHED, "best_epoch": "x"}),
                {**REACHED, "v2t_metrics": {}},
                {**REACHED, "v2t_metrics": {**METRICS, "R1": "x"}},
                {**REACHED, "t2v_metrics": {**METRICS, "R1": None}},
                {**REACHED, "t3v_metrics": METRICS},
            )
        ),
    ],
)
def test_a_result_that_is_none(tmp_path, caplog, content):
    run = new_run(tmp_path, "exp", [0])
    (run.models / "result.json").write_text(content)
    assert run.result(0, epochs=5) is None
    assert f"{run.models / 'result.json'} is damaged and left aside" in caplog.text


@pytest.mark.parametrize("metrics", [{**METRICS, "MRR": -1.5}, {"R1": 5.0}], ids=["more", "fewer"])
def test_results_of_another_table_of_metrics_are_read(tmp_path, metrics):
    run = new_run(tmp_path, "exp", [0])
    reached = {**REACHED, "t2v_metrics": metrics}
    run.save_result(0, reached, epochs=5)
    assert run.result(0, epochs=5) == reached


def test_what_does_not_hold_when_the_run_goes_on_is_cleared(tmp_path):
    run = new_run(tmp_path, "exp", [0, 1])
    run.save_result(0, REACHED, epochs=1)
    left = [folder / f".x.1-ab{LEFTOVER_SUFFIX}" for folder in (run.folder(0), run.models, run.log)]
    for path in left:
        path.touch()
    run.prepare(0)
    assert run.result(0) is None
    assert not any(path.exists() for path in left)


def test_the_newest_runs(tmp_path, monkeypatch, caplog):
    stamps = iter(["2021-01-01_00-00-00", "2021-01-02_00-00-00", "2021-01-03_00-00-00"] * 2)
    monkeypatch.setattr(time, "strftime", lambda _: next(stamps))
    first = new_run(tmp_path, "exp", [0])
    second = new_run(tmp_path, "exp", [0, 1])
    third = new_run(tmp_path, "exp", [0], "group")
    assert newest_runs(tmp_path, "exp") == [third, second, first]
    assert newest_runs(tmp_path, "exp", [0]) == [third, first]
    assert newest_runs(tmp_path, "exp", [0], "group") == [third]
    assert newest_runs(tmp_path, "exp", [0], "other") == []
    assert newest_runs(tmp_path, "other") == []
    (second.models / "run.json").write_text("[]")
    assert newest_runs(tmp_path, "exp") == [third, first]
    assert "run.json" in caplog.text


def test_the_run_of_a_checkpoint(tmp_path):
    several, alone = new_run(tmp_path, "exp", [4, 7]), new_run(tmp_path, "exp", [7])
    member = new_run(tmp_path, "exp", [3], "group")
    assert open_run(tmp_path, several.folder(7) / "last.pth", 0) == (several, 7)
    assert open_run(tmp_path, alone.models / "last.pth", 0) == (alone, 7)
    assert open_run(tmp_path, member.models / "last.pth", 0) == (member, 3)


def test_the_run_of_a_released_checkpoint(tmp_path):
    folder = tmp_path / "models" / "exp" / "dec0c820" / "seed-2" / "2021-06-10_14-46-07"
    folder.mkdir(parents=True)
    run, seed = open_run(tmp_path, folder / "trained_model.pth", 0)
    assert (run.models, run.seeds, seed) == (folder, (2,), 2)
    assert run.log == tmp_path / "log" / folder.relative_to(tmp_path / "models")


def test_the_run_of_a_checkpoint_elsewhere(tmp_path):
    run, seed = open_run(tmp_path / "saved", tmp_path / "x.pth", 9)
    assert (run.models, run.log, run.seeds, seed) == (tmp_path, tmp_path / "log", (9,), 9)
    assert seed_of(tmp_path / "x.pth") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"seeds": []}', '{"seeds": ["0"]}', "{}"])
def test_a_damaged_note_of_the_run(tmp_path, content):
    run = new_run(tmp_path, "exp", [0])
    (run.models / "run.json").write_text(content)
    with pytest.raises(DataError, match=r"run\.json"):
        open_run(tmp_path, run.models / "last.pth", 0)


def test_the_newest_usable_state(tmp_path, caplog):
    run = new_run(tmp_path, "exp", [0])
    assert last_usable(run, 0) is None
    assert damaged_hint(run.models / "last.pth") == ""
    save(run.models / "trained_model.pth", 1)
    save(run.models / "last.previous.pth", 2)
    save(run.models / "last.pth", 3)
    assert last_usable(run, 0).epoch == 3
    (run.models / "last.pth").write_bytes(b"damaged")
    assert last_usable(run, 0).epoch == 2
    assert str(run.models / "last.pth") in caplog.text
    hint = damaged_hint(run.models / "last.pth")
    assert hint.endswith(f"--resume {run.models / 'last.previous.pth'}")
    (run.models / "last.previous.pth").write_bytes(b"damaged")
    assert last_usable(run, 0).epoch == 1
    assert damaged_hint(run.models / "last.previous.pth").endswith("trained_model.pth")
    assert damaged_hint(run.models / "trained_model.pth") == ""
    save(run.models / "trained_model.pth", 1, optimizer=None)  # weights alone are no state
    assert last_usable(run, 0) is None


def test_the_checkpoint_of_a_finished_seed(tmp_path):
    assert finished_checkpoint(tmp_path, "exp", 0) is None
    run = new_run(tmp_path, "exp", [0, 1])
    run.save_result(1, REACHED, epochs=1)
    new_run(tmp_path, "exp", [1])  # newer, but not finished
    assert finished_checkpoint(tmp_path, "exp", 0) is None
    assert finished_checkpoint(tmp_path, "exp", 1) == run.models / "seed-1" / "trained_model.pth"


def test_purging(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    several, member = new_run(tmp_path, "exp", [0, 1]), new_run(tmp_path, "exp", [3], "group")
    held = new_run(tmp_path, "exp", [0])
    other = new_run(tmp_path, "exp-2", [0])
    parent = several.models.parent
    fetched = parent / "dec0c820" / "seed-2" / "2021-06-10_14-46-07"
    fetched.mkdir(parents=True)
    kept = [parent / "notes.txt", parent / "2021-06-10", fetched / "trained_model.pth"]
    for path in kept:
        path.write_text("mine")
    (tmp_path / "target").mkdir()
    (parent / "2021-06-10_14-46-08").symlink_to(tmp_path / "target")
    with held.locked():
        purge_runs(tmp_path, "exp")
    assert [run.models.exists() for run in (several, member, held, other)] == [False] * 2 + [
        True
    ] * 2
    assert [run.log.exists() for run in (several, member, held, other)] == [False] * 2 + [True] * 2
    assert all(path.exists() for path in [*kept, tmp_path / "target"])
    for kind in ("models", "log"):  # of a group nothing is left, what was fetched stays
        assert not (tmp_path / kind / "exp" / "group").exists()
    assert "removed 2 earlier runs of exp" in caplog.text
    purge_runs(tmp_path, "none")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError("no locks")

    run = new_run(tmp_path, "exp", [0])
    monkeypatch.setattr(runs.fcntl, "flock", no_locks)
    with run.locked():
        pass


def test_a_run_is_the_newest_though_the_clock_went_back(tmp_path, monkeypatch):
    times = iter(["2026-10-25_02-59-59", "2026-10-25_02-00-00", "2026-10-25_02-00-01"])
    monkeypatch.setattr("trainer.runs.time.strftime", lambda _: next(times))
    runs = [new_run(tmp_path, "a", [0]) for _ in range(3)]
    assert [run.models for run in newest_runs(tmp_path, "a")] == [r.models for r in reversed(runs)]
    shutil.rmtree(runs[1].models)
    monkeypatch.setattr("trainer.runs.time.strftime", lambda _: "2026-10-25_02-30-00")
    last = new_run(tmp_path, "a", [0])  # not in the gap that is free again
    assert newest_runs(tmp_path, "a")[0].models == last.models
