"""Ranks and metrics: by hand, against a sort, properties, and the recorded numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden import load_case
from model import metric
from model.metric import summarise, t2v_metrics, t2v_ranks, v2t_metrics, v2t_ranks

RANKS = {"t2v_metrics": t2v_ranks, "v2t_metrics": v2t_ranks}


def rank_by_sorting(scores, own):
    """Sort from best to worst; average the places that hold the own score."""
    ordered = sorted(scores, reverse=True)
    places = [place for place, score in enumerate(ordered) if score == own]
    return sum(places) / len(places)


def slow_t2v(sims, masks):
    clips, per_clip = masks.shape
    return [
        rank_by_sorting(sims[q], sims[q, q // per_clip])
        for q in range(clips * per_clip)
        if masks[q // per_clip, q % per_clip]
    ]


def slow_v2t(sims, masks):
    clips, per_clip = masks.shape
    exist = [q for q in range(len(sims)) if masks[q // per_clip, q % per_clip]]
    ranks = []
    for clip in range(clips):
        own = [sims[q, clip] for q in exist if q // per_clip == clip]
        scores = [sims[q, clip] for q in exist]
        ranks.append(rank_by_sorting(scores, max(own)) if own else np.inf)
    return ranks


def draw_case(rng, clips, per_clip, *, levels=None, keep=1.0):
    """Draw sims (Q, V), rounded to `levels` values for ties, and masks (V, K)."""
    sims = rng.normal(size=(clips * per_clip, clips)).astype(np.float32)
    if levels is not None:
        sims = np.round(sims * levels) / np.float32(levels)
    masks = (rng.random((clips, per_clip)) < keep).astype(np.float64)
    masks[np.arange(clips), rng.integers(0, per_clip, clips)] = 1
    return sims, masks


def test_ranks_by_hand():
    sims = np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.5], [0.7, 0.8, 0.1]])
    # caption 0 finds its clip first, caption 1 ties with both others, caption 2 finds it last
    assert t2v_ranks(sims).tolist() == [0, 1, 2]
    # clip 0: .9 .5 .7 own first; clip 1: .1 .5 .8 own second; clip 2: .2 .5 .1 own last
    assert v2t_ranks(sims).tolist() == [0, 1, 2]


def test_ranks_of_several_captions_by_hand():
    sims = np.array([[0.3, 0.4], [0.9, 0.1], [0.6, 0.2], [0.5, 0.2]])  # V=2, K=2
    assert t2v_ranks(sims).tolist() == [1, 0, 1, 1]
    # clip 0: its best is .9, first of all; clip 1: its best is .2, behind .4, level with itself
    assert v2t_ranks(sims).tolist() == [0, 1.5]
    masks = np.array([[1, 0], [0, 1]])  # .9 and one .2 do not exist
    assert t2v_ranks(sims, masks).tolist() == [1, 1]
    assert v2t_ranks(sims, masks).tolist() == [1, 1]


def test_a_clip_without_captions_has_an_infinite_rank():
    sims = np.array([[0.3, 0.4], [0.9, 0.1]])
    assert v2t_ranks(sims, np.array([[1], [0]])).tolist() == [0, np.inf]


def test_metrics_by_hand():
    ranks = np.array([0, 0.5, 4, 5, 9.5, 49, 50, 0])
    found = summarise(ranks)
    assert found["R1"] == 100 * 2 / 8  # the tie for the first place is no hit
    assert found["R5"] == 100 * 4 / 8
    assert found["R10"] == 100 * 6 / 8
    assert found["R50"] == 100 * 7 / 8
    assert found["MedR"] == 5.5
    assert found["MeanR"] == 118 / 8 + 1
    assert found["geometric_mean_R1-R5-R10"] == pytest.approx((25 * 50 * 75) ** (1 / 3))
    assert summarise(ranks + 1)["geometric_mean_R1-R5-R10"] == 0


@pytest.mark.parametrize("per_clip", [1, 3])
@pytest.mark.parametrize("levels", [None, 1, 3])
@pytest.mark.parametrize("keep", [1.0, 0.6])
def test_ranks_equal_sorting(per_clip, levels, keep):
    sims, masks = draw_case(np.random.default_rng(7), 23, per_clip, levels=levels, keep=keep)
    assert t2v_ranks(sims, masks).tolist() == slow_t2v(sims, masks)
    assert v2t_ranks(sims, masks).tolist() == slow_v2t(sims, masks)
    if keep == 1.0:
        assert t2v_ranks(sims).tolist() == t2v_ranks(sims, masks).tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_small_matrix_equals_sorting(data):
    clips, per_clip = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    values = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1e-45, 0.1, 2.0, 3e38])
    size = clips * per_clip * clips
    flat = data.draw(st.lists(values, min_size=size, max_size=size))
    sims = np.array(flat, np.float32).reshape(-1, clips)
    masks = np.ones((clips, per_clip))
    assert t2v_ranks(sims, masks).tolist() == slow_t2v(sims, masks)
    assert v2t_ranks(sims, masks).tolist() == slow_v2t(sims, masks)


@pytest.mark.parametrize("block_bytes", [1, 100, 1000, 1 << 30])
def test_the_size_of_blocks_changes_nothing(monkeypatch, block_bytes):
    sims, masks = draw_case(np.random.default_rng(3), 31, 4, levels=4, keep=0.8)
    expected = t2v_ranks(sims, masks), v2t_ranks(sims, masks)
    monkeypatch.setattr(metric, "BLOCK_BYTES", block_bytes)
    np.testing.assert_array_equal(t2v_ranks(sims, masks), expected[0])
    np.testing.assert_array_equal(v2t_ranks(sims, masks), expected[1])


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda s: np.repeat(s, 2, axis=1)[:, ::2]])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_layout_and_dtype_do_not_matter(layout, dtype):
    sims, masks = draw_case(np.random.default_rng(4), 17, 2, levels=8)  # exact in float16
    other = layout(sims.astype(dtype))
    np.testing.assert_array_equal(t2v_ranks(other, masks), t2v_ranks(sims, masks))
    np.testing.assert_array_equal(v2t_ranks(other, masks), v2t_ranks(sims, masks))


def test_float32_ties_are_ties_and_neighbours_are_not():
    sims = np.full((2, 2), 0.1, np.float32)
    assert t2v_ranks(sims).tolist() == [0.5, 0.5]
    sims[0, 0] = np.nextafter(np.float32(0.1), np.float32(1))
    assert t2v_ranks(sims).tolist() == [0, 0.5]


def test_arguments_stay_as_they_are():
    sims, masks = draw_case(np.random.default_rng(9), 11, 2, keep=0.5)
    before = sims.copy(), masks.copy()
    t2v_metrics(sims, masks), v2t_metrics(sims, masks)
    np.testing.assert_array_equal(sims, before[0])
    np.testing.assert_array_equal(masks, before[1])


@pytest.mark.parametrize("ranks", RANKS.values())
def test_nan_is_an_error_that_names_the_pair(ranks):
    sims = np.zeros((6, 3), np.float32)
    sims[4, 1] = np.nan
    with pytest.raises(ValueError, match="caption 4 and clip 1 is NaN"):
        ranks(sims)


@pytest.mark.parametrize("ranks", RANKS.values())
@pytest.mark.parametrize("shape", [(5, 3), (2, 3), (0, 3), (3, 0), (9,)])
def test_wrong_shapes_are_errors(ranks, shape):
    with pytest.raises(ValueError, match="Q a multiple of V"):
        ranks(np.zeros(shape))


@pytest.mark.parametrize("ranks", RANKS.values())
def test_masks_must_fit(ranks):
    with pytest.raises(ValueError, match=r"query_masks are \(2, 3\); expected .* \(3, 2\)"):
        ranks(np.zeros((6, 3)), np.ones((2, 3)))


def test_nothing_to_rank_is_an_error():
    with pytest.raises(ValueError, match="no query is left"):
        t2v_metrics(np.zeros((2, 2)), np.zeros((2, 1)))


CASE, ARRAYS = load_case("metrics_small")


@pytest.mark.parametrize("name", CASE["cases"])
@pytest.mark.parametrize("kind", RANKS)
def test_repeats_the_published_numbers(name, kind):
    sims = ARRAYS[f"{name}/sims"].astype(np.float32)
    masks = ARRAYS[f"{name}/query_masks"]
    np.testing.assert_array_equal(RANKS[kind](sims, masks), ARRAYS[f"{name}/{kind}/ranks"])
    for key, value in CASE["cases"][name][kind].items():
        assert summarise(RANKS[kind](sims, masks))[key] == pytest.approx(value, abs=1e-9), key


@pytest.mark.parametrize("name", [n for n, c in CASE["cases"].items() if "per_class_t2v" in c])
def test_repeats_the_published_numbers_of_one_class(name):
    """A class is a choice of queries: of captions by their masks, of clips by their ranks."""
    sims = ARRAYS[f"{name}/sims"].astype(np.float32)
    masks = ARRAYS[f"{name}/query_masks"]
    captions = t2v_metrics(sims, masks * ARRAYS[f"{name}/class_t2v"])
    clips = summarise(v2t_ranks(sims, masks)[ARRAYS[f"{name}/class_v2t"].astype(bool)])
    for found, kind in ((captions, "per_class_t2v"), (clips, "per_class_v2t")):
        for key, value in CASE["cases"][name][kind].items():
            assert found[key] == pytest.approx(value, abs=1e-9), key


def test_counts_beyond_a_byte():
    sims = np.zeros((1200, 2), np.float32)
    sims[600:, 1] = 1.0
    sims[:, 0] = np.arange(1200) + 600 * (np.arange(1200) < 600)  # 600.. own first, then others
    masks = np.ones((2, 600))
    assert v2t_ranks(sims, masks).tolist() == slow_v2t(sims, masks)
