"""Every source and attribute sounds like what its caption says, as a listener would measure it."""

import numpy as np
import pytest

from listening import centroid, crossings, envelope, height_track, onsets, rms, share
from soundscenes.scene import Event, render_event
from soundscenes.sources import SOURCES

STRUCK = [s for s in SOURCES.values() if s.kind == "struck"]
PITCHED = [s for s in SOURCES.values() if s.high_low]
PACED = [s for s in SOURCES.values() if s.kind == "rhythmic"]

# where most of a source's power lies, in Hz: what makes it this source and not another
PLACE = {
    "bell": (300, 2500),
    "dog": (400, 3000),
    "cat": (350, 3000),
    "owl": (280, 560),
    "cuckoo": (450, 850),
    "frog": (450, 2000),
    "knock": (150, 1500),
    "slam": (60, 900),
    "glass": (1800, 8000),
    "whistle": (1700, 3200),
    "thunder": (30, 500),
    "drop": (650, 2200),
    "laser": (200, 3500),
    "horn": (330, 4500),
    "guitar": (120, 3500),
    "drum": (60, 500),
    "phone": (1000, 5000),
    "footsteps": (50, 3500),
    "clock": (1300, 7000),
    "typing": (120, 7800),
    "heartbeat": (40, 200),
    "alarm": (800, 6000),
    "saw": (900, 7000),
    "helicopter": (50, 1200),
    "crickets": (3400, 5500),
    "hammer": (200, 7000),
    "horse": (120, 2000),
    "birds": (2000, 5000),
    "train": (60, 4000),
    "rain": (1000, 8000),
    "wind": (70, 1000),
    "engine": (40, 1000),
    "siren": (500, 4500),
    "waves": (120, 6500),
    "stream": (300, 3500),
    "fire": (40, 8000),
    "vacuum": (150, 5000),
    "bees": (150, 3500),
    "applause": (500, 3500),
    "plane": (80, 1500),
}


def sound(name, seed=0, seconds=5.0, **attributes):
    if SOURCES[name].kind == "struck":
        attributes.setdefault("count", "once")
    return render_event(Event(name, **attributes), np.random.default_rng(seed), seconds)


def test_there_are_at_least_24_sources_of_three_kinds():
    assert len(SOURCES) >= 24
    assert {source.kind for source in SOURCES.values()} == {"struck", "rhythmic", "steady"}


@pytest.mark.parametrize("name", SOURCES)
def test_power_lies_where_the_source_is_heard(name):
    low, high = PLACE[name]
    for seed in range(4):
        wave = sound(name, seed)
        assert np.isfinite(wave).all()
        assert share(wave, low, high) > 0.85


@pytest.mark.parametrize("source", PITCHED, ids=lambda s: s.name)
def test_high_is_higher_than_usual_and_low_is_lower(source):
    if source.name == "guitar":  # the ear goes by the fundamental; see the next test
        return
    heights = {
        pitch: [centroid(sound(source.name, seed, pitch=pitch)) for seed in range(4)]
        for pitch in ("low", None, "high")
    }
    assert max(heights["low"]) < min(heights[None])
    assert max(heights[None]) < min(heights["high"])


def test_a_high_guitar_string_repeats_faster():
    def period(wave):  # the lag at which the sound is most like itself
        wave = wave[1600:9600]
        likeness = np.correlate(wave, wave, "full")[wave.size - 1 :]
        return 30 + int(np.argmax(likeness[30:200]))

    high, usual, low = (
        [period(sound("guitar", seed, pitch=pitch)) for seed in range(4)]
        for pitch in ("high", None, "low")
    )
    assert max(high) < min(usual)
    assert max(usual) < min(low)


@pytest.mark.parametrize("source", STRUCK, ids=lambda s: s.name)
def test_once_twice_and_several_times_are_so_many_onsets(source):
    expected = {"once": {1}, "twice": {2}, "several": {4, 5}}
    for count in source.counts:
        for seed in range(4):
            wave = sound(source.name, seed, count=count)
            assert len(onsets(wave, apart=0.7 * source.gap)) in expected[count]


@pytest.mark.parametrize("source", PACED, ids=lambda s: s.name)
def test_fast_has_more_sounds_a_second_than_usual_and_slow_has_fewer(source):
    def rate(pace):
        waves = [sound(source.name, seed, seconds=6.0, pace=pace) for seed in range(4)]
        return [crossings(envelope(wave, 0.03)) / 6 for wave in waves]

    slow, usual, fast = rate("slow"), rate(None), rate("fast")
    assert max(slow) < min(usual)
    assert max(usual) < min(fast)
    assert np.mean(fast) > 2 * np.mean(slow)


def test_a_fast_siren_rises_more_often():
    slow, usual, fast = (
        [crossings(height_track(sound("siren", seed, 8.0, pace=pace))) for seed in range(4)]
        for pace in ("slow", None, "fast")
    )
    assert max(slow) < min(usual)
    assert max(usual) < min(fast)


@pytest.mark.parametrize("name", SOURCES)
def test_near_is_louder_than_usual_and_far_is_softer_and_duller(name):
    near, usual, far = (
        [sound(name, seed, distance=distance) for seed in range(4)]
        for distance in ("near", None, "far")
    )
    assert min(map(rms, near)) > 2.5 * max(map(rms, far))
    assert np.mean([rms(w) for w in near]) > np.mean([rms(w) for w in usual])
    if min(map(centroid, usual)) > 1000:  # air takes the treble; a rumble has none to lose
        assert np.mean([centroid(w) for w in far]) < np.mean([centroid(w) for w in near])


@pytest.mark.parametrize("name", SOURCES)
def test_two_of_a_kind_differ_and_one_repeats_exactly(name):
    np.testing.assert_array_equal(sound(name, 1), sound(name, 1))
    first, second = sound(name, 1), sound(name, 2)
    n = min(first.size, second.size)
    assert not np.array_equal(first[:n], second[:n])


def test_characters_that_tell_similar_sources_apart():
    # a bell rings on, a knock does not
    assert sound("bell").size > 4 * sound("knock").size
    # a cuckoo's second note is lower than its first
    wave = sound("cuckoo")
    assert centroid(wave[:3000]) > 1.15 * centroid(wave[-4500:])
    # a laser falls, a drop rises
    wave = sound("laser")
    assert centroid(wave[: wave.size // 3]) > 1.5 * centroid(wave[-wave.size // 3 :])
    wave = sound("drop")
    assert centroid(wave[800:2400]) > centroid(wave[:400])
    # a telephone trills about twenty times a second, a whistle's pea about thirty
    assert 14 <= crossings(envelope(sound("phone")[:13_000], 0.01)) / 0.8 <= 26
    # a heart beats in pairs: lub, dub
    assert len(onsets(sound("heartbeat", pace="slow", seconds=4.0), apart=0.1)) >= 6
