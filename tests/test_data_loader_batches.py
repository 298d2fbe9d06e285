"""Plans and gathers, against the words that describe them and naive twins."""

import numpy as np
import pytest
import torch

from data_loader.batches import (
    EpochPlan,
    Sequences,
    count_batches,
    keep_words,
    one_ahead,
    plan_epoch,
)


def plan(clips, batch_size, **changes):
    settings = {"epoch": 3, "seed": 5, "drop_last": False} | changes
    return plan_epoch(np.full(clips, 4), batch_size=batch_size, **settings)


def test_an_epoch_brings_every_clip_once():
    drawn = plan(1000, 64)
    assert sorted(drawn.order) == list(range(1000))
    assert set(drawn.picks) == {0, 1, 2, 3}


def test_a_plan_depends_on_epoch_and_seed_alone():
    first = plan(200, 64)
    for other, same in (
        (plan(200, 64), True),
        (plan(200, 32), True),
        (plan(200, 64, epoch=4), False),
        (plan(200, 64, seed=6), False),
        (plan(200, 64, epoch=5, seed=3), False),
    ):
        assert np.array_equal(first.order, other.order) is same
        assert np.array_equal(first.picks, other.picks) is same


def test_picks_stay_below_the_choices_of_each_clip():
    choices = np.array([1, 2, 5] * 100)
    drawn = plan_epoch(choices, epoch=0, seed=0, batch_size=8, drop_last=False)
    assert (drawn.picks < choices[drawn.order]).all()
    assert drawn.picks.max() == 4


@pytest.mark.parametrize(
    ("clips", "batch_size", "drop_last", "expected"),
    [
        (8, 4, False, 2),
        (10, 4, False, 3),
        (10, 4, True, 2),
        (9, 4, False, 2),  # the ninth clip would be alone
        (3, 128, False, 1),
        (3, 128, True, 0),
        (1, 128, False, 0),
        (5, 1, False, 0),
    ],
)
def test_batches_of_an_epoch(clips, batch_size, drop_last, expected):
    assert count_batches(clips, batch_size, drop_last=drop_last) == expected
    assert len(plan(clips, batch_size, drop_last=drop_last)) == expected


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shares_tile_each_batch(world_size):
    drawn = EpochPlan(np.arange(22), np.zeros(22, int), batch_size=10, drop_last=False)
    for batch, (first, end) in enumerate([(0, 10), (10, 20), (20, 22)]):
        shares = [drawn.share(batch, rank, world_size) for rank in range(world_size)]
        assert [place for s in shares for place in range(s.start, s.stop)] == [*range(first, end)]
        sizes = [share.stop - share.start for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_words_are_dropped_as_described():
    lengths = np.array([1, 5, 12] * 4000)
    keep = keep_words(lengths, 0.6, np.random.default_rng(0))
    assert keep.shape == (12000, 12)
    assert not keep[np.arange(12) >= lengths[:, None]].any()
    kept = keep.sum(axis=1)
    assert kept.min() == 1
    # Of the long captions 0.4 stay whole (2 ** -12 of the others do too); the rest keep half.
    long = kept[lengths == 12]
    assert (long == 12).mean() == pytest.approx(0.4, abs=0.03)
    assert long[long < 12].mean() == pytest.approx(6, abs=0.1)
    places = keep[(lengths == 12) & (kept < 12)].mean(axis=0)
    assert places == pytest.approx([0.5] * 12, abs=0.04)


def test_without_dropout_every_word_stays():
    lengths = np.array([3, 1, 7])
    np.testing.assert_array_equal(
        keep_words(lengths, 0.0, np.random.default_rng(0)), np.arange(7) < lengths[:, None]
    )


@pytest.fixture
def runs():
    """Seven items of 0 to 6 rows, in rows of width 3 that end in padding."""
    lengths = torch.arange(7)
    starts = torch.cumsum(lengths, 0) - lengths
    rows = torch.cat([torch.rand(int(lengths.sum()), 3) + 1, torch.zeros(1, 3)])
    return Sequences(rows, starts, lengths)


def naive(runs, items, keeps, width):
    """Row by row: the kept rows of each item, cut to `width`, then zeros."""
    out = torch.zeros(len(items), width, runs.rows.shape[1])
    for b, (item, keep) in enumerate(zip(items, keeps, strict=True)):
        start, length = int(runs.starts[item]), int(runs.lengths[item])
        rows = [runs.rows[start + n] for n in range(length) if keep[n]][:width]
        for n, row in enumerate(rows):
            out[b, n] = row
    return out


@pytest.mark.parametrize("width", [1, 4, 6, 9])
def test_items_are_cut_and_padded(runs, width):
    items = torch.tensor([6, 0, 3, 3, 1, 5])
    taken = runs.take(runs.index(items, width), pin=False)
    assert torch.equal(taken, naive(runs, items, [[True] * 6] * 6, width))


def test_an_empty_share_has_the_shape_of_a_batch(runs):
    nothing = torch.zeros(0, dtype=torch.int64)
    assert runs.take(runs.index(nothing, 4), pin=False).shape == (0, 4, 3)
    kept = runs.index_of_kept(nothing, torch.zeros(0, 6, dtype=torch.bool), 4)
    assert runs.take(kept, pin=False).shape == (0, 4, 3)


@pytest.mark.parametrize("width", [1, 3, 6, 9])
def test_kept_words_close_ranks_before_the_cut(runs, width):
    draw = np.random.default_rng(width)
    items = torch.from_numpy(draw.integers(1, 7, size=40))
    keep = keep_words(runs.lengths[items].numpy(), 0.8, draw)
    taken = runs.take(runs.index_of_kept(items, torch.from_numpy(keep), width), pin=False)
    padded = np.pad(keep, ((0, 0), (0, 6 - keep.shape[1])))
    assert torch.equal(taken, naive(runs, items, padded, width))


def test_one_ahead_keeps_order_and_passes_errors_on():
    assert list(one_ahead(lambda n: n * n, range(6))) == [0, 1, 4, 9, 16, 25]
    assert list(one_ahead(lambda n: n, [])) == []

    def fail_at_two(number):
        if number == 2:
            raise ValueError("two")
        return number

    numbers = one_ahead(fail_at_two, range(5))
    assert [next(numbers), next(numbers)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(numbers)


def test_one_ahead_works_ahead_by_one_and_stops_with_its_user():
    made = []
    batches = one_ahead(lambda n: made.append(n) or n, range(100))
    assert next(batches) == 0
    assert next(batches) == 1
    batches.close()
    assert made == [0, 1, 2]
