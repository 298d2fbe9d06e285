"""Training loop: what is kept and when it ends, with validations that say what the test wants."""

import shutil
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import trainer.keeper
import trainer.loop
from model.loss import MaxMarginRankingLoss
from small_runs import SINGLE, content_of, same
from trainer.checkpoint import load_checkpoint
from trainer.distributed import ALONE
from trainer.evaluator import Evaluation
from trainer.job import Job, build_training
from trainer.loop import fit
from trainer.ranking_step import RankingStep
from trainer.runs import Run
from utils.config import load_config
from utils.config.sections import DEFAULT_MONITOR
from utils.errors import CheckpointError, ProjectError
from utils.stop import StopSignals

SMALL = {
    "experts.ce_shared_dim": 4,
    "arch.args.vlad_clusters.text": 1,
    "arch.args.vlad_clusters.audio": 1,
    "optimizer.args.lr": 0.05,
    "data_loader.args.max_tokens.text": 3,
    "data_loader.args.max_tokens.audio": 2,
}
METRIC = "val_t2v_metrics_geometric_mean_R1-R5-R10"
EVERY_EPOCH = {"save_pause": 0.0, "include_optim_in_ckpts": True}
CPU = torch.device("cpu")


class Batches:
    """Three batches an epoch, different in each."""

    def __init__(self, count=3):
        self.batches_per_epoch = count
        self.spoil = None

    def epoch(self, epoch, seed, *, first_batch, **_):
        for number in range(first_batch, self.batches_per_epoch):
            draw = torch.Generator().manual_seed(1000 * epoch + 10 * number + seed)
            text = torch.randn(4, 1, 3, 300, generator=draw)
            audio = torch.randn(4, 2, 128, generator=draw)
            if (epoch, number) == self.spoil:
                audio[0, 0, 0] = torch.nan
            yield text, {"audio": audio}, {"audio": torch.ones(4)}


class Runner:
    """Trains in a folder; validation reaches the given values, one after another."""

    def __init__(self, folder, monkeypatch):
        self.config = load_config(SINGLE, SMALL)
        self.folder = folder
        self.data = Batches()
        self.values = [1.0] * 50
        self.records = []
        self.stop = StopSignals()
        monkeypatch.setattr(trainer.loop, "evaluate", self.evaluate)

    def evaluate(self, model, validation, **_):
        score = {"geometric_mean_R1-R5-R10": self.values.pop(0), "R1": 1.0}
        return Evaluation(None, None, {"t2v_metrics": score, "v2t_metrics": {"MedR": 2.0}})

    def new(self):
        return build_training(self.config, 0, CPU)

    def fit(self, training=None, **settings):
        training = training or self.new()
        settings = {"epochs": 4, "save_every_minutes": 0.0, **EVERY_EPOCH, **settings}
        job = Job(
            config=replace(self.config, trainer=replace(self.config.trainer, **settings)),
            run=Run(self.folder, self.folder, seeds=(0,)),
            train=self.data,
            validation=None,
            test=None,
            device=CPU,
            processes=ALONE,
            stop=self.stop,
        )
        fit(training, job, 0, self.on_epoch)
        return training

    def on_epoch(self, record):
        self.records.append(dict(record))

    def epochs_kept(self):
        return {path.name: load_checkpoint(path).epoch for path in self.folder.glob("*.pth")}


@pytest.fixture
def runner(tmp_path, monkeypatch):
    return Runner(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("values", "best"),
    [([1, 3, 2, 2], 2), ([1, 3, 3, 2], 3), ([1, 1, 1, 1], 4), ([4, 3, 2, 1], 1)],
)
def test_the_best_epoch_is_kept_and_a_tie_goes_to_the_later(runner, values, best):
    runner.values = [float(value) for value in values]
    training = runner.fit()
    assert runner.epochs_kept() == {
        "trained_model.pth": best,
        "last.pth": 4,
        "last.previous.pth": 3,
    }
    assert (training.progress.best_epoch, training.progress.best) == (best, max(values))


