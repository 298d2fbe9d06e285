"""Learning from trained models: the loss by hand and by loops, the step, and a whole training."""

import itertools
import math

import pytest
import torch

import train
from model import build_model
from model.loss import CorrespondenceDistillation, InfoNCE
from small_runs import CE, SINGLE, Place, assert_same_run
from trainer.checkpoint import load_checkpoint
from trainer.ranking_step import RankingStep, build_step
from trainer.runs import every_best
from trainer.teachers import load_teachers
from utils.config import load_config
from utils.errors import UsageError

CPU = torch.device("cpu")


def drawn(size=6):
    draw = torch.Generator().manual_seed(1)
    sims, estimated = torch.rand(2, size, size, generator=draw, dtype=torch.float64) * 2 - 1
    same = torch.zeros(size, size, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    return sims, estimated, same


def loss_of(matching=0.0, **how):
    return CorrespondenceDistillation(("somewhere",), matching=matching, **how)


def test_worked_by_hand():
    sims = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    estimated = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    log_sum = math.log(1 + math.exp(2))  # of a row of sims over 0.5
    soft = math.exp(2) / (1 + math.exp(2))  # of column 0 of the estimates over 0.5
    captions = 2 * (log_sum - 1)  # both clips alike
    clips = (log_sum - 2 * soft) + (log_sum - 2 * (1 - soft))
    loss = loss_of(temperature=0.5, teacher_temperature=0.5)(sims, estimated)
    assert loss.item() == pytest.approx((captions + clips) / 4)


@pytest.mark.parametrize("matching", [0.0, 0.3, 1.0])
def test_it_is_the_sum_over_pairs(matching):
    sims, estimated, same = drawn()
    positive = same | torch.eye(6, dtype=torch.bool)
    total = 0.0
    for i, j in itertools.product(range(6), repeat=2):
        for x, soft, known in ((sims, estimated, positive), (sims.T, estimated.T, positive.T)):
            share = float((soft[i, j] / 0.2 - (soft[i] / 0.2).logsumexp(0)).exp())
            target = matching * known[i, j] / known[i].sum() + (1 - matching) * share
            total -= float(target * (x[i, j] / 0.1 - (x[i] / 0.1).logsumexp(0)))
    loss = loss_of(matching, temperature=0.1, teacher_temperature=0.2)(sims, estimated, same)
    assert loss.item() == pytest.approx(total / 12)


def test_a_student_like_its_teachers_has_nothing_to_learn():
    _, estimated, _ = drawn()
    sims = (estimated / 2).requires_grad_()
    loss_of(temperature=0.1, teacher_temperature=0.2)(sims, estimated).backward()
    assert sims.grad.abs().max() < 1e-12
    learned = loss_of(learned=True)
    assert list(dict(learned.named_parameters())) == ["contrast.log_scale"]


def test_with_the_pairs_alone_it_is_infonce():
    sims, estimated, same = drawn()
    torch.testing.assert_close(loss_of(1.0)(sims, estimated, same), InfoNCE()(sims, same))
    sure = torch.eye(6, dtype=torch.float64) * 100
    torch.testing.assert_close(loss_of()(sims, sure), InfoNCE()(sims))


SMALL = {"experts.ce_shared_dim": 4, "arch.args.vlad_clusters": {"text": 1, "audio": 1}}


def test_the_step_asks_the_teachers_for_their_mean():
    config = load_config(SINGLE, SMALL)
    models = [build_model(config) for _ in range(3)]
    teachers = [model.eval() for model in models[1:]]
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(5, 1, 3, 300, generator=draw)
    batch = text, {"audio": torch.randn(5, 2, 128, generator=draw)}, {"audio": torch.ones(5)}
    seen = {}

    class Seen(torch.nn.Module):
        def forward(self, sims, estimated):
            seen["estimated"] = estimated
            return sims.sum()

    step = RankingStep(models[0].train(), Seen(), teachers=teachers)
    step(*batch).backward()
    with torch.no_grad():
        expected = (teachers[0](*batch) + teachers[1](*batch)) / 2
    torch.testing.assert_close(seen["estimated"], expected)
    assert not seen["estimated"].requires_grad
    assert {name.split(".")[0] for name in step.state_dict()} == {"model"}
    assert all(parameter.grad is None for parameter in teachers[0].parameters())


@pytest.fixture(scope="module")
def taught(tmp_path_factory, made):
    """A place with a run of two seeds to learn from."""
    place = Place(tmp_path_factory.mktemp("teachers"), made)
    place.train("--config", place.config({"trainer.epochs": 1}), "--seeds", "0,1")
    return place


def distilled(run, **changes):
    loss = {"type": "CorrespondenceDistillation", "args": {"teachers": [str(run)]}}
    return {"loss": loss, "trainer.epochs": 2, "trainer.save_only_best": False, **changes}


def test_a_training_learns_from_every_seed_and_goes_on_bit_by_bit(place, taught):
    teachers = taught.newest().models
    assert len(every_best(teachers)) == 2
    whole = place.train("--config", place.config(distilled(teachers)))
    assert (whole.log / "info.log").read_text().count("learning from") == 2
    first = whole.models / "checkpoint-epoch1.pth"
    again = place.train("--config", place.config(distilled(teachers)))
    assert place.call(train.main, "--resume", again.models / first.name) == 0
    assert_same_run(whole, again)
    plain = {"loss": {"type": "InfoNCE"}, "trainer.epochs": 2}
    other = place.train("--config", place.config(plain))
    assert other.metrics[0]["loss"] != whole.metrics[0]["loss"]
    state = load_checkpoint(whole.last)
    assert state.state_dict.keys() == load_checkpoint(other.last).state_dict.keys()


def test_the_places_of_checkpoints(taught, tmp_path):
    run = taught.newest().models
    best = [run / f"seed-{seed}" / "trained_model.pth" for seed in (0, 1)]
    assert every_best(run) == best
    assert every_best(run / "seed-1") == every_best(best[1]) == [best[1]]
    with pytest.raises(UsageError, match=r"trained_model\.pth"):
        every_best(tmp_path)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"experts.modalities": ["vggsound"], "arch.args.vlad_clusters.vggsound": 1}, "audio"),
        ({"data_loader.args.max_tokens.audio": 3}, "audio"),
        ({"data_loader.args.max_tokens.text": 3}, "words"),
        ({"experts.text_agg": "avg"}, "w2v"),
    ],
)
def test_teachers_of_other_features_are_refused(taught, changes, word):
    path = taught.newest().models / "seed-0" / "trained_model.pth"
    with pytest.raises(UsageError, match=word):
        load_teachers([str(path)], load_config(SINGLE, changes), CPU)


def test_a_model_of_more_experts_may_learn_from_one_of_fewer(taught):
    config = load_config(CE, {"experts.ce_shared_dim": 4})
    model = build_model(config)
    place = str(taught.newest().models / "seed-0")
    step = build_step(config, model, CorrespondenceDistillation((place,)))
    draw = torch.Generator().manual_seed(0)
    experts = {
        "audio": torch.randn(4, 5, 128, generator=draw),
        "vggsound": torch.randn(4, 5, 512, generator=draw),
    }
    text = torch.randn(4, 1, 6, 300, generator=draw)
    assert step(text, experts, {name: torch.ones(4) for name in experts}).isfinite()
