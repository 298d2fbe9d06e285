"""A loss with parameters and ids is trained, saved and continued with the model."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import train
import trainer.job
from model import build_model
from small_runs import SINGLE, Place, content_of, same
from trainer.checkpoint import load_checkpoint, load_loss
from trainer.ranking_step import RankingStep
from utils.config import load_config
from utils.errors import CheckpointError

TWO = {"trainer.epochs": 2, "trainer.save_only_best": False}


class LearnedTemperature(nn.Module):
    """Cross-entropy over captions; clips that are the same are not told apart."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.seen = []

    def forward(self, sims, ids):
        self.seen.append(ids)
        other = (ids[:, None] == ids[None]) & ~torch.eye(len(ids), dtype=torch.bool)
        logits = (self.scale * sims).masked_fill(other, -torch.inf)
        return F.cross_entropy(logits, torch.arange(len(ids)))


@pytest.fixture
def place(tmp_path, made, monkeypatch):
    monkeypatch.setattr(trainer.job, "build_loss", lambda _: LearnedTemperature())
    return Place(tmp_path, made)


def test_it_is_trained_saved_and_continued_exactly(place):
    whole = place.train("--config", place.config(TWO))
    last = load_checkpoint(whole.last)
    assert last.loss.keys() == {"scale"}
    assert last.loss["scale"] != 5
    assert "scale" not in last.state_dict
    assert len(last.optimizer["state"]) == 1 + len(
        [key for key in last.state_dict if "running" not in key and "num_batches" not in key]
    )
    expected = content_of(whole.last)
    for start in ("checkpoint-epoch1.pth", "last.previous.pth"):
        assert place.call(train.main, "--resume", whole.models / start) == 0
        found = content_of(whole.last)
        assert same(found["loss"], expected["loss"])
        assert same(found["state_dict"], expected["state_dict"])
        assert same(found["optimizer"], expected["optimizer"])


def test_another_loss_does_not_continue_it(place, capsys, monkeypatch):
    run = place.train("--config", place.config({"trainer.epochs": 1}))
    monkeypatch.undo()
    more = ("--custom_args", "trainer.epochs@2")
    assert place.call(train.main, "--resume", run.last, *more) == 1
    message = capsys.readouterr().err
    assert "MaxMarginRankingLoss" in message
    assert "scale" in message
    with pytest.raises(CheckpointError):
        load_loss(nn.Linear(1, 1), load_checkpoint(run.last))
    # a new run from the weights needs nothing of the loss
    flags = ("--config", place.config({"trainer.epochs": 1}), "--finetune")
    assert place.call(train.main, *flags, "--resume", run.last) == 0


def test_a_loss_without_parameters_leaves_no_entry(place, monkeypatch):
    monkeypatch.undo()
    run = place.train("--config", place.config({"trainer.epochs": 1}))
    assert "loss" not in torch.load(run.last, weights_only=True)
    assert load_checkpoint(run.last).loss == {}


def test_ids_reach_a_loss_that_declares_them():
    config = load_config(SINGLE, {"experts.ce_shared_dim": 4, "arch.args.vlad_clusters.text": 1})
    torch.manual_seed(0)
    loss = LearnedTemperature()
    step = RankingStep(build_model(config).train(), loss)
    batch = torch.randn(4, 1, 3, 300), {"audio": torch.randn(4, 2, 128)}, {"audio": torch.ones(4)}
    ids = torch.tensor([7, 3, 7, 1])
    together = step(*batch, ids)
    assert torch.equal(loss.seen[-1], ids)
    assert step(*batch, torch.arange(4)) > together  # fewer negatives
    with pytest.raises(TypeError, match="LearnedTemperature"):
        step(*batch)


@pytest.mark.parametrize("whole", [True, False])
def test_finetuning_takes_the_loss_with_the_optimiser(place, whole, monkeypatch):
    run = place.train("--config", place.config({"trainer.epochs": 1}))
    seen = []
    monkeypatch.setattr(
        trainer.job, "restore_optimizer", lambda *parts: seen.append(parts[-1].scale.item())
    )
    changes = {"trainer.epochs": 1, "trainer.finetune_optimizer": whole}
    place.train("--config", place.config(changes), "--finetune", "--resume", run.last)
    assert seen == [load_checkpoint(run.last).loss["scale"].item()] * whole
