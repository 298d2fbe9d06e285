"""Training and evaluation keep the ranks that their metrics come from."""

import json

import numpy as np
import pytest

from misc import audit_dataset, compare, report, tables
from results.ranks import read_ranks
from small_runs import CE, Place, make_data


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    (folder / "source").mkdir()
    return Place(folder, make_data(folder / "source"))


@pytest.fixture(scope="module")
def run(place):
    return place.train("--config", place.config({"trainer.epochs": 1}, base=CE), "--seeds", "0,1")


def test_training_keeps_the_ranks_of_every_seed(place, run):
    for seed, reached in run.results["seeds"].items():
        ranks = read_ranks(run.log / f"seed-{seed}" / "ranks.npz")
        metrics = ranks.metrics()
        assert metrics == {task: reached[task] for task in metrics}
        assert list(ranks.clips) == place.data.clips["test"]
        words = place.data.captions[ranks.clips[ranks.query_clip[3]]][ranks.query_caption[3]]
        assert ranks.captions[3] == " ".join(words)
        assert ranks.experts == ("audio", "vggsound")
        assert np.allclose(ranks.weights.sum(axis=1), 1, atol=1e-5)


def test_the_visualizer_of_released_configs_asks_for_the_page(place, run):
    assert not (run.log / "report.html").exists()
    args = {"src_video_dir": None, "vis_vid_freq": 5, "num_samples": 10}
    changes = {"trainer.epochs": 1, "visualizer": {"type": "RetrievalVis", "args": args}}
    config = place.config(changes, base=CE, name="seen")
    page = place.train("--config", config, name="clotho-seen").log / "report.html"
    assert "All queries" in page.read_text(encoding="utf-8")


def test_evaluation_keeps_the_same_ranks_and_the_graded_metrics(place, run):
    grades = {
        clip: [{clip: 1.0}] * len(captions)
        for clip, captions in place.data.captions.items()
        if clip in place.data.clips["test"]
    }
    file = place.folder / "grades.json"
    file.write_text(json.dumps(grades))
    checkpoint = run.models / "seed-1" / "trained_model.pth"
    results = place.evaluate("--resume", checkpoint, "--relevances", file)
    ranks = read_ranks(place.folder / "scored" / "seed-1" / "ranks.npz")
    trained = read_ranks(run.log / "seed-1" / "ranks.npz")
    assert ranks.identity() == trained.identity()
    assert np.array_equal(ranks.t2v_ranks, trained.t2v_ranks)
    expected = 100 * np.mean(np.where(ranks.t2v_ranks < 10, 1 / (ranks.t2v_ranks + 1), 0))
    assert results["graded"]["t2v"]["mAP@10"] == pytest.approx(expected)
    assert results["protocol"]["ties"]


def test_the_commands_read_what_was_kept(place, run, capsys):
    first, second = run.models, place.folder / "scored"
    assert compare.main([str(first), str(second), "--rounds", "100"]) == 0
    assert tables.main([str(first), str(second), "--format", "csv"]) == 0
    out = place.folder / "page.html"
    assert report.main([str(first), str(second), "--out", str(out)]) == 0
    assert out.stat().st_size > 10_000
    config = place.config(base=CE, name="audited")
    place.call(audit_dataset.main, "--config", config)
    assert "sha256 of the list" in capsys.readouterr().out
