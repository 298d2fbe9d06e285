"""Differences that are chance are called chance about as often as is said."""

import numpy as np
import pytest
from scipy import stats

from results.statistics import holm, paired_differences, welch

CLIPS, PER_CLIP, SEEDS, ROUNDS = 100, 2, 3, 200


def summary(ranks):
    return {
        "R1": 100.0 * float(np.mean(ranks < 1)),
        "R10": 100.0 * float(np.mean(ranks < 10)),
        "MeanR": float(np.mean(ranks)) + 1,
    }


def simulated(draw, *, between_seeds=0.2, lead=0.0, clips=CLIPS, seeds=(SEEDS, SEEDS)):
    """Ranks of two systems (S, n), and the clip of each query (n,).

    Clips, captions and seeds are easier or harder for both or for one.
    """
    owner = np.repeat(np.arange(clips), PER_CLIP)
    base = draw.normal(size=clips)[owner] + 0.7 * draw.normal(size=len(owner))
    systems = []
    for count, ahead in zip(seeds, (lead, 0.0), strict=True):
        own = base + 0.5 * draw.normal(size=clips)[owner] + ahead
        rows = [
            own + between_seeds * draw.normal() + 0.5 * draw.normal(size=len(owner))
            for _ in range(count)
        ]
        systems.append(np.floor(np.exp(1.2 - 1.2 * np.array(rows))).clip(0, clips))
    return *systems, owner


def test_differences_worked_by_hand():
    owner = np.array([0, 0, 1])
    first, second = np.array([[0.0, 3, 20], [0, 0, 20]]), np.array([[5.0, 0, 0]])
    found = paired_differences(first, second, owner, summary, rounds=100)
    assert found["R1"].first == pytest.approx((100 / 3 + 200 / 3) / 2)
    assert found["R1"].second == pytest.approx(200 / 3)
    assert found["R1"].difference == pytest.approx(-50 / 3)
    assert found["MeanR"].difference == pytest.approx((26 / 3 + 23 / 3) / 2 - 8 / 3)
    assert found["R1"].seeds  # the first system has two


def test_a_system_never_differs_from_itself():
    first, _, owner = simulated(np.random.default_rng(0))
    for found in paired_differences(first, first, owner, summary, rounds=200).values():
        assert found.difference == 0
        assert found.p == 1
        assert found.low <= 0 <= found.high


def test_swapping_the_systems_turns_the_sign_alone():
    first, second, owner = simulated(np.random.default_rng(1), lead=0.5)
    one = paired_differences(first, second, owner, summary, rounds=2000)
    other = paired_differences(second, first, owner, summary, rounds=2000)
    for name, found in one.items():
        assert other[name].difference == pytest.approx(-found.difference)
        assert other[name].p == pytest.approx(found.p, abs=0.06)
        assert other[name].low == pytest.approx(-found.high, rel=0.2, abs=1.5)


def test_it_repeats_and_depends_on_its_seed():
    systems = simulated(np.random.default_rng(2))
    one, again, other = (
        paired_differences(*systems, summary, rounds=200, seed=seed) for seed in (0, 0, 1)
    )
    assert one == again
    assert one != other


def test_without_noise_between_seeds_the_test_is_the_exact_one():
    """One seed each, one query a clip: all 2^n swaps counted by hand."""
    draw = np.random.default_rng(3)
    ranks = draw.integers(0, 4, size=(2, 10)).astype(float)
    gaps = (ranks[0] == 0).astype(float) - (ranks[1] == 0)
    signs = 1 - 2 * ((np.arange(1024)[:, None] >> np.arange(10)) & 1)
    exact = np.mean(np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-9)
    found = paired_differences(*ranks[:, None], np.arange(10), summary, rounds=4000)["R1"]
    assert found.p == pytest.approx(exact, abs=0.03)
    assert not found.seeds


def test_the_interval_is_that_of_a_plain_bootstrap_without_seeds():
    first, second, owner = simulated(np.random.default_rng(4), seeds=(1, 1))
    found = paired_differences(first, second, owner, summary, rounds=3000)["R10"]
    hits = (first[0] < 10).astype(float) - (second[0] < 10)
    by_clip = 100 * hits.reshape(CLIPS, PER_CLIP).mean(axis=1)
    half = 1.96 * by_clip.std() / np.sqrt(CLIPS)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_seeds_that_differ_widen_the_interval():
    widths = {}
    for between in (0.0, 0.8):
        systems = simulated(np.random.default_rng(5), between_seeds=between)
        found = paired_differences(*systems, summary, rounds=1000)["R10"]
        widths[between] = found.high - found.low
    assert widths[0.8] > 1.5 * widths[0.0]


