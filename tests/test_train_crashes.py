"""Killed, stopped, or out of disk: what a run saved stays, and goes on bit by bit."""

import errno
import os
import resource
import signal

import pytest
import torch

from small_runs import Place, assert_same_run, content_of, same
from surroundings import limited
from trainer.checkpoint import load_checkpoint

SETTINGS = {
    "trainer.epochs": 2,
    "data_loader.args.text_dropout": 0.4,
    "trainer.save_only_best": False,
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, made):
    place = Place(tmp_path_factory.mktemp("undisturbed"), made)
    return place.train("--config", place.config(SETTINGS))


def check_death(place, config, undisturbed, **death):
    """Let a training die, continue it, and compare its end with the undisturbed run's."""
    place.forget_runs()
    assert place.train_in_child("--config", config, **death) == -signal.SIGKILL
    for run in place.runs():  # nothing half-written has a checkpoint's name
        for path in run.models.glob("*.pth"):
            assert path.name.startswith(".") or load_checkpoint(path)
        assert not (run.log / "results.json").exists()
    continued = place.train("--config", config, "--resume", "auto")
    assert_same_run(continued, undisturbed)
    return continued


@pytest.mark.parametrize("step", [1, 3, 4, 6, 8])
def test_killed_between_steps(place, undisturbed, step):
    config = place.config(SETTINGS | {"trainer.save_every_minutes": 1e-9})  # after every step
    run = check_death(place, config, undisturbed, at="step", count=step)
    log = (run.log / "info.log").read_text()
    kept = max(step - 1, 0)  # the step that it died in is lost, no other
    assert (f"continuing after epoch {kept // 4} of" in log) == (kept > 0)


@pytest.mark.parametrize("write", [1, 2])
def test_killed_half_way_through_writing_a_checkpoint(place, undisturbed, write):
    config = place.config(SETTINGS)
    run = check_death(place, config, undisturbed, at="half", count=write)
    assert len(place.runs()) == 1  # the run that was begun goes on, even without a state
    assert run.trained_model.exists()


@pytest.mark.parametrize("file", [5, 9, 12])
def test_killed_before_a_file_gets_its_name(place, undisturbed, file):
    check_death(place, place.config(SETTINGS), undisturbed, at="file", count=file)


@pytest.mark.slow
def test_killed_before_any_file_gets_its_name(place, undisturbed):
    config = place.config(SETTINGS)
    told = place.folder / "told"
    assert place.train_in_child("--config", config, at="file", tell=told) == 0
    count = int(told.read_text())
    assert count > 15
    for file in range(1, count + 1):
        check_death(place, config, undisturbed, at="file", count=file)


def test_killed_with_rarer_saves(tmp_path, made, undisturbed):
    """Between saves the best state is in memory alone: losing it must lose nothing else."""
    settings = SETTINGS | {"trainer.epochs": 5, "trainer.save_every_epochs": 3}
    settings |= {"trainer.save_only_best": True}
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    whole, killed = Place(tmp_path / "whole", made), Place(tmp_path / "killed", made)
    expected = whole.train("--config", whole.config(settings))
    assert load_checkpoint(expected.last).epoch == 5
    config = killed.config(settings)
    for step in (10, 18):
        killed.forget_runs()
        dead = killed.train_in_child("--config", config, at="step", count=step)
        assert dead == -signal.SIGKILL
        assert killed.newest().last.exists() == (step > 12)
        assert_same_run(killed.train("--config", config, "--resume", "auto"), expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("step", "saved"), [(3, (0, 3)), (8, (2, 0))])
def test_a_signal_saves_and_stops(place, undisturbed, number, step, saved):
    config = place.config(SETTINGS)
    status = place.train_in_child("--config", config, at="step", count=step, number=number)
    assert status == 128 + number
    run = place.newest()
    progress = load_checkpoint(run.last).progress
    assert (progress["epoch"], len(progress["losses"])) == saved
    assert not (run.log / "results.json").exists()
    assert "stopped by a signal" in (run.log / "info.log").read_text()
    assert place.train("--config", config, "--resume", run.last).models == run.models
    assert_same_run(run, undisturbed)


def test_a_signal_between_two_seeds(place):
    config = place.config({"trainer.epochs": 1})
    flags = ("--config", config, "--seeds", "0,1")
    assert place.train_in_child(*flags, at="step", count=6, number=signal.SIGTERM) == 143
    run = place.newest()
    first = (run.models / "seed-0" / "last.pth").stat().st_mtime_ns
    place.train(*flags, "--resume", "auto")
    assert set(run.results["seeds"]) == {"0", "1"}
    assert (run.models / "seed-0" / "last.pth").stat().st_mtime_ns == first


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "input/output error"),
    ],
)
def test_a_disk_that_refuses_a_checkpoint(place, capsys, monkeypatch, undisturbed, number, words):
    config = place.config(SETTINGS)
    writes = []
    save = torch.save

    def refuse(content, file):
        writes.append(content["epoch"])
        if len(writes) > 1:
            raise OSError(number, os.strerror(number))
        save(content, file)

    monkeypatch.setattr(torch, "save", refuse)
    place.fails(capsys, "--config", config, words=[words, "/clotho-tiny/", ".pth"])
    monkeypatch.undo()
    run = place.newest()
    assert load_checkpoint(run.last).epoch == 1
    assert not (run.log / "results.json").exists()
    assert not list(run.models.glob(".*.part"))
    assert_same_run(place.train("--config", config, "--resume", "auto"), undisturbed)


def test_a_file_size_limit(place, capsys, undisturbed):
    """A real limit: writes fail with EFBIG in the middle of the file, as on a full disk."""
    run = place.train("--config", place.config(SETTINGS | {"trainer.epochs": 1}))
    config = place.config(SETTINGS)
    before = content_of(run.last)
    size = run.last.stat().st_size
    with limited(resource.RLIMIT_FSIZE, size // 2):
        place.fails(capsys, "--config", config, "--resume", "auto", words=["ulimit -f", ".pth"])
    assert same(content_of(run.last), before)
    assert_same_run(place.train("--config", config, "--resume", "auto"), undisturbed)


def test_a_folder_that_may_not_be_written(place, capsys, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    config = place.config()
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    place.fails(capsys, "--config", config, words=["permission denied", "saved"])
