"""A data set, a loss, a metric, a model and an expert of one's own: each is one thing and one line.

Nothing of the repository is touched: the line is set in the table for the length of a test.
"""

import importlib
import json
import sys
from typing import Annotated

import numpy as np
import pytest
import torch
from torch import nn

import data_loader
import train
from misc import sync_experts
from model.build import MODELS
from model.loss import LOSSES
from model.metric import METRICS, Metric
from model.retrieval_model import RetrievalModel
from results.published import compare, render
from small_runs import assert_same_run
from synthetic import write_dataset
from trainer.checkpoint import load_checkpoint
from utils.errors import UsageError
from utils.fetching import download
from utils.files import read_json
from utils.kinds import above, at_least
from utils.reading.hickle import write_hickle

ONE_EPOCH = {"trainer.epochs": 1}


def results_of(run):
    return read_json(run.log / "results.json")


DATA_SET = '''
from data_loader.base_dataset import BaseDataset


class Birds(BaseDataset):
    """Bird song, in two splits."""

    archive = "birds"
    split_lists = {"train": "train_list.txt", "val": "val_list.txt", "test": "val_list.txt"}
    captions_file = "descriptions.pkl"
    text_folder = "words"
    expert_files = {"audio": "sounds/vggish.hickle"}
'''


def test_a_data_set_is_a_file_and_a_line(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "birds_dataset.py").write_text(DATA_SET)
    monkeypatch.syspath_prepend(tmp_path)
    birds = importlib.import_module("birds_dataset").Birds
    monkeypatch.setitem(data_loader.DATASETS, "Birds", birds)
    files = write_dataset(tmp_path / "data" / "birds", "CLOTHO", sizes={"train": 13, "val": 4}).root
    for old, new in (
        ("text_embeddings", "words"),
        ("aggregated_audio", "sounds"),
        ("sounds/vggish-raw.hickle", "sounds/vggish.hickle"),
        ("structured-symlinks/raw-captions.pkl", "descriptions.pkl"),
    ):
        (files / old).rename(files / new)
    own = {"data_loader.args.dataset_name": "Birds", "data_loader.args.data_dir": "data/birds"}
    run = place.train("--config", place.config(ONE_EPOCH | own))
    assert results_of(run)["data"]["split_list"]["file"] == "val_list.txt"

    (files / "descriptions.pkl").unlink()
    assert place.call(train.main, "--config", place.config(ONE_EPOCH | own)) == 1
    assert "python misc/sync_experts.py --dataset birds" in capsys.readouterr().err
    assert data_loader.find_archive("birds") is birds
    with pytest.raises(UsageError, match="birds"):
        data_loader.find_archive("bords")
    nowhere = ["--root_url", "http://127.0.0.1:9/", "--data_dir", str(tmp_path / "other")]
    monkeypatch.setattr(download, "fetch", lambda url, *_, **__: pytest.fail(url))
    with pytest.raises(pytest.fail.Exception, match=r"features-v2/birds-experts-audio-only\.tar"):
        sync_experts.main(["--dataset", "birds", *nowhere])
    monkeypatch.setattr(birds, "archive", "")  # nothing to fetch: no command is named
    assert place.call(train.main, "--config", place.config(ONE_EPOCH | own)) == 1
    assert "sync_experts" not in capsys.readouterr().err
    sys.modules.pop("birds_dataset")