def test_clips_of_different_numbers_of_captions_are_drawn_whole():
    owner = np.array([2, 0, 0, 1, 2, 2])
    ranks = 10.0 ** owner[None]
    drawn = []
    paired_differences(ranks, ranks, owner, lambda row: drawn.append(row) or summary(row), rounds=9)
    sizes = {1.0: 2, 10.0: 1, 100.0: 3}
    for row in drawn:
        values, counts = np.unique(row, return_counts=True)
        clips = [number / sizes[value] for value, number in zip(values, counts, strict=True)]
        assert sum(clips) == 3
        assert all(number.is_integer() for number in clips)


def test_infinite_ranks_are_no_difference():
    """A clip without captions has an infinite rank: a mean of it says nothing."""
    first, second, owner = simulated(np.random.default_rng(8), clips=10)
    first[:, 0] = second[:, 0] = np.inf
    found = paired_differences(first, second, owner, summary, rounds=100)
    assert found["MeanR"].p == 1
    assert np.isfinite(found["R1"].low)


def test_holm_worked_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_rejects_as_its_definition_says():
    draw = np.random.default_rng(9)
    for _ in range(50):
        p = draw.random(6) ** 3
        order = np.argsort(p)
        rejected = set()
        for step, place in enumerate(order):
            if p[place] > 0.05 / (len(p) - step):
                break
            rejected.add(place)
        assert rejected == set(np.flatnonzero(np.array(holm(list(p))) <= 0.05))


def test_welch_agrees_with_scipy():
    expected = stats.ttest_ind_from_stats(23.1, 0.6, 3, 22.5, 0.4, 5, equal_var=False).pvalue
    assert welch((23.1, 0.6, 3), (22.5, 0.4, 5)) == pytest.approx(expected)
    assert welch((23.1, 0.6, 3), (23.14, 0.0, 3), 0.05) == 1.0
    assert welch((23.1, 0.0, 3), (23.3, 0.0, 3), 0.05) == 0.0


def rejections(draw, count, **terms):
    """The share of simulated pairs whose difference is called more than chance at 5 %."""
    rejected, covered = dict.fromkeys(("R1", "R10", "MeanR"), 0), 0
    for pair in range(count):
        found = paired_differences(*simulated(draw, **terms), summary, rounds=ROUNDS, seed=pair)
        for name in rejected:
            rejected[name] += found[name].p <= 0.05
        covered += found["R10"].low <= 0 <= found["R10"].high
    return {name: hits / count for name, hits in rejected.items()}, covered / count


@pytest.mark.slow
def test_equal_systems_are_told_apart_as_often_as_the_level_says():
    """1,000 pairs of equal systems, 3 seeds each: 3 to 7 % rejected at 5 %, 93 to 97 % covered."""
    shares, covered = rejections(np.random.default_rng(10), 1000)
    for name, share in shares.items():
        assert 0.03 <= share <= 0.07, (name, share)
    assert 0.93 <= covered <= 0.97


@pytest.mark.slow
def test_single_seeds_are_calibrated_for_other_clips():
    shares, covered = rejections(np.random.default_rng(11), 1000, between_seeds=0.0, seeds=(1, 1))
    for name, share in shares.items():  # swaps give few different values: ties count as extreme
        assert 0.02 <= share <= 0.07, (name, share)
    assert 0.93 <= covered <= 0.97


@pytest.mark.slow
def test_a_known_difference_is_found():
    """A lead of half a deviation over the clips is found in most of 200 pairs."""
    shares, covered = rejections(np.random.default_rng(12), 200, lead=0.5)
    assert shares["R10"] > 0.5
    assert covered < 0.5


@pytest.mark.slow
def test_seeds_that_differ_are_not_taken_for_a_difference():
    """Two trainings that differ much by seed: a test over clips alone would find one too often."""
    shares, _ = rejections(np.random.default_rng(13), 300, between_seeds=0.8)
    assert all(share <= 0.08 for share in shares.values()), shares
