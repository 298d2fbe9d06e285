"""Scenes: their relations can be heard, and no combination is in two splits."""

import itertools
from collections import Counter

import numpy as np
import pytest

from listening import centroid, rms, share
from soundscenes.scene import RELATIONS, Event, Scene, plan, render
from soundscenes.sources import SOURCES
from utils.errors import DataError

DEFAULT = {"train": 1200, "val": 150, "test": 200}


@pytest.fixture(scope="module")
def scenes():
    return plan(0, DEFAULT)


def scene(relation, *events, seed=0):
    return Scene("one", "train", relation, events, (seed,))


def test_splits_have_the_clips_asked_for_under_distinct_names(scenes):
    assert Counter(s.split for s in scenes) == DEFAULT
    assert len({s.name for s in scenes}) == len({s.seed for s in scenes}) == sum(DEFAULT.values())


def test_no_combination_occurs_twice(scenes):
    assert len({s.combination for s in scenes}) == len(scenes)


def test_a_while_b_is_the_same_combination_as_b_while_a():
    bell, rain = Event("bell", count="once"), Event("rain")
    assert scene("while", bell, rain).combination == scene("while", rain, bell).combination
    assert scene("then", bell, rain).combination != scene("then", rain, bell).combination


def test_splits_share_sources_but_no_combination(scenes):
    combinations, sources = {}, {}
    for s in scenes:
        combinations.setdefault(s.split, set()).add(s.combination)
        sources.setdefault(s.split, set()).update(event.source for event in s.events)
    assert sources["train"] == set(SOURCES)
    assert all(len(found) > 0.9 * len(SOURCES) for found in sources.values())
    for one, other in itertools.combinations(combinations.values(), 2):
        assert not one & other


def test_every_relation_and_attribute_is_common(scenes):
    relations = Counter(s.relation for s in scenes)
    assert set(relations) == set(RELATIONS)
    assert min(relations.values()) > 200
    said = Counter(
        (name, getattr(event, name))
        for s in scenes
        for event in s.events
        for name in ("count", "pitch", "pace", "distance")
    )
    for name, values in {
        "count": ("once", "twice", "several"),
        "pitch": ("high", "low"),
        "pace": ("fast", "slow"),
        "distance": ("near", "far"),
    }.items():
        assert all(said[name, value] > 100 for value in values)


def test_events_only_have_attributes_that_their_source_can_have(scenes):
    for event in (event for s in scenes for event in s.events):
        source = SOURCES[event.source]
        assert (event.count is not None) == (source.kind == "struck")
        assert event.pitch is None or source.high_low is not None
        assert event.pace is None or source.rates is not None


def test_what_goes_on_behind_another_sound_lasts(scenes):
    for s in scenes:
        if s.relation in ("while", "over"):
            assert SOURCES[s.events[1].source].kind != "struck"


def test_plans_repeat_and_follow_the_seed():
    counts = {"train": 40, "val": 5, "test": 10}
    assert plan(3, counts) == plan(3, counts)
    assert [s.events for s in plan(3, counts)] != [s.events for s in plan(4, counts)]


def test_more_scenes_than_there_are_combinations_are_refused(monkeypatch):
    monkeypatch.setattr(
        "soundscenes.scene.SOURCES", {name: SOURCES[name] for name in ("rain", "wind")}
    )
    # each alone in 3 ways, one then the other in 18, one while the other in 9, over it in 8
    assert len(plan(0, {"train": 41})) == 41
    with pytest.raises(DataError, match="ask for fewer clips"):
        plan(0, {"train": 42})


def test_a_split_of_one_clip_is_possible():
    for seed in range(5):
        assert len(plan(seed, {"train": 30, "val": 1, "test": 1})) == 32


def test_sounds_are_16_bit_of_3_to_10_seconds_and_not_silent(scenes):
    for s in scenes[:40]:
        wave = render(s)
        assert wave.dtype == np.int16
        assert 3 * 16_000 <= wave.size <= 10 * 16_000
        assert rms(wave) > 15


def test_then_is_one_after_the_other():
    thunder, crickets = Event("thunder", count="once"), Event("crickets", pace="fast")
    for seed in range(4):
        wave = render(scene("then", thunder, crickets, seed=seed))
        assert share(wave[:8000], 2500, 8000) < 0.2
        assert share(wave[-24_000:-8000], 2500, 8000) > 0.8
        wave = render(scene("then", crickets, thunder, seed=seed))
        assert share(wave[4000:20_000], 2500, 8000) > 0.8
        assert centroid(wave[-24_000:-8000]) < centroid(wave[4000:20_000])


def test_while_is_both_at_once():
    for seed in range(4):
        wave = render(scene("while", Event("siren"), Event("crickets", pace="fast"), seed=seed))
        for part in np.array_split(wave[4000:-6000], 3):
            assert share(part, 450, 2500) > 0.05
            assert share(part, 3300, 5500) > 0.05


def test_over_has_the_first_in_front_of_the_second():
    def front_share(relation, seed):
        siren, crickets = Event("siren"), Event("crickets", pace="fast")
        return share(render(scene(relation, siren, crickets, seed=seed)), 450, 2500)

    over, beside = (
        np.mean([front_share(relation, seed) for seed in range(6)])
        for relation in ("over", "while")
    )
    assert over > 0.8
    assert over > beside


def test_near_scenes_are_louder_than_far_ones():
    near, far = (
        [rms(render(scene("alone", Event("rain", distance=d), seed=seed))) for seed in range(4)]
        for d in ("near", "far")
    )
    assert min(near) > 1.5 * max(far)