@pytest.mark.parametrize(
    ("settings", "best"),
    [
        ({"monitor": ("min", DEFAULT_MONITOR[1])}, 2),
        ({"monitor": ("off", ""), "early_stop": 0}, 4),  # the last epoch is the best
    ],
)
def test_other_monitors(runner, settings, best):
    runner.values = [3.0, 1.0, 2.0, 1.5]
    runner.fit(**settings)
    assert runner.epochs_kept()["trained_model.pth"] == best


@pytest.mark.parametrize(
    ("values", "settings", "end"),
    [
        *(([1, 2, 1.5], {"early_stop": n}, end) for n, end in ((0, 3), (1, 4), (2, 5), (None, 8))),
        ([5, 4, 6, 5, 5], {"early_stop": 1}, 5),  # counted from the last improvement
        ([2, 1, 1], {"early_stop": 1, "val_freq": 2}, 6),  # validations, not epochs
    ],
)
def test_early_stop_after_more_than_n_validations_without_improvement(
    runner, values, settings, end
):
    runner.values = [float(value) for value in [*values, *values[-1:] * 8]]
    training = runner.fit(epochs=8, **settings)
    assert training.progress.epoch == runner.epochs_kept()["last.pth"] == end
    # a stopped training, restored, knows that it has ended
    again = runner.new()
    again.restore(load_checkpoint(runner.folder / "last.pth"))
    runner.values = []
    runner.fit(again, epochs=8, **settings)
    assert again.progress.epoch == end


def test_validation_every_n_epochs_and_after_the_last(runner):
    runner.values = [1.0, 2.0, 3.0]
    runner.fit(epochs=5, val_freq=2)
    assert [METRIC in record for record in runner.records] == [False, True, False, True, True]
    assert runner.epochs_kept()["trained_model.pth"] == 5


@pytest.mark.parametrize(("epochs", "first", "kept"), [(12, 3, (8, 10, 12)), (5, 4, (4,))])
def test_periodic_checkpoints_of_which_the_newest_three_stay(runner, epochs, first, kept):
    runner.fit(epochs=epochs, save_only_best=False, save_period=2, skip_first_n_saves=first)
    found = {name: epoch for name, epoch in runner.epochs_kept().items() if "epoch" in name}
    assert found == {f"checkpoint-epoch{epoch}.pth": epoch for epoch in kept}


def test_other_files_are_left_alone(runner):
    for epoch in (1, 2, 3, 4, 5):
        (runner.folder / f"checkpoint-epoch{epoch}.pth").write_text("mine")
    runner.fit(epochs=1)
    assert len(list(runner.folder.glob("checkpoint-epoch*.pth"))) == 5


def test_the_best_weights_without_their_optimiser(runner):
    runner.fit(epochs=2, include_optim_in_ckpts=False)
    assert load_checkpoint(runner.folder / "trained_model.pth").optimizer is None
    assert load_checkpoint(runner.folder / "last.pth").optimizer is not None
    with pytest.raises(CheckpointError, match=r"no optimiser state.*--finetune"):
        runner.new().restore(load_checkpoint(runner.folder / "trained_model.pth"))


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps(runner):
    training = runner.new()
    losses = []
    step = training.step
    training.step = lambda *batch: losses.append(step(*batch)) or losses[-1]
    runner.fit(training, epochs=1)
    assert runner.records[0]["loss"] == pytest.approx(sum(loss.item() for loss in losses) / 3)


NEVER = (None, None)


@pytest.mark.parametrize(
    ("settings", "values", "seen", "best"),
    [
        # after 3 epochs and at the end; the best of those between is not forgotten
        ({"save_every_epochs": 3}, [1, 5, 2, 3, 6], [NEVER] * 2 + [(2, 3)] * 3, 5),
        # not after epochs that follow one another within seconds
        ({"save_pause": 10.0}, [1, 5, 2, 3, 1], [NEVER] * 3 + [(2, 4)] * 2, 2),
    ],
)
def test_rarer_saves(runner, monkeypatch, settings, values, seen, best):
    clock = [0.0]
    monkeypatch.setattr(trainer.keeper.time, "monotonic", lambda: clock[0])
    runner.values = [float(value) for value in values]
    found = []

    def look(record):
        kept = runner.epochs_kept()
        found.append((kept.get("trained_model.pth"), kept.get("last.pth")))
        clock[0] += 4.0

    runner.on_epoch = look
    runner.fit(epochs=5, **settings)
    assert found == seen
    assert [runner.epochs_kept()[name] for name in ("trained_model.pth", "last.pth")] == [best, 5]


