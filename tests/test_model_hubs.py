"""What captions near many clips lose: by hand, by its properties, and against leaving clips out."""

import numpy as np
import pytest
import torch

from model.hubs import Hubs
from test_model_kernel_alignment import kernel
from test_model_linear_alignment import linear, made_batches

BUILDERS = pytest.mark.parametrize("build", [linear, kernel])


def test_the_nearness_of_a_caption_worked_by_hand():
    hubs = Hubs(20, 2)
    captions = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert hubs(captions).tolist() == [0, 0]
    hubs.fit(torch.tensor([[3.0, 0.0]] * 10 + [[3.0, 4.0]] * 5))
    # cosines 1 (ten) and 0.6 (five); 0 (ten) and 0.8 (five): means of the ten greatest
    assert hubs(captions).tolist() == pytest.approx([1, 0.4])


def test_no_more_clips_are_kept_than_there_is_room_for():
    hubs = Hubs(3, 2)
    hubs.fit(torch.arange(10.0).view(5, 2) + 1)
    assert torch.equal(hubs.bank, torch.nn.functional.normalize(torch.arange(6.0).view(3, 2) + 1))


@BUILDERS
def test_clips_keep_their_order_for_a_caption_and_scores_are_inner_products(build):
    batches, text, experts, available = made_batches()
    scores = []
    for hubness in (0.0, 0.5):
        model = build(hubness=hubness)
        model.prepare(lambda _: batches, 1)
        captions, clips = model.encode_captions(text), model.encode_clips(experts, available)
        scores.append(model.score(captions, clips))
        found = model.vectors(captions) @ model.vectors(clips).T
        assert torch.allclose(found, scores[-1], atol=1e-6)
    loss = (scores[0] - scores[1]).detach()
    assert loss.std(dim=1).max() < 1e-6
    assert torch.allclose(loss[:, 0], 0.5 * model.hubs(captions[0][:, :-1]), atol=1e-6)
    assert loss[:, 0].std() > 0.01


@BUILDERS
def test_the_bank_holds_each_clip_as_mapped_without_it(build):
    """Clip by clip, with the statistics of all: only the map does without the clip."""
    batches, text, experts, available = made_batches(clips=24)
    model = build(hubness=0.5, ridge=0.3)
    model.prepare(lambda _: batches, 1)
    x = model.statistics(experts, available).double()
    if build is kernel:
        x = model.likeness(x, x)
    y = model.captions(text).double()
    y -= y.mean(dim=0)
    penalty = x if build is kernel else torch.eye(x.shape[1])
    for clip in (0, 7, 23):
        others = np.delete(np.arange(24), clip)
        gram = x[others].T @ x[others] + 0.3 * penalty
        solution = torch.linalg.lstsq(gram, x[others].T @ y[others], driver="gelsd").solution
        expected = torch.nn.functional.normalize(x[clip] @ solution, dim=0)
        assert torch.allclose(model.hubs.bank[clip].double(), expected, atol=1e-3)
    assert not model.hubs.bank[24:].any()


def test_captions_of_all_passes_count_for_a_clip_whatever_the_order():
    batches, text, *_ = made_batches(clips=24)
    other = torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    backwards = [(other[part], *rest) for (_, *rest), part in zip(batches, PARTS, strict=True)]
    model = linear(hubness=0.5, passes=2)
    model.prepare(lambda number: batches if number == 1 else backwards[::-1], 1)
    x, y = model._sums.some
    means = (model.captions(text) + model.captions(other)).double() / 2
    assert torch.allclose(y, means - means.mean(dim=0), atol=1e-6)
    assert len(x) == 24


PARTS = (slice(0, 16), slice(16, 24))
