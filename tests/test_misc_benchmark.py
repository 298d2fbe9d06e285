"""The benchmark: its opponent does the same work, and its report has the shape that is promised."""

import json
import math

import numpy as np
import pytest
import torch

from data_loader import build_dataset
from golden import build_recorded_model, load_case, model_inputs, published_state
from misc import benchmark
from misc.benchmarking import reference, stages
from misc.benchmarking.limit import Limit
from misc.benchmarking.made_up_data import write_data_set, write_sparse_data_set
from model.loss import MaxMarginRankingLoss
from model.metric import t2v_ranks, v2t_ranks
from trainer.optimizer import Ranger
from utils.config import load_config

MODELS = ["ce2_missing", "extra_ce3_noself_h1_relu", "mimic_audio", "moee2_missing"]
SIZES = {"train": 9, "val": 4, "test": 3}


def recorded(name):
    case, arrays = load_case(name)
    run = next(run for run, spec in case["runs"].items() if spec["train"])
    model = build_recorded_model(case["constructor"], published_state(arrays))
    return model.train(), model_inputs(arrays, run, model.names)


@pytest.mark.parametrize("name", MODELS)
def test_the_opponent_takes_the_same_steps(name):
    model, (text, experts, available) = recorded(name)
    text = text[:, :1]
    experts = {n: value.nan_to_num() for n, value in experts.items()}
    available = {n: value.float() for n, value in available.items()}
    plain = reference.with_plain_layers(model)
    ours = Ranger(model.parameters(), lr=0.01, weight_decay=1e-3)
    theirs = reference.Ranger(plain.parameters(), lr=0.01, weight_decay=1e-3)
    losses = []
    for _ in range(8):  # past the first adaptive and the first Lookahead step
        loss = MaxMarginRankingLoss(0.2)(model(text, experts, available))
        ours.zero_grad()
        loss.backward()
        ours.step()
        sims = reference.similarities(plain, text, experts, available)
        expected = reference.ranking_loss(sims, 0.2)
        theirs.zero_grad()
        expected.backward()
        theirs.step()
        losses.append((loss.item(), expected.item()))
    found, expected = zip(*losses, strict=True)
    assert found == pytest.approx(expected, abs=1e-4)
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    assert found[0] != pytest.approx(found[-1], abs=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_the_opponent_evaluates_the_same(name):
    model, (text, experts, available) = recorded(name)
    model.eval()
    experts = {n: value.nan_to_num() for n, value in experts.items()}
    plain = reference.with_plain_layers(model)
    available = {n: value.float() for n, value in available.items()}
    sims = reference.evaluate(plain, text, experts, available)
    with torch.no_grad():
        expected = model(text, experts, available).numpy()
    np.testing.assert_allclose(sims, expected, atol=1e-6)


def test_the_opponent_ranks_the_same():
    sims = np.random.default_rng(0).normal(size=(60, 20)).round(1).astype(np.float32)
    np.testing.assert_array_equal(reference.t2v_ranks_by_sorting(sims), t2v_ranks(sims))
    np.testing.assert_array_equal(reference.v2t_ranks_by_sorting(sims), v2t_ranks(sims))


def test_the_opponent_collates_the_same():
    words, tokens = np.ones((3, 2), np.float32), np.full((4, 2), 2.0, np.float32)
    clips = [
        ([words], {"a": tokens, "b": tokens[0]}),
        ([words[:1]], {"a": tokens[:1], "b": words[0]}),
    ]
    text, experts, available = reference.collate(clips, {"a": 3, "b": None}, 2, [0, 0])
    assert text.tolist() == [[[[1, 1], [1, 1]]], [[[1, 1], [0, 0]]]]
    assert experts["a"].sum(dim=(1, 2)).tolist() == [12, 4]
    assert experts["b"].tolist() == [[2, 2], [1, 1]]
    assert available["b"].tolist() == [1, 1]
    assert {text.dtype, *(value.dtype for value in experts.values())} == {torch.float32}


def test_the_limit_counts_matrix_products():
    rows = torch.randn(6, 5)
    layer = torch.nn.Linear(5, 4)
    other = torch.randn(2, 3, 4), torch.randn(2, 4, 5)
    limit = Limit(lambda: layer(rows).sum() + torch.bmm(*other).sum(), parameters=10)
    # forward 6x5x4, the gradient of the weight 6x5x4, two products 3x4x5
    assert limit.flops == 2 * (6 * 5 * 4 * 2 + 2 * 3 * 4 * 5)
    assert len(limit._calls) == 3
    limit.run()


@pytest.fixture
def config_of(tmp_path):
    def make(experts):
        args = benchmark.parse_arguments(["--quick", "--experts", str(experts)])
        return load_config(benchmark.write_config(tmp_path, args))

    return make


@pytest.mark.parametrize("write", [write_data_set, write_sparse_data_set])
@pytest.mark.parametrize("experts", benchmark.EXPERIMENTS)
def test_made_up_data_can_be_read(config_of, write, experts):
    config = config_of(experts)
    assert len(config.experts) == experts
    write(config, SIZES)
    data = build_dataset(config, "train")
    assert len(data) == SIZES["train"]
    text, features, available = data.batch([0, 8], [0, 0])
    assert text.shape == (2, 1, 20, 300)
    assert all(mask.tolist() == [1, 1] for mask in available.values())
    assert set(features) == {expert.name for expert in config.experts}
    for value in [text, *features.values()]:
        noise = write is write_data_set
        assert value.any() == noise
        assert not noise or not torch.equal(value[0], value[1])
    masks = build_dataset(config.for_evaluation(), "test").evaluation()[3]
    assert masks.shape == (3, 5)


def test_holes_take_no_room(config_of, tmp_path):
    write_sparse_data_set(config_of(2), {**SIZES, "train": 3000})
    [packed] = (tmp_path / "packed").rglob("*vggsound*.packed")
    assert packed.stat().st_size > 3000 * 29 * 512 * 4
    assert packed.stat().st_blocks * 512 < packed.stat().st_size / 10


def test_measured_steps_are_those_of_training(tmp_path, monkeypatch):
    flags = ["--quick", "--custom_args", "trainer.precision@tf32+trainer.compile@true"]
    config = benchmark.write_config(tmp_path, benchmark.parse_arguments(flags))
    write_sparse_data_set(load_config(config), {**SIZES, "train": 40})
    precisions, modes = [], []
    monkeypatch.setattr(stages, "set_precision", precisions.append)
    monkeypatch.setattr(torch, "compile", lambda step, **how: modes.append(how) or step)
    settings = {"config": config, "device": None, "reference": False, "rounds": 0, "steps": 1}
    stages.run("steps", settings)
    assert precisions == ["tf32"]
    assert modes == [{"dynamic": False}]


def test_summaries_by_hand():
    figures = {
        "limit": [1.0, 3.0, 2.0],
        "step": [4.0, 8.0, 6.0],
        "reference step": [8.0, 24.0, 6.0],
        "training: peak private": [100.0],
    }
    report = benchmark.summarise(figures)
    assert report["step"] == {
        "unit": "s",
        "median": 6.0,
        "low": 4.0,
        "high": 8.0,
        "count": 3,
        "of_limit": 3.0,
        "speedup": 2.0,  # of 2, 3 and 1
    }
    assert report["training: peak private"]["unit"] == "B"
    assert "of_limit" not in report["training: peak private"]


def test_quick_run_reports_everything(tmp_path, capsys):
    file = tmp_path / "report.json"
    flags = ["--quick", "--reference", "--folder", str(tmp_path), "--json", str(file)]
    assert benchmark.main(flags) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report.keys() == {"date", "machine", "size", "figures", "growth"}
    assert report["machine"].keys() == {"processor", "device", "python", "torch", "cores"}
    assert report["size"]["experts"] == 2
    assert report["size"]["step_gflop"] > 0
    parts = ("", ": batch", ": forward", ": backward", ": optimiser")
    timed = {"packing", "start-up", "step in the loop", "epoch", "whole run", "limit"}
    paired = {*(f"step{part}" for part in parts), "validation", "test", "ranks t2v", "ranks v2t"}
    sizes = {
        f"{stage}: peak {kind}"
        for stage in ("packing", "training")
        for kind in ("resident", "private")
    }
    sizes |= {f"ranks {way}: private beyond the matrix" for way in ("t2v", "v2t")}
    theirs = {f"reference {name}" for name in paired}
    assert report["figures"].keys() == timed | paired | sizes | theirs
    for name, row in report["figures"].items():
        assert row["unit"] == ("B" if name in sizes else "s"), name
        assert 0 <= row["low"] <= row["median"] <= row["high"], name
        assert row["count"] >= 1, name
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
        assert ("of_limit" in row) == (name not in sizes), name
        assert ("speedup" in row) == (name in paired), name
    shown = capsys.readouterr().out
    assert all(name in shown for name in report["figures"])
    assert list(tmp_path.iterdir()) == [file]  # nothing is left behind


@pytest.mark.slow
def test_growth_is_reported(tmp_path):
    file = tmp_path / "report.json"
    flags = ["--quick", "--growth", "--folder", str(tmp_path), "--json", str(file)]
    assert benchmark.main(flags) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    assert {"evaluation of 16 clips", "evaluation of 32 clips"} <= report["figures"].keys()
    rows = report["growth"]
    assert [row["clips"] for row in rows] == [200, 400]
    for row in rows:
        assert {"start-up", "step", "training: peak private"} <= row["figures"].keys()


def test_a_failing_stage_is_named(tmp_path, capsys):
    flags = ["--quick", "--folder", str(tmp_path), "--device", "none"]
    assert benchmark.main(flags) == 1
    assert "start-up: " in capsys.readouterr().err.rpartition("error: ")[2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--clips", "3"], "at least a batch of 128"),
        (["--quick", "--custom_args", "trainer"], "expected key@value"),
    ],
)
def test_wrong_usage(flags, message, capsys):
    assert benchmark.main(flags) == 2
    assert message in capsys.readouterr().err


def test_only_linux_tells_what_memory_is_private(monkeypatch, capsys):
    monkeypatch.setattr(benchmark.sys, "platform", "darwin")
    assert benchmark.main(["--quick"]) == 2
    assert "which darwin lacks; needs Linux" in capsys.readouterr().err