def test_the_best_between_rare_saves_is_that_epochs_own(runner, tmp_path):
    runner.values = [1.0, 5.0, 2.0]
    runner.fit(epochs=3, save_every_epochs=3)
    rare = content_of(runner.folder / "trained_model.pth")
    runner.folder = tmp_path / "often"
    runner.folder.mkdir()
    runner.values = [1.0, 5.0, 2.0]
    runner.fit(epochs=3)
    assert same(rare, content_of(runner.folder / "trained_model.pth"))


def test_a_best_state_that_waits_does_not_hide_newer_work(runner):
    """A save within an epoch writes the best state of the epoch before, and the last one too."""
    training = runner.new()
    step = training.step
    seen = []

    def look(*batch):
        here = (training.progress.epoch, len(training.progress.losses))
        if here == (1, 1):  # after one batch of the second epoch
            last = load_checkpoint(runner.folder / "last.pth")
            seen.append((last.epoch, len(last.progress["losses"])))
            seen.append(load_checkpoint(runner.folder / "trained_model.pth").epoch)
        return step(*batch)

    training.step = look
    runner.fit(training, epochs=2, save_every_epochs=5, save_every_minutes=1e-9)
    assert seen == [(1, 1), 1]


def test_other_batches_than_those_of_the_checkpoint(runner):
    training = runner.new()
    training.progress.losses = [0.1]
    training.progress.batches = 5
    with pytest.raises(CheckpointError, match="after 1 of 5 batches of epoch 1, which has 3 now"):
        runner.fit(training)


def test_a_loss_that_is_no_number_names_its_step(runner):
    runner.data.spoil = (3, 1)
    with pytest.raises(ProjectError, match=r"nan at step 2 of epoch 3.*No result"):
        runner.fit(save_every_minutes=1e-9)
    last = load_checkpoint(runner.folder / "last.pth")
    assert (last.epoch, len(last.progress["losses"])) == (2, 1)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("epoch", wrong) for wrong in ("x", 1.5, None, -1, True, 2)),
        *(("losses", wrong) for wrong in ("abc", None, [float("nan")], ["x"], [0.5] * 4)),
        *(("batches", wrong) for wrong in ("x", -3)),
        *(("best", wrong) for wrong in ("x", float("nan"))),
        *(("best_epoch", wrong) for wrong in ("x", 9)),
        *(("stale", wrong) for wrong in ("x", None)),
        *(("history", wrong) for wrong in ("abc", [1, 2], None, [{"epoch": 1}], [{}])),
        *(("random", wrong) for wrong in (None, 5, {}, {"python": 3})),
        ("random", ...),
        *(
            (f"random.{name}", wrong)
            for name in ("python", "numpy", "torch")
            for wrong in (None, "x", (), (3, (10**40,), None), torch.ones(3))
        ),
    ],
)
def test_a_state_that_no_training_leaves(runner, path, value):
    runner.fit(epochs=1)
    checkpoint = load_checkpoint(runner.folder / "last.pth")
    *sections, field = path.split(".")
    state = checkpoint.progress
    for section in sections:
        state = state[section]
    state[field] = value
    if value is ...:
        del state[field]
    with pytest.raises(CheckpointError, match=r"last\.pth: .*damaged.*--finetune"):
        runner.new().restore(checkpoint)


@pytest.mark.parametrize(
    "change",
    [{"epoch": 2}, {"epoch": 0}, {"loss": "x"}, {"seconds": float("inf")}, {7: 1.0}],
)
def test_records_that_no_training_leaves(runner, change):
    runner.fit(epochs=1)
    checkpoint = load_checkpoint(runner.folder / "last.pth")
    checkpoint.progress["history"][0].update(change)
    with pytest.raises(CheckpointError, match=r"last\.pth: .*history: found .*--finetune"):
        runner.new().restore(checkpoint)


