"""eval.py by whole command lines: our checkpoints, a released one, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

import eval as evaluation
from file_server import FileServer
from model.metric import t2v_metrics, v2t_metrics
from results.ranks import read_ranks
from results.scoring import Scorer
from small_runs import CE, Place, make_data
from utils.config import load_config
from utils.fetching.experiments import load_experiments

PUBLISHED = Path(__file__).parent / "data" / "published_ckpt"
MINIDATA = Path(__file__).parent / "data" / "minidata" / "AudioCaps"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = make_data(tmp_path_factory.mktemp("made"))
    return Place(tmp_path_factory.mktemp("place"), made)


@pytest.fixture(scope="module")
def run(place):
    """A run of two seeds that learnt a little."""
    config = place.config({"trainer.epochs": 2}, base=CE)
    return place.train("--config", config, "--seeds", "0,3")


@pytest.fixture
def released(tmp_path):
    """A checkpoint that the published code wrote, and the data it was tested on."""
    root = tmp_path / "data" / "AudioCaps"
    shutil.copytree(MINIDATA, root)
    folder = root / "structured-symlinks" / "aggregated_vggsound"
    folder.mkdir(exist_ok=True)
    shutil.copy(PUBLISHED / "vggsound-raw.hickle", folder)
    return tmp_path


def call(folder, monkeypatch, *flags):
    monkeypatch.chdir(folder)
    return evaluation.main([str(flag) for flag in flags])


# Our own checkpoints


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("named", [True, False])
def test_the_metrics_of_the_training_are_repeated_to_the_last_digit(place, run, seed, named):
    folder = run.models / f"seed-{seed}"
    config = ("--config", folder / "config.json") if named else ()
    results = place.evaluate(*config, "--resume", folder / "trained_model.pth")
    assert results["seeds"] == {str(seed): run.results["seeds"][str(seed)]}
    for key in ("config", "split", "protocol", "trainable_parameters", "data"):
        assert results[key] == run.results[key], key


def test_the_config_of_the_run_serves_for_each_seed(place, run):
    checkpoint = run.models / "seed-3" / "trained_model.pth"
    results = place.evaluate("--config", run.models / "config.json", "--resume", checkpoint)
    assert results["seeds"] == {"3": run.results["seeds"]["3"]}


def test_the_folder_of_a_run_and_the_newest_run_serve(place, run, capsys, tmp_path):
    expected = run.results["seeds"]
    assert place.evaluate("--resume", run.models / "seed-3")["seeds"] == {"3": expected["3"]}
    assert place.evaluate("--resume", "auto")["seeds"] == {"0": expected["0"]}
    config = place.config({"trainer.epochs": 1}, name="alone")
    alone = place.train("--config", config, name="clotho-alone")
    for resume in (("--resume", alone.models), ("--resume", "auto")):
        assert place.evaluate(*resume)["config"] == "clotho-alone"
    tiny = place.config({"trainer.epochs": 2}, base=CE)
    results = place.evaluate("--resume", "auto", "--config", tiny)
    assert (results["config"], results["seeds"]) == ("clotho-tiny", {"0": expected["0"]})
    for resume, word in ((run.models, "seed-3"), (tmp_path, "trained_model.pth")):
        assert place.call(evaluation.main, "--resume", resume) == 2
        assert word in capsys.readouterr().err
    nothing = ("--resume", "auto", "--data_dir", tmp_path)
    assert place.call(evaluation.main, *nothing) == 2
    assert not list((place.folder / "data" / "saved").glob("eval/*"))


def test_similarities_are_those_of_the_captions_that_exist(place, run, tmp_path):
    file = tmp_path / "sims.npy"
    checkpoint = run.models / "seed-0" / "trained_model.pth"
    results = place.evaluate("--resume", checkpoint, "--save_similarities", file)
    sims = np.load(file)
    assert (sims.shape, sims.dtype) == ((7 * 5, 7), np.float32)
    for task, metrics in (("t2v_metrics", t2v_metrics(sims)), ("v2t_metrics", v2t_metrics(sims))):
        for name, value in results["seeds"]["0"][task].items():
            assert metrics[name] == pytest.approx(value, abs=1e-9)


def test_several_checkpoints_are_scored_by_the_mean_of_their_similarities(place, run, tmp_path):
    checkpoints = [run.models / f"seed-{seed}" / "trained_model.pth" for seed in (0, 3)]
    each = []
    for checkpoint in checkpoints:
        place.evaluate("--resume", checkpoint, "--save_similarities", tmp_path / "one.npy")
        each.append(np.load(tmp_path / "one.npy"))
    file = tmp_path / "mean.npy"
    results = place.evaluate("--resume", *checkpoints, "--save_similarities", file)
    np.testing.assert_allclose(np.load(file), (each[0] + each[1]) / 2, atol=1e-7)
    found = results["seeds"]["0"]["t2v_metrics"]
    for name, value in t2v_metrics(np.load(file)).items():
        assert found[name] == pytest.approx(value, abs=1e-9)
    assert results["protocol"]["ensemble"] == [str(path) for path in checkpoints]
    assert results["trainable_parameters"] == 2 * run.results["trainable_parameters"]


def test_per_class_asks_for_some_clips_among_all(place, run, tmp_path):
    checkpoint = run.models / "seed-0" / "trained_model.pth"
    file = tmp_path / "sims.npy"
    place.evaluate("--resume", checkpoint, "--save_similarities", file)
    sims = np.load(file)
    clips = place.data.clips["test"]
    asked = [5, 1, 2]
    listed = tmp_path / "class.txt"
    listed.write_text("\n".join(clips[clip] for clip in asked))
    results = place.evaluate("--resume", checkpoint, "--per_class", listed)
    reached = results["seeds"]["0"]
    captions = [5 * clip + i for clip in asked for i in range(5)]
    ranks = [int((sims[q] > sims[q, q // 5]).sum()) for q in captions]
    assert reached["t2v_metrics"]["R1"] == pytest.approx(100 * np.mean([r == 0 for r in ranks]))
    assert reached["t2v_metrics"]["MeanR"] == pytest.approx(np.mean(ranks) + 1)
    best = [min(int((sims[:, c] > sims[5 * c + i, c]).sum()) for i in range(5)) for c in asked]
    assert reached["v2t_metrics"]["MeanR"] == pytest.approx(np.mean(best) + 1)
    ranks = read_ranks(place.folder / "scored" / "seed-0" / "ranks.npz")
    assert set(ranks.query_clip) == set(ranks.v2t_clip) == set(asked)
    asked_for = {
        "queried_clips": 3,
        "queried_list_sha256": hashlib.sha256(listed.read_bytes()).hexdigest(),
    }
    assert results["protocol"] == run.results["protocol"] | asked_for


def test_checkpoints_share_data_only_where_it_is_the_same(place, run):
    data_dir = place.folder / "data"
    scorer = Scorer(torch.device("cpu"), data_dir)
    config, fewer = (
        load_config(run.models / "seed-0" / "config.json", changes, data_dir=data_dir)
        for changes in ({}, {"data_loader.args.batch_size": 7})
    )
    opened = scorer._open(config.for_evaluation())
    assert scorer._open(config.for_evaluation()) is opened
    assert scorer._open(fewer.for_evaluation()) is not opened


def test_custom_arguments_come_over_eval_settings(place, run, capsys):
    checkpoint = run.models / "seed-0" / "trained_model.pth"
    config = load_config(run.models / "seed-0" / "config.json")
    assert config.sets_for_evaluation("data_loader.args.split_name")
    assert not config.sets_for_evaluation("data_loader.args.batch_size")
    found = {}
    for split in ("test", "val"):
        arguments = f"data_loader.args.split_name@{split}"
        out = place.folder / f"of-{split}"
        call = ("--resume", checkpoint, "--custom_args", arguments, "--out", out)
        assert place.call(evaluation.main, *call) == 0
        found[split] = json.loads((out / "results.json").read_text())
    assert {split: one["split"] for split, one in found.items()} == {"test": "test", "val": "val"}
    assert found["test"]["data"] != found["val"]["data"]


def test_where_results_go(place, run, capsys):
    checkpoint = run.models / "seed-0" / "trained_model.pth"
    assert place.call(evaluation.main, "--resume", checkpoint, "--format", "json") == 0
    table = json.loads(capsys.readouterr().out)
    (folder,) = (place.folder / "data" / "saved" / "eval" / "clotho-tiny").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert table[0]["tasks"]["t2v"]["R1"]["mean"] == results["summary"]["t2v_metrics"]["R1"]["mean"]
    assert "clotho-tiny" in (folder / "summary.md").read_text()


def test_data_dir_takes_the_place_of_data(place, run, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "CLOTHO").symlink_to(place.data.data_dir)
    checkpoint = run.models / "seed-0" / "trained_model.pth"
    flags = ("--resume", checkpoint, "--data_dir", moved)
    assert place.call(evaluation.main, *flags) == 0
    assert list((moved / "saved" / "eval" / "clotho-tiny").glob("*/results.json"))


def test_averaged_captions(place, run, tmp_path):
    changes = {"trainer.epochs": 2, "arch.args.test_caption_mode": "avg"}
    config = place.config(changes, name="averaged", base=CE)
    file = tmp_path / "sims.npy"
    checkpoint = run.models / "seed-0" / "trained_model.pth"
    place.evaluate("--config", config, "--resume", checkpoint, "--save_similarities", file)
    assert np.load(file).shape == (7, 7)


# Released checkpoints


@pytest.mark.parametrize("alone", [False, True])  # without a config.json, by the one inside
def test_a_released_checkpoint_scores_what_was_recorded(released, monkeypatch, alone):
    checkpoint = PUBLISHED / "trained_model.pth"
    if alone:
        checkpoint = shutil.copy(checkpoint, released)
    flags = ("--resume", checkpoint, "--save_similarities", "sims.npy")
    assert call(released, monkeypatch, *flags, "--out", "scored") == 0
    results = json.loads((released / "scored" / "results.json").read_text())
    recorded = json.loads((PUBLISHED / "result.json").read_text())["test_metrics"]
    (reached,) = results["seeds"].values()
    measured = {
        f"test_{task}_{name}": value
        for task in ("t2v_metrics", "v2t_metrics")
        for name, value in reached[task].items()
    }
    assert measured == recorded
    stored = np.load(PUBLISHED / "test_sims.npz")
    exists = stored["query_masks"].reshape(-1).astype(bool)
    assert np.abs(np.load(released / "sims.npy") - stored["sims"][exists]).max() < 1e-5


NAME = "audiocaps-train-vggish-vggsound"


@pytest.fixture
def mirror():
    """A server of the released files: every seed of one experiment is the same small file."""
    with FileServer() as server:
        experiment = load_experiments()[NAME]
        for seed in experiment.runs:
            for file in ("trained_model.pth", "config.json"):
                path = urlsplit(f"{experiment.url(seed, server.url(''))}/{file}").path
                server.files[path] = (PUBLISHED / file).read_bytes()
        yield server


def test_an_experiment_is_fetched_once_and_scored(released, mirror, monkeypatch, capsys):
    flags = ("--experiment", NAME, "--root_url", mirror.url(""), "--out", "scored")
    assert call(released, monkeypatch, *flags) == 0
    results = json.loads((released / "scored" / "results.json").read_text())
    recorded = json.loads((PUBLISHED / "result.json").read_text())["test_metrics"]
    assert set(results["seeds"]) == {"0", "1", "2"}  # the folders' seeds, not config.json's
    expected = {"mean": recorded["test_t2v_metrics_R5"], "std": 0.0}
    assert results["summary"]["t2v_metrics"]["R5"] == expected
    table = capsys.readouterr().out
    assert "published: CE - VGGish + VGGSound" in table
    assert table.count("OTHER SIZE") == 1  # the small file is not the published model
    asked = len(mirror.requests)
    assert call(released, monkeypatch, *flags) == 0
    assert len(mirror.requests) == asked


def test_a_seed_that_cannot_be_scored_is_named(released, mirror, monkeypatch, capsys):
    broken = next(path for path in mirror.files if "seed-1" in path and path.endswith(".pth"))
    mirror.files[broken] = mirror.files[broken][:5000]
    flags = ("--experiment", NAME, "--root_url", mirror.url(""), "--out", "scored")
    assert call(released, monkeypatch, *flags) == 1
    message = capsys.readouterr().err
    assert f"{NAME} seed 1: " in message
    assert "Traceback" not in message
    results = json.loads((released / "scored" / "results.json").read_text())
    assert set(results["seeds"]) == {"0", "2"}
    assert f"{NAME} seed 1: " in results["failed"][0]


def test_the_config_inside_a_checkpoint_serves_where_there_is_no_file(place, run, tmp_path):
    alone = shutil.copy(run.models / "seed-3" / "trained_model.pth", tmp_path)
    results = place.evaluate("--resume", alone)
    assert results["seeds"] == {"3": run.results["seeds"]["3"]}


# What is refused


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--config", "x.json"], 2, ["--resume"]),
        (["--save_similarities", "x.npy"], 2, ["--resume"]),
        (["--experiment", "clotho-train-vggish-vgsound"], 2, ["did you mean"]),
        (["--resume", "CKPT", "--experiment", "x"], 2, ["--experiment"]),
        (["--resume", "CKPT", "--device", "3"], 2, ["--device 3", "GPU"]),
        (["--resume", "CKPT", "--save_similarities", "no/where/x.npy"], 2, ["no/where/x.npy"]),
        (["--list", "--format", "json"], 2, ["--format", "--list"]),
        (["--res", "CKPT"], 2, ["unrecognized arguments: --res"]),
        (["--resume", "CKPT", "--per_class", "no-list.txt"], 1, ["no-list.txt", "missing"]),
        (["--resume", "CKPT", "--per_class", "EMPTY"], 1, ["no names"]),
        (["--resume", "CKPT", "--per_class", "OTHER"], 1, ["'other clip'", "test split"]),
        (["--resume", "no.pth"], 1, ["no.pth", "missing"]),
        (["--resume", "TEXT"], 1, ["text.pth"]),
        (["--resume", "BARE"], 2, ["config.json"]),
        (
            ["--resume", "CKPT", "--config", "SINGLE"],
            1,
            ["trained_model.pth does not fit", "single.json: ", "another architecture", "unknown"],
        ),
        (["--resume", "NAN"], 1, ["nan.pth", "NaN"]),
        (["--resume", "CKPT", "--out", "EMPTY"], 1, ["empty"]),
        (["--resume", "CKPT", "--data_dir", "nowhere"], 1, ["nowhere/CLOTHO", "missing"]),
    ],
)
def test_bad_input(place, run, tmp_path, capsys, monkeypatch, flags, status, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    checkpoint = run.models / "seed-0" / "trained_model.pth"
    content = torch.load(checkpoint, weights_only=True)
    weights = {key: value.clone() for key, value in content["state_dict"].items()}
    weights["ce.moe_fc.bias"][0] = float("nan")
    torch.save({"epoch": 1, "state_dict": content["state_dict"]}, tmp_path / "bare.pth")
    torch.save({"epoch": 1, "state_dict": weights}, tmp_path / "nan.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    (tmp_path / "empty").write_text("")
    (tmp_path / "other").write_text("other clip\n")
    names = {
        "CKPT": checkpoint,
        "BARE": tmp_path / "bare.pth",
        "NAN": tmp_path / "nan.pth",
        "TEXT": tmp_path / "text.pth",
        "EMPTY": tmp_path / "empty",
        "OTHER": tmp_path / "other",
        "SINGLE": place.config(name="single"),
    }
    capsys.readouterr()
    assert place.call(evaluation.main, *[names.get(flag, flag) for flag in flags]) == status
    message = capsys.readouterr().err
    for word in words:
        assert word in message, message
    assert "Traceback" not in message


def test_help(place, capsys):
    assert place.call(evaluation.main, "--help") == 0
    assert "--per_class" in capsys.readouterr().out
