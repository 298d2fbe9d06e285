"""The evaluator: against the model called as a whole, and the metrics called by themselves."""

import copy
import errno
import os
import tempfile

import numpy as np
import pytest
import torch

import trainer.evaluator
from model import build_model
from model.metric import t2v_metrics, v2t_metrics
from small_runs import CE, same
from trainer.evaluator import evaluate
from utils.batches import EvaluationData, Frames
from utils.config import load_config
from utils.errors import DataError

SMALL = {
    "experts.ce_shared_dim": 6,
    "arch.args.vlad_clusters": {"text": 2, "audio": 2, "vggsound": 1},
    "data_loader.args.max_tokens": {"text": 4, "audio": 3, "vggsound": 2},
}
CPU = torch.device("cpu")
CLIPS, CAPTIONS = 9, 3


@pytest.fixture
def model():
    return small_model()


def small_model(**changes):
    torch.manual_seed(1)
    return build_model(load_config(CE, SMALL | changes))


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(2)
    masks = torch.ones(CLIPS, CAPTIONS)
    masks[2, 1:] = masks[5, 2] = 0
    available = {"audio": torch.ones(CLIPS), "vggsound": torch.ones(CLIPS)}
    available["vggsound"][[1, 4]] = 0
    return EvaluationData(
        text=torch.randn(CLIPS, CAPTIONS, 4, 300, generator=draw),
        experts={
            "audio": torch.randn(CLIPS, 3, 128, generator=draw),
            "vggsound": torch.randn(CLIPS, 2, 512, generator=draw),
        },
        available=available,
        query_masks=masks,
        clips=[f"clip {number}" for number in range(CLIPS)],
    )


def test_scores_are_the_models_own(model, data):
    with torch.no_grad():
        expected = model.eval()(data.text, data.experts, data.available).numpy()
    scored = evaluate(model, data, device=CPU)
    assert scored.similarities.shape == (CLIPS * CAPTIONS, CLIPS)
    np.testing.assert_allclose(scored.similarities, expected, atol=1e-6)
    masks = data.query_masks.numpy()
    assert scored.metrics["t2v_metrics"] == t2v_metrics(scored.similarities, masks)
    assert scored.metrics["v2t_metrics"] == v2t_metrics(scored.similarities, masks)
    assert scored.existing.dtype == np.float32
    assert np.array_equal(scored.existing, scored.similarities[masks.reshape(-1).astype(bool)])


@pytest.mark.parametrize("framed", [False, True])
def test_chunks_change_nothing(model, data, monkeypatch, framed):
    whole = evaluate(model, data, device=CPU)
    monkeypatch.setattr(trainer.evaluator, "CLIPS_AT_ONCE", 2)
    monkeypatch.setattr(trainer.evaluator, "TEXTS_AT_ONCE", 4)
    if framed:
        tokens, mask = data.experts["audio"], torch.ones(CLIPS, 3)
        frames = Frames(tokens, 0.5 * mask, mask, tokens.amax(dim=1))
        data = data._replace(experts={**data.experts, "audio": frames})
    parts = evaluate(model, data, device=CPU)
    np.testing.assert_allclose(parts.similarities, whole.similarities, atol=1e-6)


def test_averaged_captions(data):
    scored = evaluate(small_model(**{"arch.args.test_caption_mode": "avg"}), data, device=CPU)
    one_by_one = evaluate(small_model(), data, device=CPU).similarities
    expected = one_by_one.reshape(CLIPS, CAPTIONS, CLIPS).mean(axis=1)
    np.testing.assert_allclose(scored.similarities, expected, atol=1e-6)
    assert scored.metrics["t2v_metrics"] == t2v_metrics(scored.similarities)
    assert scored.existing.shape == (CLIPS, CLIPS)


def test_some_clips_ask_and_all_are_candidates(model, data):
    asked = [7, 2]
    scored = evaluate(model, data, device=CPU, only=[data.clips[clip] for clip in asked])
    sims, masks = scored.similarities, data.query_masks.numpy()
    ranks = []
    for clip in asked:
        for caption in np.flatnonzero(masks[clip]):
            row = sims[clip * CAPTIONS + caption]
            ranks.append(int((row > row[clip]).sum()) + 1)
    assert len(ranks) == 4
    assert scored.metrics["t2v_metrics"]["MeanR"] == pytest.approx(np.mean(ranks))
    every = np.flatnonzero(masks.reshape(-1))
    own = [sims[[q for q in every if q // CAPTIONS == clip], clip].max() for clip in asked]
    back = [
        int((sims[every, clip] > best).sum()) + 1 for clip, best in zip(asked, own, strict=True)
    ]
    assert scored.metrics["v2t_metrics"]["MeanR"] == pytest.approx(np.mean(back))


def test_clips_that_are_not_in_the_split(model, data):
    with pytest.raises(DataError, match=r"2 of the 3 listed clips are not.*'other'"):
        evaluate(model, data, device=CPU, only=["clip 1", "other", "word"])


def test_fewer_clips_than_the_list_says(model, data):
    with pytest.raises(DataError, match=r"lists 9 clips, the data is of \[8, 9\]"):
        evaluate(model, data._replace(text=data.text[:-1]), device=CPU)
    with pytest.raises(DataError, match="lists 9 clips"):
        evaluate(model, data._replace(query_masks=data.query_masks[1:]), device=CPU)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(model, data, training):
    model.train(training)
    before = copy.deepcopy(model.state_dict())
    evaluate(model, data, device=CPU)
    assert same(model.state_dict(), before)
    with pytest.raises(KeyError):
        evaluate(model, data._replace(experts={}), device=CPU)
    assert model.training == training


def test_similarities_beyond_the_memory_are_kept_in_a_file(model, data, monkeypatch, tmp_path):
    expected = evaluate(model, data, device=CPU)
    monkeypatch.setattr(trainer.evaluator, "IN_MEMORY", 100)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = evaluate(model, data, device=CPU)
    np.testing.assert_array_equal(found.similarities, expected.similarities)
    assert found.metrics == expected.metrics
    assert not list(tmp_path.iterdir())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=f"{tmp_path}.*TMPDIR"):
        evaluate(model, data, device=CPU)
    assert not list(tmp_path.iterdir())


def test_a_similarity_that_is_not_finite_is_named_in_any_block(data, monkeypatch):
    monkeypatch.setattr(trainer.evaluator, "CHECKED_AT_ONCE", 2 * CLIPS)
    for query, clip, value in ((20, 3, torch.inf), (0, 3, torch.nan), (26, 8, -torch.inf)):
        sims = torch.zeros(CLIPS * CAPTIONS, CLIPS)
        sims[query, clip] = value
        words = f"caption of clip 'clip {query // CAPTIONS}' and clip 'clip {clip}' is {value}"
        with pytest.raises(DataError, match=words):
            trainer.evaluator.rank(sims, data)
