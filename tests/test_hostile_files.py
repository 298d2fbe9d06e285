"""Files made to do harm are refused or contained; fuzzing finds no other end of reading them."""

import re
import tracemalloc
from pathlib import Path

import pytest

import hostile_corpus
from hostile_corpus import CASES, run_case
from misc.fuzz import KINDS, Watch, main, mutation, seed_contents
from utils.errors import ProjectError

LONGEST = 20.0  # seconds for the slowest reading, on a slow machine
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


def test_a_short_fuzz_of_every_kind_explains_everything(tmp_path, capsys):
    assert main(["--mutations", "15", "--seed", "1", "--keep", str(tmp_path / "kept")]) == 0
    said = capsys.readouterr().out
    assert f"{15 * len(KINDS)} mutations, 0 unexplained" in said
    assert list((tmp_path / "kept").iterdir()) == []


def test_mutations_repeat_and_differ(tmp_path):
    for name, kind in KINDS.items():
        seeds = seed_contents(kind, tmp_path / name)
        first = [mutation(kind, seeds, 0, name, number) for number in range(20)]
        assert first == [mutation(kind, seeds, 0, name, number) for number in range(20)]
        assert first != [mutation(kind, seeds, 1, name, number) for number in range(20)]
        assert len(set(first)) > 10


def test_what_is_unexplained_is_counted_and_kept(tmp_path, capsys):
    """A reading that fails, one that hangs and one that kills its process are all seen."""
    script = Path(__file__).with_name("fuzz_failures.py")
    import sys
    from subprocess import run

    ended = run(
        [sys.executable, script, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1, ended.stderr
    for line in ("ZeroDivisionError", "took more than 1 s", "the process died (-9)"):
        assert line in ended.stdout
    assert len(list(tmp_path.iterdir())) == 3


def test_an_unknown_kind_names_the_nearest(capsys):
    assert main(["--kind", "pikle"]) == 2
    assert "did you mean 'pickle'?" in capsys.readouterr().err
