"""The building blocks of synthetic sound: noise, tones, partials, envelopes, placement.

Waveforms are one-dimensional float32 arrays at RATE samples a second; phases are float64, as they
grow. Frequencies are in Hz, durations in seconds, counts of samples are called `n`.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft
from numpy.typing import NDArray

RATE = 16_000
Wave = NDArray[np.float32]
Track = NDArray[np.floating]
"""A frequency or another quantity at each sample."""
CYCLE = 1 << 14
"""Samples of a table of one cycle: between two of them any harmonic is almost straight."""


def samples(seconds: float) -> int:
    """Return how many samples a duration has (at least one)."""
    return max(1, round(seconds * RATE))


def times(n: int) -> NDArray[np.float64]:
    """Return the time of each of n samples, in seconds."""
    return np.arange(n) / RATE


def silence(n: int) -> Wave:
    """Return n samples of nothing."""
    return np.zeros(n, np.float32)


@functools.lru_cache(maxsize=64)
def frequencies(size: int, lowest: float) -> Wave:
    """Return the frequencies of a real spectrum of `size` samples, none below `lowest`."""
    found = np.maximum(scipy.fft.rfftfreq(size, 1 / RATE), lowest).astype(np.float32)
    found.setflags(write=False)  # all callers share it
    return found


def _eighth_power(base: Wave) -> Wave:
    x: Wave = base * base
    x *= x
    x *= x
    return x


def noise(rng: np.random.Generator, n: int, low: float, high: float, slope: float = 0.0) -> Wave:
    """Draw n samples of noise between two frequencies, with unit RMS.

    `slope` tilts the spectrum, in decibels per octave above `low` (pink noise has -3). The edges
    fall off as a fourth-order filter would, so that a band never sounds cut with scissors.
    """
    size = scipy.fft.next_fast_len(n, real=True)
    frequency = frequencies(size, 1.0)
    gain = 1 + _eighth_power(np.float32(low) / frequency)
    gain *= 1 + _eighth_power(frequency * np.float32(1 / high))
    np.reciprocal(np.sqrt(gain, out=gain), out=gain)
    if slope:
        octaves = np.log2(np.maximum(frequency * np.float32(1 / low), 1))
        gain *= np.exp2(octaves * np.float32(slope / 6.02))
    spectrum = rng.standard_normal(2 * gain.size, dtype=np.float32).view(np.complex64)
    spectrum *= gain
    wave = scipy.fft.irfft(spectrum, size, overwrite_x=True)[:n]
    wave /= np.float32(max(float(np.dot(wave, wave) / n) ** 0.5, 1e-12))
    return np.asarray(wave, np.float32)


def phase(frequency: Track) -> NDArray[np.float64]:
    """Integrate a frequency track (n,) into phase, in radians."""
    return (2 * np.pi / RATE) * np.cumsum(frequency, dtype=np.float64)


def glide(n: int, *points: tuple[float, float]) -> NDArray[np.float64]:
    """Interpolate (fraction of the duration, value) points over n samples."""
    where, value = zip(*points, strict=True)
    return np.interp(np.linspace(0, 1, n), where, value)


def harmonics(frequency: Track, amplitudes: Sequence[float] | Track) -> Wave:
    """Sum the harmonics of a frequency track (n,); those above 7.5 kHz are left out.

    They repeat with every cycle, so that one cycle is made and read at the phase of each sample.
    """
    kept = list(amplitudes)[: max(1, int(7500 / float(frequency.max())))]
    spectrum = np.zeros(CYCLE // 2 + 1, np.complex64)
    spectrum[1 : len(kept) + 1] = -0.5j * CYCLE * np.asarray(kept)
    cycle = scipy.fft.irfft(spectrum, CYCLE)
    place = np.cumsum(frequency, dtype=np.float64)
    place *= CYCLE / RATE
    before = place.astype(np.int64)
    beyond = (place - before).astype(np.float32)
    before &= CYCLE - 1
    here: Wave = cycle[before]
    step = np.diff(cycle, append=cycle[:1])
    here += beyond * step[before]
    return here


def voiced(frequency: Track, formants: Sequence[tuple[float, float]]) -> Wave:
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
    """Sum decaying sines, as a struck body rings; decays are times to 1/e, in seconds.

    Sine and decay are the powers of one complex number, by repeated squaring of its first half.
    """
    kept = [part for part in zip(frequencies, decays, amplitudes, strict=True) if part[0] < 7500]
    if not kept:
        return silence(n)
    frequency, decay, amplitude = np.array(kept, np.float64).T
    turn = (2j * np.pi * frequency - 1 / decay) / RATE
    powers = np.ones((len(kept), n), np.complex64)
    done = 1
    while done < n:
        more = min(done, n - done)
        factor = np.exp(turn * done).astype(np.complex64)[:, None]
        np.multiply(powers[:, :more], factor, out=powers[:, done : done + more])
        done += more
    return amplitude.astype(np.float32) @ powers.imag


def decay(n: int, seconds: float, attack: float = 0.002) -> Wave:
    """Return an envelope that rises within `attack` and falls to 1/e every `seconds`."""
    time = np.arange(n, dtype=np.float32)
    envelope = np.exp(time * np.float32(-1 / (seconds * RATE)))
    rising = min(n, int(attack * RATE) + 1)
    envelope[:rising] *= np.minimum(time[:rising] * np.float32(1 / (attack * RATE)), 1)
    return envelope


def plateau(n: int, rise: float, fall: float) -> Wave:
    """Return an envelope that rises and falls smoothly and holds one in between."""
    envelope = np.ones(n, np.float32)
    for edge, seconds in ((envelope, rise), (envelope[::-1], fall)):
        part = edge[: int(seconds * RATE) + 1]
        time = np.arange(part.size, dtype=np.float32) * np.float32(1 / (seconds * RATE))
        np.minimum(part, np.sin(np.float32(np.pi / 2) * np.minimum(time, 1)) ** 2, out=part)
    return envelope


def drift(rng: np.random.Generator, n: int, seconds: float) -> Wave:
    """Draw a slow random curve between 0 and 1 that turns about every `seconds`."""
    knots = rng.uniform(size=max(2, int(n / RATE / seconds) + 2)).astype(np.float32)
    position = np.linspace(0, knots.size - 1, n, dtype=np.float32)
    left = np.minimum(position.astype(np.int32), knots.size - 2)
    position -= left
    weight = (1 - np.cos(np.float32(np.pi) * position)) / 2
    here = knots[left]
    here += np.diff(knots)[left] * weight
    return here


def add_at(wave: Wave, start: int, sound: Track, gain: float = 1.0) -> None:
    """Add a sound to `wave` in place from sample `start`; what runs past the end is cut."""
    stop = min(wave.size, start + sound.size)
    if start < stop:
        wave[start:stop] += np.float32(gain) * sound[: stop - start]


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
    wave = silence(n)
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
    total = np.zeros(wave.size + 1)
    np.cumsum(wave * wave, dtype=np.float64, out=total[1:])
    power = float(np.max(total[window:] - total[:-window])) / window
    return max(power, 0.0, float(np.abs(wave).max() / 6) ** 2) ** 0.5