class SoftmaxLoss(nn.Module):
    """Symmetric cross-entropy over rows and columns."""

    def __init__(self, temperature: Annotated[float, above(0), "divides the scores"] = 0.05):
        super().__init__()
        self.temperature = temperature

    def forward(self, sims: torch.Tensor) -> torch.Tensor:
        target = torch.arange(len(sims))
        logits = sims / self.temperature
        cross_entropy = nn.functional.cross_entropy
        return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def test_a_loss_is_a_class_and_a_line(place, monkeypatch, capsys):
    monkeypatch.setitem(LOSSES, "SoftmaxLoss", SoftmaxLoss)
    config = place.config(ONE_EPOCH | {"loss": {"type": "SoftmaxLoss"}}, name="softmax")
    run = place.train("--config", config, name="clotho-softmax")
    assert read_json(run.models / "config.json")["loss"] == {"type": "SoftmaxLoss"}
    losses = [
        json.loads(line)["loss"] for line in (run.log / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses[0] > 1  # of a ranking loss a few tenths
    for wrong in ("loss.args.temperature@0", "loss.args.margin@0.2", "loss.args.temprature@1"):
        assert place.call(train.main, "--config", config, "--custom_args", wrong) == 2
        assert wrong.split("@")[0] in capsys.readouterr().err


class LearnedTemperature(nn.Module):
    """The same, with a temperature that is trained."""

    def __init__(self, start: Annotated[float, above(0), "temperature at first"] = 0.5) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(start).log())

    def forward(self, sims: torch.Tensor) -> torch.Tensor:
        return SoftmaxLoss(self.log_temperature.exp())(sims)


def test_the_parameters_of_a_loss_are_trained_saved_and_resumed(place, monkeypatch):
    monkeypatch.setitem(LOSSES, "LearnedTemperature", LearnedTemperature)
    config = place.config({"trainer.epochs": 2, "loss": {"type": "LearnedTemperature"}})
    whole = place.train("--config", config)
    saved = load_checkpoint(whole.last).loss["log_temperature"]
    assert saved != LearnedTemperature().log_temperature
    shorter = place.config(ONE_EPOCH | {"loss": {"type": "LearnedTemperature"}})
    first = place.train("--config", shorter)
    assert load_checkpoint(first.last).loss["log_temperature"] != saved
    place.config({"trainer.epochs": 2, "loss": {"type": "LearnedTemperature"}})
    assert place.call(train.main, "--config", config, "--resume", first.last) == 0
    assert_same_run(whole, first)


def test_a_metric_is_a_function_and_a_line(place, monkeypatch):
    before = results_of(place.train("--config", place.config(ONE_EPOCH)))
    reciprocal = Metric(lambda ranks: float(np.mean(1 / (ranks + 1))), "MRR")
    monkeypatch.setitem(METRICS, "MRR", reciprocal)
    flags = ("--config", place.config(ONE_EPOCH))
    monitor = ("--custom_args", "trainer.monitor@max val_v2t_metrics_MRR")
    run = place.train(*flags, *monitor, name="clotho-tiny-trainer-monitor-max-val_v2t_metrics_MRR")
    after = results_of(run)
    assert 0 < after["seeds"]["0"]["v2t_metrics"]["MRR"] <= 1
    assert after["summary"]["t2v_metrics"]["MRR"]["std"] is None
    both = [compare(r, r["config"]) for r in (before, after)]
    assert [line.split()[-2] for line in render(both).splitlines()[1:3]] == ["MRR", "-"]
    assert place.call(train.main, "--config", place.config(ONE_EPOCH), "--resume", "auto") == 0


class MeanPooled(RetrievalModel):
    """Compare mean tokens with mean words, each by a linear map."""

    def __init__(self, experts, text, *, width: Annotated[int, at_least(1), "of the space"] = 8):
        super().__init__()
        self.words = nn.Linear(text.width, width)
        self.clips = nn.ModuleDict({one.name: nn.Linear(one.width, width) for one in experts})

    def encode_captions(self, text):
        return (nn.functional.normalize(self.words(text.flatten(0, 1).mean(dim=1)), dim=1),)

    def encode_clips(self, experts, available):
        mapped = [layer(experts[name].mean(dim=1)) for name, layer in self.clips.items()]
        return (nn.functional.normalize(sum(mapped), dim=1),)

    def score(self, captions, clips):
        return captions[0] @ clips[0].T


def test_a_model_is_a_class_and_a_line(place, monkeypatch):
    monkeypatch.setitem(MODELS, "MeanPooled", MeanPooled)
    own = {"arch": {"type": "MeanPooled", "args": {"width": 4}}}
    run = place.train("--config", place.config(ONE_EPOCH | own))
    assert load_checkpoint(run.last).state_dict["words.weight"].shape[0] == 4
    assert 0 <= results_of(run)["summary"]["t2v_metrics"]["R10"]["mean"] <= 100


def test_an_expert_is_configuration_only(place, made):
    draw = np.random.default_rng(0)
    names = [name for clips in made.clips.values() for name in clips]
    tokens = {name: draw.normal(size=(3, 5)).astype(np.float32) for name in names}
    (made.root / "rhythm.hickle").unlink(missing_ok=True)
    write_hickle(made.root / "rhythm.hickle", tokens)
    entry = {"temporal": "vlad", "file": "rhythm.hickle", "width": 5}
    own = {
        "experts.modalities": ["audio", "rhythm"],
        "arch.args.use_ce": "pairwise",
        "arch.args.mimic_ce_dims": False,
        "arch.args.vlad_clusters": {"text": 2, "audio": 2, "rhythm": 2},
        "data_loader.args.max_tokens.rhythm": 3,
        "data_loader.args.feat_aggregation.rhythm": entry,
    }
    run = place.train("--config", place.config(ONE_EPOCH | own))
    assert "rhythm.hickle" in results_of(run)["data"]["features"]
