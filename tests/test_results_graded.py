"""Metrics of several relevant clips: by hand, by loops, and as a known library has them."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from results.graded import GRADED, graded_metrics, graded_results, read_relevances
from utils.errors import DataError


def by_loops(sims, relevances, name):
    """The metrics once more, query after query, straight from their definitions."""
    depth = int(name.split("@")[1])
    scores = []
    for row, grades in zip(sims, relevances, strict=True):
        if not any(grade > 0 for grade in grades):
            continue
        order = sorted(range(len(row)), key=lambda place: -row[place])[:depth]
        if name.startswith("mAP"):
            total = hits = 0
            for place, clip in enumerate(order, start=1):
                if grades[clip] > 0:
                    hits += 1
                    total += hits / place
            scores.append(total / min(depth, sum(grade > 0 for grade in grades)))
        else:
            gain = sum(grades[clip] / math.log2(1 + p) for p, clip in enumerate(order, start=1))
            ideal = sorted(grades, reverse=True)[:depth]
            most = sum(grade / math.log2(1 + p) for p, grade in enumerate(ideal, start=1))
            scores.append(gain / most)
    return 100 * sum(scores) / len(scores)


def test_worked_by_hand():
    sims = np.array([[4.0, 3.0, 2.0, 1.0]])
    found = graded_metrics(sims, np.array([[0.0, 2.0, 0.0, 1.0]]))["t2v"]
    assert found["mAP@10"] == pytest.approx(100 * (1 / 2 + 2 / 4) / 2)
    gain = 2 / math.log2(3) + 1 / math.log2(5)
    assert found["nDCG@10"] == pytest.approx(100 * gain / (2 + 1 / math.log2(3)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", GRADED)
def test_the_loops_agree(seed, name):
    draw = np.random.default_rng(seed)
    sims = draw.normal(size=(30, 25))
    relevances = draw.integers(0, 3, size=(30, 25)) * (draw.random((30, 25)) < 0.2)
    found = graded_metrics(sims, relevances)
    assert found["t2v"][name] == pytest.approx(by_loops(sims, relevances, name))
    assert found["v2t"][name] == pytest.approx(by_loops(sims.T, relevances.T, name))


def test_torchmetrics_agrees():
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval")
    import torch

    draw = np.random.default_rng(5)
    sims = draw.normal(size=(20, 30))
    relevances = draw.integers(0, 4, size=(20, 30)) * (draw.random((20, 30)) < 0.15)
    relevances[:, 0] = 1
    found = graded_metrics(sims, relevances)["t2v"]
    rows = [(torch.tensor(s), torch.tensor(r)) for s, r in zip(sims, relevances, strict=True)]
    expected = [retrieval.retrieval_normalized_dcg(s, r, top_k=10) for s, r in rows]
    assert found["nDCG@10"] == pytest.approx(100 * float(np.mean(expected)), abs=1e-4)
    # torchmetrics divides by the relevant clips among the first k: the same for depths below
    # which all of them lie
    few = np.where(np.arange(30) == np.argsort(-sims, axis=1)[:, [3]], 1, 0)
    mean = np.mean(
        [
            retrieval.retrieval_average_precision(torch.tensor(s), torch.tensor(r), top_k=10)
            for s, r in zip(sims, few, strict=True)
        ]
    )
    assert graded_metrics(sims, few)["t2v"]["mAP@10"] == pytest.approx(100 * float(mean))


def test_a_perfect_order_is_a_hundred():
    draw = np.random.default_rng(6)
    relevances = draw.integers(0, 3, size=(10, 8)).astype(float)
    relevances[:, 0] = 1
    found = graded_metrics(relevances, relevances)["t2v"]
    assert found == pytest.approx(dict.fromkeys(GRADED, 100))


def test_one_relevant_clip_gives_the_mean_of_one_over_its_place():
    draw = np.random.default_rng(7)
    sims = draw.normal(size=(40, 40))
    rank = (sims > np.diag(sims)[:, None]).sum(axis=1) + 1
    found = graded_metrics(sims, np.eye(40))["t2v"]["mAP@16"]
    assert found == pytest.approx(100 * np.mean(np.where(rank <= 16, 1 / rank, 0)))


def test_a_file_of_relevances_is_read(tmp_path):
    path = tmp_path / "grades.json"
    path.write_text(json.dumps({"a": [{"a": 1}, {"b": 0.5}], "b": [{}], "c": []}))
    found = read_relevances(path, ["a", "b"], [(0, 0), (0, 1), (1, 0)])
    assert found.tolist() == [[1, 0], [0, 0.5], [0, 0]]


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"a": 1},
        {"a": [], "b": []},
        {"a": [{"x": 1}], "b": [{}]},
        {"a": [{"a": -1}], "b": [{}]},
        {"a": [{"a": True}], "b": [{}]},
        {"a": [{"a": "1"}], "b": [{}]},
        {"a": [{}], "b": [{}]},
    ],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "grades.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"grades\.json"):
        read_relevances(path, ["a", "b"], [(0, 0), (1, 0)])


def test_results_name_the_metrics_and_leave_missing_captions_out(tmp_path):
    path = tmp_path / "grades.json"
    path.write_text(json.dumps({"a": [{"a": 1}, {"b": 1}], "b": [{"b": 2, "a": 1}]}))
    sims = np.array([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0], [9.0, 9.0]])
    scored = SimpleNamespace(similarities=sims, query_masks=np.array([[1, 1], [1, 0]]))
    found = graded_results(path, scored, ["a", "b"])
    assert found["t2v"]["mAP@10"] == pytest.approx(100 * (1 + 1 / 2 + 1) / 3)
    assert set(found["definitions"]) == {*GRADED, "t2v", "v2t"}
    assert len(found["sha256"]) == 64
