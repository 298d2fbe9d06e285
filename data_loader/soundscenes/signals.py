"""The building blocks of synthetic sound: noise, tones, partials, envelopes, placement.

Waveforms are one-dimensional float64 arrays at RATE samples a second; frequencies are in Hz,
durations in seconds, counts of samples are called `n`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft
from numpy.typing import NDArray

RATE = 16_000
Wave = NDArray[np.float64]


def samples(seconds: float) -> int:
    """Return how many samples a duration has (at least one)."""
    return max(1, round(seconds * RATE))


def times(n: int) -> Wave:
    """Return the time of each of n samples, in seconds."""
    return np.arange(n) / RATE


def noise(rng: np.random.Generator, n: int, low: float, high: float, slope: float = 0.0) -> Wave:
    """Draw n samples of noise between two frequencies, with unit RMS.

    `slope` tilts the spectrum, in decibels per octave above `low` (pink noise has -3). The edges
    fall off as a fourth-order filter would, so that a band never sounds cut with scissors.
    """
    size = scipy.fft.next_fast_len(n, real=True)
    frequency = np.maximum(scipy.fft.rfftfreq(size, 1 / RATE), 1.0)
    gain = 1 / np.sqrt((1 + (low / frequency) ** 8) * (1 + (frequency / high) ** 8))
    if slope:
        gain *= np.maximum(frequency / low, 1.0) ** (slope / 6.02)
    spectrum = rng.standard_normal(gain.size) + 1j * rng.standard_normal(gain.size)
    wave = scipy.fft.irfft(spectrum * gain, size)[:n]
    return wave / max(float(np.sqrt(np.mean(wave**2))), 1e-12)


def phase(frequency: Wave) -> Wave:
    """Integrate a frequency track (n,) into phase, in radians."""
    return 2 * np.pi * np.cumsum(frequency) / RATE


def glide(n: int, *points: tuple[float, float]) -> Wave:
    """Interpolate (fraction of the duration, value) points over n samples."""
    where, value = zip(*points, strict=True)
    return np.interp(np.linspace(0, 1, n), where, value)


def harmonics(frequency: Wave, amplitudes: Sequence[float] | NDArray[np.float64]) -> Wave:
    """Sum the harmonics of a frequency track (n,); those above 7.5 kHz are left out.

    By sin((k + 1) x) = 2 cos(x) sin(k x) - sin((k - 1) x), which is far quicker than many sines.
    """
    angle, top = phase(frequency), float(frequency.max())
    twice_cosine = 2 * np.cos(angle)
    below: Wave = np.zeros(angle.size)
    here: Wave = np.sin(angle)
    wave: Wave = np.zeros(angle.size)
    for amplitude in list(amplitudes)[: max(1, int(7500 / top))]:
        wave += amplitude * here
        below, here = here, twice_cosine * here - below
    return wave


def voiced(frequency: Wave, formants: Sequence[tuple[float, float]]) -> Wave:
    """Sum harmonics of a frequency track (n,) shaped by (centre, width) resonances."""
    mean = float(frequency.mean())
    number = np.arange(1, max(2, int(7000 / frequency.max())))
    amplitudes = np.zeros(number.size)
    for centre, width in formants:
        amplitudes += 1 / (1 + ((number * mean - centre) / width) ** 2)
    return harmonics(frequency, amplitudes / np.sqrt(number))


def modes(
    n: int,
    frequencies: Sequence[float],
    decays: Sequence[float],
    amplitudes: Sequence[float],
) -> Wave:
    """Sum decaying sines, as a struck body rings; decays are times to 1/e, in seconds."""
    time = times(n)
    wave = np.zeros(n)
    for frequency, decay, amplitude in zip(frequencies, decays, amplitudes, strict=True):
        if frequency < 7500:
            wave += amplitude * np.exp(-time / decay) * np.sin(2 * np.pi * frequency * time)
    return wave


def decay(n: int, seconds: float, attack: float = 0.002) -> Wave:
    """Return an envelope that rises within `attack` and falls to 1/e every `seconds`."""
    time = times(n)
    return np.minimum(time / attack, 1.0) * np.exp(-time / seconds)


def plateau(n: int, rise: float, fall: float) -> Wave:
    """Return an envelope that rises and falls smoothly and holds one in between."""
    time = times(n)
    edges = np.minimum(np.minimum(time / rise, time[::-1] / fall), 1.0)
    return np.sin(np.pi / 2 * edges) ** 2


def drift(rng: np.random.Generator, n: int, seconds: float) -> Wave:
    """Draw a slow random curve between 0 and 1 that turns about every `seconds`."""
    knots = rng.uniform(size=max(2, int(n / RATE / seconds) + 2))
    position = np.linspace(0, knots.size - 1, n)
    left = np.minimum(position.astype(int), knots.size - 2)
    weight = (1 - np.cos(np.pi * (position - left))) / 2
    return knots[left] * (1 - weight) + knots[left + 1] * weight


def add_at(wave: Wave, start: int, sound: Wave, gain: float = 1.0) -> None:
    """Add a sound to `wave` in place from sample `start`; what runs past the end is cut."""
    stop = min(wave.size, start + sound.size)
    if start < stop:
        wave[start:stop] += gain * sound[: stop - start]


def scatter(
    rng: np.random.Generator,
    n: int,
    per_second: float,
    grain: Callable[[], Wave],
    grains: int = 12,
) -> Wave:
    """Scatter `per_second` short grains at random over n samples, with random loudness.

    A few grains are made and used over and over: rain has too many drops to make each one.
    """
    wave = np.zeros(n)
    shapes = [grain() for _ in range(grains)]
    count = int(rng.poisson(per_second * n / RATE))
    starts = rng.integers(0, n, size=count)
    which = rng.integers(0, grains, size=count)
    gains = rng.uniform(0.1, 1.0, size=count) ** 2
    for start, index, gain in zip(starts, which, gains, strict=True):
        add_at(wave, int(start), shapes[index], float(gain))
    return wave


def loudness(wave: Wave) -> float:
    """Return the RMS of the loudest eighth of a second, or a sixth of the peak where that is more.

    A click has little power for how loud it seems, hence the peak.
    """
    window = min(samples(0.125), wave.size)
    total = np.cumsum(np.concatenate([[0.0], wave**2]))
    power = float(np.max(total[window:] - total[:-window])) / window
    return max(power, 0.0, float(np.abs(wave).max() / 6) ** 2) ** 0.5
