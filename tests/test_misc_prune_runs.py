"""Pruning: the states of finished seeds go; everything else stays."""

import os

import pytest

from misc import prune_runs
from trainer.keeper import BEST, LAST
from trainer.runs import new_run

REACHED = {
    "t2v_metrics": {"R1": 1.0},
    "v2t_metrics": {"R1": 1.0},
    "best_epoch": 1,
}


@pytest.fixture
def run(tmp_path):
    made = new_run(tmp_path, "experiment", (0, 1))
    for seed in made.seeds:
        folder = made.folder(seed)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / BEST).write_bytes(b"b" * 1000)
        os.link(folder / BEST, folder / LAST)
        (folder / "last.previous.pth").write_bytes(b"p" * 3000)
        (folder / "checkpoint-epoch3.pth").write_bytes(b"c" * 500)
    made.save_result(0, REACHED, 3)
    return made


def names(run, seed):
    return {path.name for path in run.folder(seed).glob("*.pth")}


ALL = {BEST, LAST, "last.previous.pth", "checkpoint-epoch3.pth"}


def test_finished_seeds_keep_their_best_weights(run, tmp_path, capsys):
    assert prune_runs.main(["--save_dir", str(tmp_path)]) == 0
    assert names(run, 0) == {BEST}
    assert names(run, 1) == ALL
    assert run.result(0) is not None
    assert "3 files removed, 0.0 MB" in capsys.readouterr().out


def test_shared_files_are_freed_with_their_last_name(run):
    folder = run.folder(0)
    assert prune_runs.freed(prune_runs.removable(run)) == 3500
    assert prune_runs.freed([folder / LAST, folder / BEST]) == 1000


@pytest.mark.parametrize("flags", [["--dry_run"], ["--name", "another"]])
def test_a_dry_run_and_other_experiments_remove_nothing(run, tmp_path, capsys, flags):
    assert prune_runs.main(["--save_dir", str(tmp_path), *flags]) == 0
    assert names(run, 0) == ALL
    assert (str(run.folder(0) / LAST) in capsys.readouterr().out) == ("--dry_run" in flags)


def test_a_run_in_training_is_left_alone(run, tmp_path, capsys):
    with run.locked():
        assert prune_runs.main(["--save_dir", str(tmp_path)]) == 0
    assert names(run, 0) == ALL
    assert "left alone" in capsys.readouterr().err


def test_a_place_without_runs(tmp_path):
    assert prune_runs.main(["--save_dir", str(tmp_path / "nowhere")]) == 2
