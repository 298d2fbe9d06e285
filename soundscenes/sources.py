"""The sound sources: what can be heard in a scene, and how each is made.

A source is of one of three kinds. A *struck* one makes countable sounds (a bell), a *rhythmic* one
repeats its sound at a pace (a clock), a *steady* one goes on (rain). Every maker takes `pitch`, a
factor on all its frequencies (1 is the usual height), and `grain`, a number in [0, 1) drawn once
per scene that makes two bells differ.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from soundscenes.signals import (
    Wave,
    add_at,
    decay,
    drift,
    glide,
    harmonics,
    modes,
    noise,
    phase,
    plateau,
    samples,
    scatter,
    silence,
    times,
    voiced,
)

Rng = np.random.Generator
Sound = Callable[[Rng, float, float], Wave]  # (rng, pitch, grain) -> one sound
Texture = Callable[[Rng, int, float, float, float], Wave]  # (rng, n, pitch, pace, grain) -> (n,)


@dataclass(frozen=True)
class Source:
    """One source and the words for it.

    `rates` are sounds a second when slow, usual and fast (for a steady source with a pace, cycles
    a second); `gap` is the time between two countable sounds; `swing` is the height of every second
    sound relative to the first (tick, tock); `loose` is how far onsets stray, in intervals.
    """

    name: str
    sound: Sound | None = None
    texture: Texture | None = None
    high_low: tuple[float, float] | None = None
    rates: tuple[float, float, float] | None = None
    gap: float = 0.6
    counts: tuple[str, ...] = ("once", "twice", "several")
    swing: float = 1.0
    loose: float = 0.02

    @property
    def kind(self) -> str:
        """Return "struck", "rhythmic" or "steady"."""
        if self.texture is not None:
            return "steady"
        return "rhythmic" if self.rates is not None else "struck"


# ------------------------------------------------------------------------- struck: one at a time


def _bell(rng: Rng, pitch: float, grain: float) -> Wave:
    ratios = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.51, 3.01, 4.17, 5.43])
    length = 0.5 + 0.4 * grain
    amplitudes = [0.35, 0.7, 0.5, 0.3, 1.0, 0.4, 0.35, 0.25, 0.15]
    wave = modes(
        samples(1.9), list(640 * pitch * ratios), list(length / np.sqrt(ratios)), amplitudes
    )
    add_at(wave, 0, 0.6 * noise(rng, samples(0.02), 1500, 6000) * decay(samples(0.02), 0.006))
    return wave * decay(wave.size, 10.0)


def _dog(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.19 + 0.06 * grain)
    base = 380 * pitch
    track = glide(n, (0, 0.75 * base), (0.3, 1.2 * base), (1, 0.7 * base))
    formant = pitch**0.6
    wave = voiced(track, [(900 * formant, 250), (1800 * formant, 350)])
    wave = wave / np.abs(wave).max() + 0.25 * noise(rng, n, 700 * formant, 2600 * formant)
    return np.tanh(2 * wave) * plateau(n, 0.02, 0.09)


def _cat(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.75 + 0.2 * grain)
    base = 520 * pitch
    track = glide(n, (0, 0.85 * base), (0.35, 1.3 * base), (1, 0.75 * base))
    vowels = [[(500, 200), (2300, 300)], [(1100, 250), (1800, 300)], [(650, 200), (1000, 250)]]
    wave = silence(n)
    for index, formants in enumerate(vowels):  # "mi-a-ou": each vowel fades into the next
        weight = np.clip(1 - np.abs(np.linspace(0, 2, n) - index), 0, 1)
        wave += weight * voiced(track, [(c * pitch**0.5, w) for c, w in formants])
    return (wave + 0.03 * noise(rng, n, 2000, 5000)) * plateau(n, 0.08, 0.25)


def _owl(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.55 + 0.15 * grain)
    track = glide(n, (0, 370), (0.3, 410), (1, 350)) * pitch
    track = track * (1 + 0.012 * np.sin(2 * np.pi * 7 * times(n)))
    breath = 0.04 * noise(rng, n, 300, 900)
    return (harmonics(track, [1.0, 0.12, 0.05]) + breath) * plateau(n, 0.12, 0.25)


def _cuckoo(rng: Rng, pitch: float, grain: float) -> Wave:
    first, second = samples(0.19), samples(0.3)
    wave = silence(samples(0.62))
    for start, n, height in ((0, first, 690.0), (samples(0.28), second, 545.0)):
        track = np.full(n, height * pitch * (0.97 + 0.06 * grain))
        breath = 0.02 * noise(rng, n, 400, 1500)
        add_at(wave, start, (harmonics(track, [1, 0.3, 0.06]) + breath) * plateau(n, 0.03, 0.08))
    return wave


def _frog(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.38)
    wave = silence(n)
    pulse = modes(samples(0.03), [620 * pitch, 1350 * pitch], [0.008, 0.005], [1, 0.7])
    step = 1 / (38 + 14 * grain)
    for index in range(int(0.34 / step)):
        add_at(wave, samples(index * step * (1 + 0.02 * rng.uniform())), pulse)
    return wave * plateau(n, 0.06, 0.1)


def _knock(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.2)
    body = np.array([230, 410, 690, 1150]) * pitch * (0.9 + 0.2 * grain)
    wave = modes(n, list(body), [0.05, 0.04, 0.025, 0.015], [1, 0.8, 0.6, 0.4])
    add_at(wave, 0, noise(rng, samples(0.012), 300, 2200) * decay(samples(0.012), 0.004))
    return wave * decay(n, 1.0, 0.001)


def _slam(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.7)
    wave = 1.4 * noise(rng, n, 90, 900 + 500 * grain, -4) * decay(n, 0.09)
    wave += modes(n, [92 * pitch, 143 * pitch, 236 * pitch], [0.16, 0.12, 0.08], [1, 0.8, 0.5])
    rattle = noise(rng, samples(0.08), 1200, 4000) * decay(samples(0.08), 0.02)
    add_at(wave, samples(0.07), 0.35 * rattle)
    return wave


def _glass(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.95)
    wave = 0.9 * noise(rng, n, 2800, 7600) * decay(n, 0.05)
    for _ in range(45):
        length = samples(0.3)
        ping = modes(length, [rng.uniform(2000, 7300) * pitch], [rng.uniform(0.02, 0.1)], [1.0])
        add_at(wave, samples(rng.beta(1, 3) * (0.5 + 0.2 * grain)), ping, rng.uniform(0.1, 0.6))
    return wave


def _whistle(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.55 + 0.2 * grain)
    pea = np.sin(2 * np.pi * (26 + 8 * grain) * times(n))  # the pea that trills in the chamber
    wave = np.sin(phase(2300 * pitch * (1 + 0.03 * pea))) * (1 + 0.5 * pea)
    return (wave + 0.15 * noise(rng, n, 1800 * pitch, 3000 * pitch)) * plateau(n, 0.04, 0.07)


def _thunder(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(2.6)
    wave = noise(rng, n, 45, 220 * pitch, -2) * decay(n, 0.9 + 0.3 * grain, 0.05)
    wave *= 0.35 + drift(rng, n, 0.22)
    crack = noise(rng, samples(0.5), 120, 1800, -4) * decay(samples(0.5), 0.12, 0.01)
    add_at(wave, 0, 0.8 * crack)
    return wave * plateau(n, 0.01, 0.3)


def _drop(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.28)
    wave = silence(n)
    for start, height, gain in ((0.0, 850.0, 1.0), (0.05 + 0.05 * grain, 1250.0, 0.45)):
        size = samples(0.16)
        track = height * pitch * (1 + 5 * times(size)) * (1 + 0.01 * rng.standard_normal())
        add_at(wave, samples(start) - 1, np.sin(phase(track)) * decay(size, 0.03), gain)
    return wave


def _laser(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.32 + 0.1 * grain)
    track = np.asarray(pitch * np.geomspace(2600, 260, n), np.float64)
    wave = harmonics(np.minimum(track, 2400), [1, 0, 0.33]) + 0.4 * np.sin(phase(track))
    return (wave + 0.02 * noise(rng, n, 500, 5000)) * plateau(n, 0.005, 0.12)


def _horn(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.6 + 0.2 * grain)
    amplitudes = [0.7, 1.0, 0.9, 0.8, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2]
    wave = harmonics(np.full(n, 400 * pitch), amplitudes)
    wave += harmonics(np.full(n, 503 * pitch), amplitudes)
    return (wave + 0.05 * noise(rng, n, 500, 3000)) * plateau(n, 0.02, 0.04)


def _guitar(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(1.3)
    period = round(16_000 / (185 * pitch))
    pluck = silence(n)  # Karplus and Strong: a burst of noise runs round a delay that softens it
    pluck[:period] = noise(rng, period, 50, (8 + 12 * grain) * 185 * pitch)
    feedback = silence(period + 2)
    feedback[0], feedback[period], feedback[period + 1] = 1.0, -0.497, -0.497
    return np.asarray(lfilter([1.0], feedback, pluck), np.float32) * plateau(n, 0.002, 0.2)


def _drum(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.45)
    track = 95 * pitch * (1 + 0.8 * np.exp(-times(n) / 0.03))
    wave = harmonics(track, [1, 0.35, 0.25, 0.1]) * decay(n, 0.1 + 0.06 * grain)
    add_at(wave, 0, 0.5 * noise(rng, samples(0.03), 200, 3000, -3) * decay(samples(0.03), 0.008))
    return wave


def _phone(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(1.0)
    wave = silence(n)
    bells = [
        modes(samples(0.2), [f * pitch, 2.76 * f * pitch], [0.06, 0.02], [1, 0.4])
        for f in (1330.0, 1580.0)
    ]
    step = 1 / (19 + 4 * grain)
    for index in range(int(0.85 / step)):
        gain = 1 + 0.05 * rng.standard_normal()
        add_at(wave, samples(index * step), bells[index % 2], float(gain))
    return wave


# ---------------------------------------------------------------- rhythmic: one sound of the many


def _footstep(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.2)
    wave = noise(rng, n, 70, 320 * pitch) * decay(n, 0.025)
    scuff = noise(rng, samples(0.1), 900, 2500 + 2500 * grain) * decay(samples(0.1), 0.02, 0.008)
    add_at(wave, samples(0.06), 0.4 * scuff)
    return wave


def _tick(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.06)
    body = [2300 * pitch * (0.9 + 0.2 * grain), 3900 * pitch, 5600 * pitch]
    wave = modes(n, body, [0.006, 0.004, 0.003], [1, 0.7, 0.4])
    return wave + 0.2 * noise(rng, n, 2000, 6500) * decay(n, 0.002, 0.0005)


def _key(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.09)
    wave = noise(rng, n, 1600, 5500) * decay(n, 0.005, 0.001)
    height = 260 * (0.8 + 0.4 * grain) * rng.uniform(0.8, 1.25) * pitch
    wave += modes(n, [height, 2.4 * height], [0.014, 0.009], [0.9, 0.5])
    add_at(wave, samples(0.045), 0.35 * noise(rng, samples(0.02), 2200, 6500))
    return wave * plateau(n, 0.001, 0.02)


def _heartbeat(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.36)
    wave = silence(n)
    for start, height, gain in ((0.0, 72.0, 1.0), (0.17, 92.0, 0.7)):  # lub, dub
        size = samples(0.17)
        track = height * pitch * (0.9 + 0.2 * grain) * (1 + 0.4 * np.exp(-times(size) / 0.02))
        thump = np.tanh(4 * np.sin(phase(track)) * decay(size, 0.045, 0.008))
        add_at(wave, samples(start), thump + 0.05 * noise(rng, size, 60, 200) * thump, gain)
    return wave


def _beep(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.11)
    track = np.full(n, 1050 * pitch)
    wave = harmonics(track, [1, 0.1 + 0.2 * grain, 0.35, 0, 0.15])
    return (wave + 0.01 * noise(rng, n, 500, 5000)) * plateau(n, 0.004, 0.006)


def _saw_stroke(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.27)
    teeth = np.sin(phase(glide(n, (0, 60), (0.5, 110 + 40 * grain), (1, 60)))).astype(np.float32)
    wave = noise(rng, n, 1100 * pitch, 5200 * pitch) * (1 + 0.9 * teeth) ** 2
    return wave * plateau(n, 0.1, 0.1)


def _blade(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.12)
    wave = 1.4 * noise(rng, n, 60, 260 * pitch) + 0.6 * noise(rng, n, 300, 1500 + 600 * grain, -3)
    return wave * decay(n, 0.026, 0.006)


def _cricket(rng: Rng, pitch: float, grain: float) -> Wave:
    step, pulse = samples(0.019), samples(0.013)
    wave = silence(4 * step)
    track = np.full(pulse, 4300 * pitch * (0.97 + 0.06 * grain) * (1 + 0.003 * rng.uniform()))
    for index in range(4):
        add_at(wave, index * step, np.sin(phase(track)) * plateau(pulse, 0.004, 0.004))
    return wave


def _hammer(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.3)
    body = np.array([1130, 2410, 3720, 5260]) * pitch * (0.92 + 0.16 * grain)
    wave = modes(n, list(body), [0.06, 0.05, 0.035, 0.02], [0.7, 1, 0.7, 0.5])
    wave += 0.8 * noise(rng, n, 200, 1200) * decay(n, 0.012)
    add_at(wave, 0, noise(rng, samples(0.01), 1000, 6500) * decay(samples(0.01), 0.003))
    return wave


def _gallop(rng: Rng, pitch: float, grain: float) -> Wave:
    wave = silence(samples(0.3))
    for start, height, gain in ((0.0, 1.0, 0.8), (0.085, 1.15, 0.7), (0.17, 0.9, 1.0)):
        n = samples(0.09)
        base = 720 * pitch * height * (0.9 + 0.2 * grain)
        clop = modes(n, [base, 1.7 * base, 0.3 * base], [0.012, 0.008, 0.02], [1, 0.6, 0.6])
        clop += 0.15 * noise(rng, n, 300, 2500) * decay(n, 0.01)
        add_at(wave, samples(start * rng.uniform(0.95, 1.05)), clop, gain)
    return wave


def _chirp(rng: Rng, pitch: float, grain: float) -> Wave:
    wave = silence(samples(0.24))
    for index in range(2 + int(2 * grain)):
        n = samples(0.055)
        top = rng.uniform(3300, 4000) * pitch
        track = glide(n, (0, 0.8 * top), (rng.uniform(0.2, 0.6), top), (1, 0.7 * top))
        add_at(wave, samples(0.06 * index), np.sin(phase(track)) * plateau(n, 0.015, 0.02))
    return wave


def _chuff(rng: Rng, pitch: float, grain: float) -> Wave:
    n = samples(0.22)
    steam = noise(rng, n, 350 * pitch, 3200 * pitch, -3) * decay(n, 0.05, 0.02)
    return steam + 0.5 * noise(rng, n, 60, 160) * decay(n, 0.04, 0.01)


# ------------------------------------------------------------------------------ steady: textures


def _rain(rng: Rng, n: int, pitch: float, pace: float, grain: float) -> Wave:
    bed = noise(rng, n, 900 * pitch, 7600, 1.0)

    def drop() -> Wave:
        size = samples(0.012)
        return noise(rng, size, 1500, 7500) * decay(size, 0.003, 0.0005)

    return 0.35 * bed + 2.0 * scatter(rng, n, 90 + 80 * grain, drop)


def _wind(rng: Rng, n: int, pitch: float, pace: float, grain: float) -> Wave:
    gust = drift(rng, n, 0.9 + 0.5 * grain)
    low = noise(rng, n, 90, 380 * pitch, -3) * (0.5 + 0.5 * gust)
    return low + 0.8 * noise(rng, n, 420 * pitch, 760 * pitch) * gust**2


def _engine(rng: Rng, n: int, pitch: float, pace: float, grain: float) -> Wave:
    wobble = 1 + 0.03 * (drift(rng, n, 0.3) - 0.5) + 0.004 * np.sin(2 * np.pi * 11 * times(n))
    track = 62 * pitch * (0.95 + 0.1 * grain) * wobble
    wave = voiced(track, [(130 * pitch, 90), (420 * pitch, 200)])
    wave = np.tanh(1.5 * wave / np.abs(wave).max())
    cycle = 1 + 0.4 * np.sin(phase(track) / 2)  # every second stroke fires
    return wave * cycle + 0.06 * noise(rng, n, 200, 2500, -3) * cycle


def _siren(rng: Rng, n: int, pitch: float, pace: float, grain: float) -> Wave:
    cycle = (times(n) * pace + rng.uniform()) % 1.0
    rise = np.where(cycle < 0.55, cycle / 0.55, (1 - cycle) / 0.45)
    track = pitch * (620 + (560 + 120 * grain) * rise)
    return harmonics(track, [1, 0.5, 0.35, 0.2, 0.1]) + 0.01 * noise(rng, n, 500, 4000)


def _waves(rng: Rng, n: int, pitch: float, pace: float, grain: float) -> Wave:
    period = 2.2 + 0.8 * grain
    cycle = (times(n) / period + rng.uniform(0.0, 0.4)) % 1.0
    swell = np.where(cycle < 0.4, (cycle / 0.4) ** 2, np.exp(-(cycle - 0.4) * 4.0))
    surf = noise(rng, n, 150, 1100 * pitch, -2) * (0.12 + swell)
    return surf + 0.7 * noise(rng, n, 1500 * pitch, 6000) * swell**2


def _stream(rng: Rng, n: int, pitch: float, pace: float, grain: float) -> Wave:
    def bubble() -> Wave:
        size = samples(0.09)
        track = rng.uniform(450, 1900) * pitch * (1 + 4 * times(size))
        return np.sin(phase(track)) * decay(size, 0.02, 0.004)

    return scatter(rng, n, 50 + 30 * grain, bubble, 24) + 0.06 * noise(rng, n, 400, 3000, -3)


def _fire(rng: Rng, n: int, pitch: float, pace: float, grain: float) -> Wave:
    def crackle() -> Wave:
        size = samples(0.03)
        low = rng.uniform(700, 2500) * pitch
        return noise(rng, size, low, 3 * low) * decay(size, rng.uniform(0.001, 0.005), 0.0005)

    roar = noise(rng, n, 50, 220, -2) * (0.6 + 0.4 * drift(rng, n, 0.25))
    return 0.16 * roar + 1.8 * scatter(rng, n, 14 + 8 * grain, crackle, 24)


def _vacuum(rng: Rng, n: int, pitch: float, pace: float, grain: float) -> Wave:
    start = glide(n, (0, 1), (1, 1)) * 195 * pitch * (0.95 + 0.1 * grain)
    hum = harmonics(start, [0.6, 0.5, 0.25, 0.3, 0.15, 0.1, 0.1, 0.2])
    whine = np.sin(phase(12 * start)) if 12 * start[0] < 7500 else silence(n)
    return hum + 0.25 * whine + 0.45 * noise(rng, n, 350, 4500 * min(pitch, 1.5), -1.5)


def _bees(rng: Rng, n: int, pitch: float, pace: float, grain: float) -> Wave:
    wave = silence(n)
    for _ in range(5):
        height = 205 * pitch * rng.uniform(0.9, 1.1) * (0.95 + 0.1 * grain)
        track = height * (1 + 0.08 * (drift(rng, n, 0.25) - 0.5))
        buzz = harmonics(track, 1 / np.arange(1, 16) ** 0.7)
        wave += buzz * (0.4 + 0.6 * drift(rng, n, 0.5))
    return wave


def _applause(rng: Rng, n: int, pitch: float, pace: float, grain: float) -> Wave:
    def clap() -> Wave:
        size = samples(0.03)
        height = rng.uniform(850, 1700) * pitch
        return noise(rng, size, 0.7 * height, 1.5 * height) * decay(size, 0.006, 0.001)

    return scatter(rng, n, 70 + 50 * grain, clap, 24)


def _plane(rng: Rng, n: int, pitch: float, pace: float, grain: float) -> Wave:
    beat = 1.5 + 2 * grain  # two propellers a little apart in speed
    wave = silence(n)
    for height in (98 * pitch, 98 * pitch + beat):
        wave += harmonics(np.full(n, height), 1 / np.arange(1, 13) ** 0.8)
    return wave / 2 + 0.3 * noise(rng, n, 150, 900, -3)


_TABLE = (
    Source("bell", _bell, high_low=(1.9, 0.55), gap=0.9),
    Source("dog", _dog, high_low=(1.75, 0.55), gap=0.5),
    Source("cat", _cat, high_low=(1.6, 0.65), gap=1.2),
    Source("owl", _owl, gap=1.0),
    Source("cuckoo", _cuckoo, gap=1.1),
    Source("frog", _frog, high_low=(1.8, 0.55), gap=0.65),
    Source("knock", _knock, gap=0.32),
    Source("slam", _slam, gap=1.0),
    Source("glass", _glass, counts=("once", "twice"), gap=1.3),
    Source("whistle", _whistle, high_low=(1.5, 0.6), gap=0.95),
    Source("thunder", _thunder, counts=("once", "twice"), gap=2.3),
    Source("drop", _drop, high_low=(2.0, 0.5), gap=0.5),
    Source("laser", _laser, high_low=(1.9, 0.5), gap=0.6),
    Source("horn", _horn, high_low=(1.6, 0.6), gap=1.0),
    Source("guitar", _guitar, high_low=(2.0, 0.55), gap=0.8),
    Source("drum", _drum, high_low=(2.2, 0.6), gap=0.55),
    Source("phone", _phone, gap=1.4),
    Source("footsteps", _footstep, rates=(1.2, 1.9, 3.2), swing=0.9, loose=0.06),
    Source("clock", _tick, rates=(0.9, 1.8, 4.0), swing=0.86),
    Source("typing", _key, rates=(2.5, 5.5, 11.0), loose=0.3),
    Source("heartbeat", _heartbeat, rates=(0.8, 1.3, 2.3)),
    Source("alarm", _beep, high_low=(1.9, 0.5), rates=(1.0, 2.2, 5.0), loose=0.0),
    Source("saw", _saw_stroke, rates=(0.9, 1.6, 3.2), swing=0.8, loose=0.05),
    Source("helicopter", _blade, rates=(6.0, 10.0, 17.0), loose=0.01),
    Source("crickets", _cricket, high_low=(1.4, 0.65), rates=(1.2, 2.6, 6.0), loose=0.05),
    Source("hammer", _hammer, rates=(0.8, 1.5, 3.2), loose=0.05),
    Source("horse", _gallop, rates=(1.0, 1.7, 2.9)),
    Source("birds", _chirp, high_low=(1.6, 0.6), rates=(0.8, 1.7, 3.8), loose=0.3),
    Source("train", _chuff, rates=(1.3, 2.6, 5.5)),
    Source("rain", texture=_rain),
    Source("wind", texture=_wind),
    Source("engine", texture=_engine, high_low=(2.1, 0.6)),
    Source("siren", texture=_siren, high_low=(1.6, 0.6), rates=(0.25, 0.55, 2.6)),
    Source("waves", texture=_waves),
    Source("stream", texture=_stream),
    Source("fire", texture=_fire),
    Source("vacuum", texture=_vacuum, high_low=(1.7, 0.6)),
    Source("bees", texture=_bees, high_low=(1.8, 0.6)),
    Source("applause", texture=_applause),
    Source("plane", texture=_plane, high_low=(1.8, 0.65)),
)

SOURCES = {source.name: source for source in _TABLE}
