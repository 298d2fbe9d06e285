"""The built-in experts measure what they say: colour and loudness, and how these move."""

import numpy as np
import pytest

from audio.signal_features import (
    BANDS,
    BROAD_BANDS,
    MODULATION_CENTRE,
    MODULATION_SCALE,
    RATES,
    WIDTHS,
    extract,
    log_mel,
)
from soundscenes.scene import plan, render

RATE = 16_000


def tone(frequency, seconds=4.0, beat=0.0, level=8000):
    time = np.arange(round(seconds * RATE)) / RATE
    swell = 1 + 0.9 * np.sin(2 * np.pi * beat * time) if beat else 1.0
    hiss = np.random.default_rng(0).standard_normal(time.size)
    sound = level / 2 * swell * np.sin(2 * np.pi * frequency * time) + 3 * hiss
    return (sound / 32_768).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.01, 0.5, 1.0, 3.0, 9.97])
def test_tokens_per_second_and_widths(seconds):
    found = extract(tone(440, seconds))
    assert {name: tokens.shape[1] for name, tokens in found.items()} == WIDTHS
    assert found["logmel"].shape[0] == pytest.approx(max(1, seconds / 0.96), abs=0.55)
    assert found["modulation"].shape[0] == pytest.approx(max(1, seconds / 0.24), abs=0.65)
    assert all(tokens.dtype == np.float32 for tokens in found.values())


@pytest.mark.parametrize("sound", [np.zeros(5), np.zeros(48_000), np.ones(48_000)])
def test_silence_and_clipping_are_finite(sound):
    for tokens in extract(sound.astype(np.float32)).values():
        assert np.isfinite(tokens).all()


def test_a_higher_tone_is_in_a_higher_band():
    peaks = [log_mel(tone(f)).mean(axis=0).argmax() for f in (100, 300, 1000, 3000, 7000)]
    assert peaks == sorted(set(peaks))
    mel = 2595 * np.log10(1 + np.array([60, 1000, 7800]) / 700)  # triangle k peaks at step k + 1
    assert peaks[2] == pytest.approx((mel[1] - mel[0]) / (mel[2] - mel[0]) * 65 - 1, abs=1)


def test_a_full_scale_tone_has_the_level_it_should():
    # a sine of amplitude A under a Hann window of 400: power at its bin (A * 400/2 / 2) ** 2
    expected = 10 * np.log10((0.25 * 100) ** 2 / 512)
    assert log_mel(tone(1000, level=16_384)).max() == pytest.approx(expected, abs=3)


def test_louder_moves_logmel_and_leaves_modulation():
    soft, loud = extract(tone(1000, beat=4, level=2000)), extract(tone(1000, beat=4, level=20_000))
    band = log_mel(tone(1000)).mean(axis=0).argmax()
    assert np.all(loud["logmel"][:, band] - soft["logmel"][:, band] > 0.9)
    change = (loud["modulation"] - soft["modulation"]).reshape(-1, BROAD_BANDS, RATES)
    assert np.abs(change[2:-2, band * BROAD_BANDS // BANDS, 4:12]).mean() < 0.3


@pytest.mark.parametrize("beat", [1, 2, 4, 8, 16, 30])
def test_a_beat_is_at_its_rate(beat):
    band = log_mel(tone(1000)).mean(axis=0).argmax() * BROAD_BANDS // BANDS
    tokens = extract(tone(1000, beat=beat))["modulation"].reshape(-1, BROAD_BANDS, RATES)
    strength = (tokens * MODULATION_SCALE + MODULATION_CENTRE).mean(axis=0)[band]
    assert strength.argmax() + 1 == pytest.approx(1.92 * beat, abs=1.0)


def test_tokens_follow_time():
    sound = np.concatenate([tone(300, 2.88), tone(4000, 2.88)])
    means = extract(sound)["logmel"][:, :BANDS]
    low, high = (log_mel(tone(f)).mean(axis=0).argmax() for f in (300, 4000))
    assert np.all(means[:3, low] > means[:3, high])
    assert np.all(means[3:, high] > means[3:, low])


def test_scenes_are_about_standardised():
    found = [extract(render(scene) / np.float32(32_768)) for scene in plan(1, {"train": 80})]
    for name in WIDTHS:
        tokens = np.concatenate([one[name] for one in found])
        assert np.abs(tokens.mean(axis=0)).mean() < 0.4
        assert 0.5 < np.median(tokens.std(axis=0)) < 1.5