def test_a_checkpoint_can_be_restored_twice(runner):
    runner.fit(epochs=1)
    checkpoint = load_checkpoint(runner.folder / "last.pth")
    for _ in range(2):
        training = runner.new()
        training.restore(checkpoint)
        assert runner.fit(training, epochs=2).progress.epoch == 2


def test_a_released_checkpoint_is_continued_with_what_it_has(runner):
    runner.fit(epochs=2)
    checkpoint = replace(load_checkpoint(runner.folder / "last.pth"), progress=None)
    training = runner.new()
    training.restore(checkpoint)
    runner.fit(training, epochs=3)
    assert training.progress.epoch == 3
    assert [record["epoch"] for record in training.progress.history] == [3]
    assert training.scheduler.last_epoch == 3


@pytest.mark.parametrize(("values", "best"), [([3.0, 2.0, 1.0], 3), ([1.0, 2.0, 3.0], 3)])
def test_a_folder_that_vanishes_is_made_again(runner, tmp_path, caplog, values, best):
    """All is in memory but the best state: the present one takes its place, with a warning."""
    runner.folder = tmp_path / "run" / "seed-0"
    runner.folder.mkdir(parents=True)
    runner.values = values

    def on_epoch(record):
        if record["epoch"] == 2:
            shutil.rmtree(tmp_path / "run")

    runner.on_epoch = on_epoch
    runner.fit(epochs=3)
    assert runner.epochs_kept() == {"last.pth": 3, "trained_model.pth": best}
    assert str(runner.folder) in caplog.text


@pytest.mark.parametrize(
    ("content", "best_epoch", "counts"),
    [
        ("its own", 1, True),
        ("its own", 2, False),  # of a state before it, which comes by that best again
        ("none", 1, False),
        ("damaged", 1, False),
    ],
)
def test_the_best_so_far_counts_while_its_file_is_there(runner, content, best_epoch, counts):
    runner.values = [9.0, 1.0]
    runner.fit(epochs=2)
    training, best = runner.new(), runner.folder / "trained_model.pth"
    training.restore(load_checkpoint(runner.folder / "last.pth"))
    training.progress.best_epoch = best_epoch
    if content != "its own":
        best.unlink()
    if content == "damaged":
        best.write_bytes(b"damaged")
    training.forget_lost_best(runner.folder / "last.pth", runner.folder)
    assert (training.progress.best is not None) == counts


def test_the_model_trains_in_training_mode_after_a_validation(runner):
    modes = []
    training = runner.new()

    class Step(nn.Module):
        def forward(self, *batch):
            modes.append(training.model.training)
            return RankingStep(training.model, MaxMarginRankingLoss(0.2, True))(*batch)

    training.step = Step()
    training.model.eval()
    runner.fit(training, epochs=2)
    assert modes == [True] * 6


class Replayed(nn.Module):
    """A step whose loss lies in memory that the next step writes over, as in a CUDA graph."""

    def __init__(self, step):
        super().__init__()
        self.step, self.last = step, None

    def forward(self, *batch):
        if self.last is not None:
            self.last.fill_(-1)
        loss = self.step(*batch)
        self.last = loss.detach()
        return loss


def test_losses_outlive_the_memory_of_their_step(runner, monkeypatch):
    runner.fit(epochs=2)
    expected = [record["loss"] for record in runner.records]
    training = runner.new()
    training.step = Replayed(training.step)
    monkeypatch.setattr(sys.modules[__name__], "CPU", torch.device("cuda"))  # losses are read late
    runner.fit(training, epochs=2, cuda_graphs=False)
    assert [record["loss"] for record in runner.records[2:]] == expected


def test_weights_that_overflow_end_the_training(runner):
    """Though the loss stays finite: nothing could be read from the checkpoint."""
    training = runner.new()
    training.model.register_buffer("overflowed", torch.tensor([1.0, torch.inf]))
    with pytest.raises(ProjectError, match=r"the weights overflowed hold NaN .* after epoch 1"):
        runner.fit(training)
    assert runner.epochs_kept() == {}
