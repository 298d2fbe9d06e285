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


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "good", name="clotho-good", clips=60, skill=3.0)
    write_run(folder / "bad", name="clotho-bad", clips=60, skill=0.5)
    write_run(folder / "like", name="clotho-like", clips=60, skill=3.0)
    return folder


def test_a_large_difference_is_more_than_chance(runs):
    (pair,) = compare_runs(load_runs([runs / "good", runs / "bad"]), rounds=1000)
    found = pair.differences["t2v"]["R1"]
    assert found.difference > 0
    assert found.low > 0
    assert pair.count == 14
    assert pair.corrected["t2v", "R1"] == pytest.approx(max(14 * found.p, 14 / 1001), rel=1)
    lines = sentences(pair)
    assert lines[0].startswith("text-to-audio (t2v): clotho-good finds the right clip first for")
    assert f"{found.difference:.1f} points more queries than clotho-bad" in lines[0]
    assert "more than chance" in lines[0]


def test_the_better_one_is_named_first_whatever_the_order(runs):
    (pair,) = compare_runs(load_runs([runs / "bad", runs / "good"]), rounds=200)
    assert pair.differences["t2v"]["R1"].difference < 0
    assert "clotho-good finds the right clip first" in sentences(pair)[0]


def test_likes_could_be_chance_and_the_scope_is_said(runs, tmp_path):
    (pair,) = compare_runs(load_runs([runs / "good", runs / "like"]), rounds=200)
    assert "could be chance" in sentences(pair)[0]
    assert "other trainings" in sentences(pair)[-1]
    for name in "ab":
        write_run(tmp_path / name, name=f"clotho-{name}", seeds=(0,))
    (pair,) = compare_runs(load_runs([tmp_path / "a", tmp_path / "b"]), rounds=200)
    assert "nothing about other trainings" in sentences(pair)[-1]


def test_more_runs_are_corrected_together(runs):
    pairs = compare_runs(load_runs([runs / n for n in ("good", "bad", "like")]), rounds=200)
    assert [pair.count for pair in pairs] == [28, 28]
    assert all(pair.corrected["t2v", "R1"] >= pair.differences["t2v"]["R1"].p for pair in pairs)


def test_other_terms_and_other_queries_are_refused(runs, tmp_path):
    write_run(tmp_path / "fused", name="clotho-x", clips=60, protocol={"fused": True})
    write_run(tmp_path / "list", name="clotho-x", clips=60, list_sha="other")
    write_run(tmp_path / "names", name="clotho-x", clips=60, names=[f"x{n}" for n in range(60)])
    write_run(tmp_path / "none", name="clotho-x", clips=60, ranks=False)
    good = runs / "good"
    for other, word in (("fused", "protocol.fused"), ("list", "sha256"), ("names", "clip 1")):
        with pytest.raises(UsageError, match=word):
            compare_runs(load_runs([good, tmp_path / other]), rounds=200)
    with pytest.raises(DataError, match="seed 0"):
        compare_runs(load_runs([good, tmp_path / "none"]), rounds=200)


def published_run(folder, shift):
    """A run whose means are those of the published row, moved by `shift`."""
    experiment = load_experiments()["clotho-train-vggish-vggsound"]
    write_run(folder, name=experiment.name, ranks=False)
    path = folder / "results.json"
    content = json.loads(path.read_text())
    for place, metrics in enumerate(content["seeds"].values()):
        for task in ("t2v", "v2t"):
            for metric in metrics[f"{task}_metrics"]:
                key = "geom" if metric.startswith("geometric") else metric
                mean, deviation = experiment.published[task][key]
                metrics[f"{task}_metrics"][metric] = mean + shift + deviation * (place - 1)
    path.write_text(json.dumps(content))
    return load_run(folder), experiment


def test_the_published_row_itself_does_not_differ(tmp_path):
    found = compare_with_published(*published_run(tmp_path, 0.0))
    assert set(found.p.values()) == {1.0}
    assert len(found.p) == 14


def test_each_side_counts_its_own_seeds(tmp_path):
    run, experiment = published_run(tmp_path, 0.5)
    few = replace(run, seeds={seed: run.seeds[seed] for seed in ("0", "1")})
    row = experiment.published["t2v"]["R1"]
    here = spread(few.values("t2v", "R1"))
    expected = welch((*here, 2), (*row, len(experiment.runs)), ROUNDING)
    assert compare_with_published(few, experiment).p["t2v", "R1"] == expected
    assert expected != welch((*here, len(experiment.runs)), (*row, 2), ROUNDING)


def test_far_from_the_published_row_differs(tmp_path):
    found = compare_with_published(*published_run(tmp_path, 30.0))
    assert found.corrected["t2v", "R1"] < 0.05
    assert compare.main([str(tmp_path), "--published"]) == 0


def test_single_seeds_and_parts_are_not_compared_with_published(tmp_path):
    experiment = load_experiments()["clotho-train-vggish-vggsound"]
    write_run(tmp_path / "a", seeds=(0,))
    write_run(tmp_path / "b", change={"mini_train": True})
    for name in "ab":
        with pytest.raises(UsageError):
            compare_with_published(load_run(tmp_path / name), experiment)


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv"])
def test_the_commands_print_tables_in_every_form(runs, capsys, form):
    names = [str(runs / "good"), str(runs / "bad")]
    assert compare.main([*names, "--rounds", "100", "--format", form]) == 0
    assert "95" in capsys.readouterr().out
    assert tables.main([*names, "--format", form]) == 0
    assert "clotho-good" in capsys.readouterr().out


def test_a_table_fits_a_terminal(runs, capsys):
    assert compare.main([str(runs / "good"), str(runs / "bad"), "--rounds", "100"]) == 0
    table = capsys.readouterr().out.split("\n\n")[1]
    assert max(map(len, table.splitlines())) <= 80


def test_wrong_calls(runs, capsys):
    assert compare.main([str(runs / "good")]) == 2
    assert compare.main([str(runs / "good"), str(runs / "bad"), "--rounds", "3"]) == 2
    assert compare.main([str(runs / "good"), "--published", "nothing"]) == 2
    assert compare.main([str(runs / "missing"), str(runs / "bad")]) == 2
    assert capsys.readouterr().err.count("error:") == 4


def test_probabilities_are_short():
    assert [probability(p) for p in (0.0004, 0.0123, 0.212, 1.0)] == [
        "<0.001",
        "0.012",
        "0.21",
        "1.00",
    ]
