"""results/published.py: means, deviations, and which values lie outside the published ones."""

import json
import math
import statistics

import pytest

from model.metric import METRICS
from results.published import compare, render, summarise, verdict
from utils.fetching.experiments import EACH_CAPTION, JOINED, find_experiment

NAME = "audiocaps-train-vggish-vggsound"
FORMS = ("text", "markdown", "latex", "json")
GEOM = "geometric_mean_R1-R5-R10"
# metric -> (published mean, published deviation), text-to-audio
T2V = {"R1": (23.1, 0.8), "R5": (55.1, 0.9), "R10": (70.7, 0.7), "R50": (92.9, 0.5)}
T2V |= {"MedR": (4.7, 0.6), "MeanR": (16.5, 0.6), GEOM: (44.8, 0.8)}
V2T = {"R1": (25.1, 0.9), "R5": (57.1, 1.0), "R10": (73.2, 1.6), "R50": (92.5, 0.2)}
V2T |= {"MedR": (4.0, 0.0), "MeanR": (17.0, 0.1), GEOM: (47.2, 1.1)}


def seeds_around(shift=0.0, spread=1.0, **changed):
    """Three seeds whose means are the published ones, all shifted; `changed` sets t2v means."""
    return {
        str(seed): {
            f"{task}_metrics": {
                metric: (changed.get(metric, mean) if task == "t2v" else mean)
                + shift
                + spread * (seed - 1)
                for metric, (mean, _) in row.items()
            }
            for task, row in (("t2v", T2V), ("v2t", V2T))
        }
        for seed in range(3)
    }


def content(seeds, parameters=21_864_536):
    protocol = {"queries": EACH_CAPTION}
    return {"seeds": seeds, "trainable_parameters": parameters, "protocol": protocol}


def comparison(seeds, parameters=21_864_536, name=NAME):
    return compare(content(seeds, parameters), name, find_experiment(name))


def outside(result):
    cells = [(task, *item) for task, cells in result.tasks.items() for item in cells.items()]
    return [(task, metric) for task, metric, cell in cells if cell.outside]


def test_mean_and_deviation_worked_by_hand():
    seeds = seeds_around()
    for seed, value in zip(seeds, (10.0, 12.0, 17.0), strict=True):
        seeds[seed]["t2v_metrics"]["R1"] = value
    cell = comparison(seeds).tasks["t2v"]["R1"]
    assert cell.here.mean == pytest.approx(13.0)
    assert cell.here.std == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert cell.difference == pytest.approx(13.0 - 23.1)
    assert cell.allowed == pytest.approx(2 * 0.8 + 0.05)
    assert str(cell.here) == "13.0 (3.6)"


def test_the_summary_has_the_form_of_results_json():
    seeds = seeds_around(spread=0.7)
    summary = summarise(seeds)
    assert set(summary) == {"t2v_metrics", "v2t_metrics"}
    for task, metrics in summary.items():
        assert set(metrics) == set(METRICS)
        for metric, value in metrics.items():
            values = [seed[task][metric] for seed in seeds.values()]
            assert value["mean"] == pytest.approx(statistics.fmean(values))
            assert value["std"] == pytest.approx(statistics.stdev(values))
    assert summarise({"0": seeds["0"]})["t2v_metrics"]["R1"]["std"] is None


def test_an_exact_repetition_is_inside_everywhere():
    """Up to the rounding of what was published, also where its deviation is printed as 0.0."""
    assert "-0.0" not in render([comparison(seeds_around())])
    for rounding in (0.0, 0.0499, -0.0499, 0.05, -0.05):
        result = comparison(seeds_around(rounding))
        assert outside(result) == []
        assert "All 14 published values are matched within two deviations." in verdict([result])
    assert outside(comparison(seeds_around(0.06))) == [("v2t", "MedR")]


def test_each_value_outside_is_named_with_both_numbers():
    result = comparison(seeds_around(R1=23.1 + 1.66, MeanR=16.5 - 1.26, R5=55.1 - 1.84))
    assert outside(result) == [("t2v", "R1"), ("t2v", "MeanR")]
    line = verdict([result])[0]
    assert line.startswith(f"OUTSIDE two published deviations: {NAME} t2v: R@1")
    assert "R@1 24.8 (1.0) against 23.1 (0.8) (+1.66)" in line
    assert "MnR 15.2 (1.0) against 16.5 (0.6) (-1.26)" in line
    assert "R@5" not in line
    assert not any("All 14" in text for text in verdict([result]))


def test_infinite_and_missing_numbers_are_outside_and_no_crash():
    seeds = seeds_around()
    seeds["1"]["t2v_metrics"]["MeanR"] = math.inf
    seeds["2"]["v2t_metrics"]["R1"] = math.nan
    result = comparison(seeds)
    assert outside(result) == [("t2v", "MeanR"), ("v2t", "R1")]
    for form in FORMS:
        text = render([result], form)
        assert text.endswith("\n")
    data = json.loads(render([result], "json"), parse_constant=pytest.fail)
    assert data[0]["tasks"]["t2v"]["MeanR"]["mean"] is None


def test_another_number_of_parameters_is_said():
    for parameters, lines in ((1000, 1), (21_864_536, 0)):
        said = verdict([comparison(seeds_around(), parameters)])
        assert sum("OTHER SIZE" in line for line in said) == lines


