"""Gradients part by part: by hand, against those of the whole batch, and through a training."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import train
from model import build_model
from model.batch_norm import BatchNorm
from model.loss import InfoNCE, MaxMarginRankingLoss, SigmoidLoss
from model.retrieval_model import RetrievalModel
from small_runs import CE, assert_same_run
from trainer.distributed import Processes
from trainer.gradient_cache import CachedGradients, parts_of
from trainer.ranking_step import RankingStep, build_step
from utils.batches import Frames, PlannedBatch
from utils.config import load_config
from utils.errors import UsageError


class Towers(RetrievalModel):
    """Mean words and mean tokens, each through two layers."""

    def __init__(self, *, dropout=0.0, norm=False):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.tokens = (
            nn.Sequential(
                nn.Linear(6, 16),
                BatchNorm(16) if norm else nn.Identity(),
                nn.Tanh(),
                nn.Dropout(dropout),
                nn.Linear(16, 8),
            )
            for _ in range(2)
        )
        self.scale = nn.Parameter(torch.tensor(2.0))  # of the comparison, not of an embedding

    def encode_captions(self, text):
        return (F.normalize(self.words(text.flatten(0, 1).mean(dim=1)), dim=1),)

    def encode_clips(self, experts, available):
        audio = experts["audio"]
        tokens = audio.tokens * audio.mask[..., None] if isinstance(audio, Frames) else audio
        rows = F.normalize(self.tokens(tokens.mean(dim=1)), dim=1)
        return rows, available["audio"][:, None]

    def score(self, captions, clips):
        return self.scale * captions[0] @ (clips[0] * clips[1]).T


def drawn(count=23):
    draw = torch.Generator().manual_seed(5)
    text = torch.randn(count, 1, 3, 6, generator=draw)
    text[7] = text[2]  # equal captions
    tokens = torch.randn(count, 4, 6, generator=draw)
    return text, {"audio": tokens}, {"audio": torch.ones(count)}, torch.arange(count) // 2


def gradients(at_once, loss, batch=None, **how):
    """Return the loss, the gradients and the buffers after one batch."""
    model = Towers(**how).train()
    step = RankingStep(model, loss)
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    torch.manual_seed(3)
    value = CachedGradients(step, optimizer, at_once)(batch or drawn())
    parameters = {**dict(model.named_parameters()), **dict(loss.named_parameters())}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return value, {name: one.grad for name, one in parameters.items()}, buffers


def test_parts_by_hand():
    assert parts_of(8, 4) == [slice(0, 4), slice(4, 8)]
    assert parts_of(9, 4) == [slice(0, 3), slice(3, 6), slice(6, 9)]
    assert parts_of(5, 4) == [slice(0, 2), slice(2, 5)]
    assert parts_of(3, 4) == [slice(0, 3)]


@pytest.mark.parametrize("count", range(2, 40))
def test_no_part_has_a_single_clip(count):
    for at_once in range(4, 12):
        sizes = [rows.stop - rows.start for rows in parts_of(count, at_once)]
        assert sum(sizes) == count
        assert 2 <= min(sizes) <= max(sizes) <= at_once


@pytest.mark.parametrize(
    "loss", [MaxMarginRankingLoss, lambda: InfoNCE(learned=True, label_smoothing=0.1), SigmoidLoss]
)
@pytest.mark.parametrize("at_once", [4, 7, 12])
def test_gradients_are_those_of_the_whole_batch(loss, at_once):
    value, expected, _ = gradients(100, loss())
    found_value, found, _ = gradients(at_once, loss())
    torch.testing.assert_close(found_value, value, rtol=1e-6, atol=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_dropout_is_the_same_in_both_passes_and_draws_once():
    loss, found, _ = gradients(7, InfoNCE(), dropout=0.5)
    after = torch.rand(1)
    model = Towers(dropout=0.5).train()
    torch.manual_seed(3)
    step, rows = RankingStep(model, InfoNCE()), []
    text, experts, available, clips = drawn()
    for part in parts_of(len(text), 7):
        tokens, flags = {"audio": experts["audio"][part]}, {"audio": available["audio"][part]}
        rows.append(step.embed(text[part], tokens, flags))
    assert torch.equal(torch.rand(1), after)
    captions, embedded = (
        tuple(map(torch.cat, zip(*side, strict=True))) for side in zip(*rows, strict=True)
    )
    expected = step.compare(captions, embedded, text, experts, available, clips)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-6, msg=name)


def test_batch_norm_sees_parts_and_moves_once_for_each():
    whole = gradients(100, InfoNCE(), norm=True)
    loss, found, buffers = gradients(12, InfoNCE(), norm=True)
    assert (found["words.0.weight"] - whole[1]["words.0.weight"]).abs().max() > 1e-4
    assert buffers["words.1.num_batches_tracked"] == 2
    norm, text = Towers(norm=True).train(), drawn()[0]
    for rows in parts_of(len(text), 12):
        norm.encode_captions(text[rows])
    torch.testing.assert_close(buffers["words.1.running_mean"], norm.words[1].running_mean)
    assert torch.equal(gradients(12, InfoNCE(), norm=True)[0], loss)


def test_planned_batches_are_gathered_first_and_frames_cut_too():
    text, experts, available, clips = drawn()
    tokens, mask = experts["audio"], torch.ones(experts["audio"].shape[:2])
    frames = {"audio": Frames(tokens, mask, mask, tokens.amax(dim=1))}
    planned = PlannedBatch(lambda: (text, frames, available, clips), ())
    assert torch.equal(gradients(7, InfoNCE(), planned)[0], gradients(7, InfoNCE())[0])


def test_a_training_goes_on_bit_by_bit(place):
    settings = {"trainer.embed_at_once": 4, "trainer.epochs": 2, "trainer.save_only_best": False}
    run = place.train("--config", place.config(settings, base=CE), name="clotho-tiny")
    again = place.train("--config", place.config(settings, base=CE))
    assert_same_run(run, again)
    assert place.call(train.main, "--resume", again.models / "checkpoint-epoch1.pth") == 0
    assert_same_run(run, again)


def test_several_processes_are_refused():
    config = load_config(CE, {"trainer.embed_at_once": 8, "experts.ce_shared_dim": 8})
    with pytest.raises(UsageError, match="embed_at_once"):
        build_step(config, build_model(config), InfoNCE(), Processes(0, 2))
