"""Comparisons: the table, the sentence, what is refused, and the published row."""

import json
from dataclasses import replace

import pytest

from misc import compare, tables
from results.comparison import (
    ROUNDING,
    compare_runs,
    compare_with_published,
    probability,
    sentences,
)
from results.runs import load_run, load_runs
from results.statistics import welch
from results.tables import spread
from stored_runs import write_run
from utils.errors import DataError, UsageError
from utils.fetching.experiments import load_experiments

R1 = ("t2v", "R1")
EXPERIMENT = load_experiments()["clotho-train-vggish-vggsound"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, skill in (("good", 3.0), ("bad", 0.5), ("like", 3.0)):
        write_run(folder / name, name=f"clotho-{name}", clips=60, skill=skill)
    return folder


def pairs_of(*folders, rounds=200):
    return compare_runs(load_runs(folders), rounds=rounds)


def test_a_large_difference_is_more_than_chance(runs):
    (pair,) = pairs_of(runs / "good", runs / "bad", rounds=1000)
    found = pair.differences[R1]
    assert found.difference > 0
    assert found.low > 0
    assert pair.count == 14
    assert pair.corrected[R1] == pytest.approx(max(14 * found.p, 14 / 1001), rel=1)
    first, *_ = sentences(pair)
    assert first.startswith("text-to-audio (t2v): clotho-good finds the right clip first for")
    assert f"{found.difference:.1f} points more queries than clotho-bad" in first
    assert "more than chance" in first


def test_the_better_one_is_named_first_whatever_the_order(runs):
    (pair,) = pairs_of(runs / "bad", runs / "good")
    assert pair.differences[R1].difference < 0
    assert "clotho-good finds the right clip first" in sentences(pair)[0]


def test_likes_could_be_chance_and_the_scope_is_said(runs, tmp_path):
    (pair,) = pairs_of(runs / "good", runs / "like")
    assert "could be chance" in sentences(pair)[0]
    assert "other trainings" in sentences(pair)[-1]
    for name in "ab":
        write_run(tmp_path / name, name=f"clotho-{name}", seeds=(0,))
    (pair,) = pairs_of(tmp_path / "a", tmp_path / "b")
    assert "nothing about other trainings" in sentences(pair)[-1]


def test_more_runs_are_corrected_together(runs):
    pairs = pairs_of(*(runs / name for name in ("good", "bad", "like")))
    assert [pair.count for pair in pairs] == [28, 28]
    for pair in pairs:
        assert all(pair.corrected[key] >= found.p for key, found in pair.differences.items())
    assert pairs[0].corrected[R1] < 0.2 < pairs[1].corrected[R1]  # each has its own


@pytest.mark.parametrize(
    ("change", "kind", "word"),
    [
        ({"protocol": {"fused": True}}, UsageError, "protocol.fused"),
        ({"list_sha": "other"}, UsageError, "sha256"),
        ({"names": [f"x{n}" for n in range(60)]}, UsageError, "clip 1"),
        ({"ranks": False}, DataError, "seed 0"),
    ],
)
def test_other_terms_and_other_queries_are_refused(runs, tmp_path, change, kind, word):
    write_run(tmp_path, name="clotho-x", clips=60, **change)
    with pytest.raises(kind, match=word):
        pairs_of(runs / "good", tmp_path)


def published_run(folder, shift):
    """A run whose means are those of the published row, moved by `shift`."""
    write_run(folder, name=EXPERIMENT.name, ranks=False)
    path = folder / "results.json"
    content = json.loads(path.read_text())
    for place, metrics in enumerate(content["seeds"].values()):
        for task in ("t2v", "v2t"):
            for metric in metrics[f"{task}_metrics"]:
                key = "geom" if metric.startswith("geometric") else metric
                mean, deviation = EXPERIMENT.published[task][key]
                metrics[f"{task}_metrics"][metric] = mean + shift + deviation * (place - 1)
    path.write_text(json.dumps(content))
    return load_run(folder)


def test_the_published_row_itself_does_not_differ(tmp_path):
    found = compare_with_published(published_run(tmp_path, 0.0), EXPERIMENT)
    assert set(found.p.values()) == {1.0}
    assert len(found.p) == 14


def test_each_side_counts_its_own_seeds(tmp_path):
    run = published_run(tmp_path, 0.5)
    few = replace(run, seeds={seed: run.seeds[seed] for seed in ("0", "1")})
    row, here = EXPERIMENT.published["t2v"]["R1"], spread(few.values(*R1))
    expected = welch((*here, 2), (*row, 3), ROUNDING)
    assert compare_with_published(few, EXPERIMENT).p[R1] == expected
    assert expected != welch((*here, 3), (*row, 2), ROUNDING)


def test_far_from_the_published_row_differs(tmp_path):
    found = compare_with_published(published_run(tmp_path, 30.0), EXPERIMENT)
    assert found.corrected[R1] < 0.05
    assert compare.main([str(tmp_path), "--published"]) == 0


@pytest.mark.parametrize("run", [{"seeds": (0,)}, {"change": {"mini_train": True}}])
def test_single_seeds_and_parts_are_not_compared_with_published(tmp_path, run):
    write_run(tmp_path, **run)
    with pytest.raises(UsageError):
        compare_with_published(load_run(tmp_path), EXPERIMENT)


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv"])
def test_the_commands_print_tables_in_every_form(runs, capsys, form):
    names = [str(runs / "good"), str(runs / "bad")]
    assert compare.main([*names, "--rounds", "100", "--format", form]) == 0
    printed = capsys.readouterr().out
    assert "95" in printed
    if form == "text":  # it fits a terminal
        assert max(map(len, printed.split("\n\n")[1].splitlines())) <= 80
    assert tables.main([*names, "--format", form]) == 0
    assert "clotho-good" in capsys.readouterr().out


@pytest.mark.parametrize(
    "call",
    [["good"], ["good", "bad", "--rounds", "3"], ["good", "--published", "no"], ["x", "bad"]],
)
def test_wrong_calls(runs, capsys, monkeypatch, call):
    monkeypatch.chdir(runs)
    assert compare.main(call) == 2
    assert "error:" in capsys.readouterr().err


def test_probabilities_are_short():
    expected = ["<0.001", "0.012", "0.21", "1.00"]
    assert [probability(p) for p in (0.0004, 0.0123, 0.212, 1.0)] == expected