def test_the_text_table():
    text = render([comparison(seeds_around(0.3))], "text")
    t2v, v2t, said = text.split("\n\n")
    title, head, here, published, difference = t2v.splitlines()
    assert title == "text-to-audio (t2v)"
    assert head.split() == ["R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "Geom", "params"]
    assert here.split()[:5] == [f"{NAME},", "3", "seeds", "23.4", "(1.0)"]
    assert here.endswith("21,864,536")
    assert " ".join(published.split()).startswith(
        "published: CE - VGGish + VGGSound (2021) 23.1 (0.8) 55.1 (0.9)"
    )
    assert difference.split() == ["difference", *["+0.3"] * 7, "+0"]
    assert said.splitlines()[-1] == f"Queries: {EACH_CAPTION}"
    assert v2t.startswith("audio-to-text (v2t)")
    assert v2t.splitlines()[-1].split().count("*") == 2  # MdR 0.0, MnR 0.1
    assert said.startswith("OUTSIDE two published deviations: ")
    assert "printed as 0.0" in said
    one_seed = render([comparison({"0": seeds_around()["1"]})], "text").splitlines()[2]
    assert one_seed.split()[1:5] == ["1", "seed", "23.1", "55.1"]


def test_an_experiment_without_a_published_row():
    name = "audiocaps-train-vggish-vggsound-train_list_10"
    alone = comparison(seeds_around(), name=name)
    own = compare(content(seeds_around(), 5), "my own")
    text = render([alone, own], "text")
    assert "published:" not in text
    assert "difference" not in text
    assert verdict([alone, own]) == [f"Without a published row: {name}"]
    assert verdict([own]) == []  # nobody expects one


def test_markdown_is_one_table_per_task():
    text = render([comparison(seeds_around(0.06)), comparison(seeds_around())], "markdown")
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        lines = table.splitlines()
        assert len(lines) == 2 + 6
        assert {line.count("|") for line in lines} == {10}
        assert set(lines[1]) == set("| -:")
    assert "+0.1 \\* |" in tables[1]
    assert "*" not in text.replace("\\*", "")


def test_latex_is_escaped():
    name = "a_b%c&d#e$f{g}\\h"
    text = render([compare(content(seeds_around(), 5), name)], "latex")
    rows = [line for line in text.splitlines() if line.startswith("a")]
    assert len(rows) == 2
    expected = r"a\_b\%c\&d\#e\$f\{g\}\textbackslash{}h, 3 seeds & 23.1 (1.0) & "
    assert all(row.endswith(" & 5 \\\\") and row.count(" & ") == 8 for row in rows)
    assert rows[0].startswith(expected)
    assert text.count("\\begin{tabular}{lrrrrrrrr}") == text.count("\\end{tabular}") == 2


def test_the_protocol_is_named_in_every_form():
    mmt = comparison(seeds_around(), name="clotho-train-vggish-vggsound-mmt")
    for form in ("text", "markdown", "latex"):
        text = render([mmt, comparison(seeds_around())], form)
        assert f"{mmt.name}, 3 seeds ({JOINED})" in text
        assert "published: MMT - VGGish + VGGSound (2022, captions joined)" in text
        assert text.splitlines()[-2:][0].endswith(f"Queries, {EACH_CAPTION}: {NAME}")
        assert text.splitlines()[-1].endswith(f"Queries, {JOINED}: {mmt.name}")
    first, second = json.loads(render([mmt, comparison(seeds_around())], "json"))
    assert (first["paper"], first["queries"], len(first["flags"])) == ("2022", JOINED, 1)
    assert (second["paper"], second["queries"], second["flags"]) == ("2021", EACH_CAPTION, [])


def test_json_holds_every_number():
    data = json.loads(render([comparison(seeds_around(0.06), 7)], "json"))[0]
    assert (data["experiment"], data["seeds"], data["parameters"]) == (NAME, ["0", "1", "2"], 7)
    assert data["published_parameters"] == 21_864_536
    cell = data["tasks"]["v2t"]["MedR"]
    assert cell["published"] == {"mean": 4.0, "std": 0.0}
    assert cell["mean"] == pytest.approx(4.06)
    assert cell["difference"] == pytest.approx(0.06)
    assert (cell["outside"], cell["allowed"]) == (True, 0.05)
    assert set(data["tasks"]["t2v"]) == set(METRICS)


def test_results_with_more_and_fewer_metrics_share_a_table():
    more, fewer = seeds_around(), seeds_around()
    for seed in more.values():
        seed["t2v_metrics"]["MRR"] = 0.25
    for seed in fewer.values():
        del seed["t2v_metrics"]["MeanR"]
    del fewer["2"]["t2v_metrics"]["R50"]  # one seed without it: no mean of all
    results = [comparison(more), comparison(fewer)]
    assert summarise(more)["t2v_metrics"]["MRR"] == {"mean": 0.25, "std": 0.0}
    assert not {"MeanR", "R50"} & summarise(fewer)["t2v_metrics"].keys()
    assert outside(results[1]) == []
    head, *rows = render(results, "text").split("\n\n")[0].splitlines()[1:]
    assert head.split() == ["R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "Geom", "MRR", "params"]
    cells = rows[3].split("seeds")[1].replace(" (", "(").split()
    assert [cells[3], cells[5], cells[7]] == ["-", "-", "-"]
    for form in FORMS:
        assert "MRR" in render(results, form)
    assert json.loads(render(results, "json"))[1]["tasks"]["t2v"]["MeanR"]["mean"] is None
