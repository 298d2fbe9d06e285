"""Files made to do harm are refused or contained."""

import re
import tracemalloc
from pathlib import Path

import pytest

import hostile_corpus
from hostile_corpus import CASES, run_case
from utils.errors import ProjectError
from watching import Watch

LONGEST = 20.0  # CPU seconds for the slowest reading, on a slow machine
WATCH = Watch(Path("/nowhere"))


@pytest.fixture
def watch(tmp_path, monkeypatch):
    monkeypatch.setattr(WATCH, "place", str(tmp_path))
    return WATCH


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.name}")
def test_hostile_files_are_contained(case, tmp_path, watch):
    inside = tmp_path / "inside"
    inside.mkdir()
    outcome, message, seconds = run_case(case, inside, watch)
    assert outcome == case.outcome, message
    assert re.search(case.says, message)
    assert seconds < LONGEST
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_there_are_many_different_cases():
    assert len({(case.kind, case.name) for case in CASES}) == len(CASES) >= 60
    assert {case.kind for case in CASES} == {
        "pickle", "checkpoint", "hdf5", "json", "config", "yaml", "list", "archive",
    }  # fmt: skip


@pytest.mark.parametrize(
    "case", [case for case in CASES if "again and again" in case.name], ids=lambda case: case.name
)
def test_what_is_asked_for_again_and_again_takes_little_memory(case, tmp_path):
    path = tmp_path / f"hostile{case.suffix}"
    case.make(path)
    tracemalloc.start()
    with pytest.raises(ProjectError):
        case.read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 << 20


def test_the_watch_would_notice_an_attack_that_works(tmp_path, watch):
    """Python's own unpickler runs the first case: the same check then says so."""
    attack = next(case for case in CASES if case.name == "posix.system, as pickle writes it")
    naive = hostile_corpus.Case("pickle", "naive", ".pkl", attack.make, _unpickle)
    outcome, message, _ = run_case(naive, tmp_path, watch)
    assert outcome == "executed"
    assert "it acted" in message


def _unpickle(path):
    import pickle

    with path.open("rb") as file:
        return pickle.load(file)


def test_the_watch_would_notice_a_file_written_elsewhere(tmp_path, watch):
    inside = tmp_path / "inside"
    inside.mkdir()
    watch.place = str(inside)
    case = hostile_corpus.Case(
        "list", "writes", ".txt", Path.touch, lambda path: (tmp_path / "x").write_text("x")
    )
    outcome, message, _ = run_case(case, inside, watch)
    assert outcome == "unexplained"
    assert str(tmp_path / "x") in message


def test_an_error_that_does_not_name_the_file_is_unexplained(tmp_path, watch):
    from utils.errors import DataError

    def read(path):
        raise DataError("something is wrong")

    case = hostile_corpus.Case("list", "vague", ".txt", Path.touch, read)
    assert run_case(case, tmp_path, watch)[0] == "unexplained"
