"""Scenes: which sources are heard, how, in which relation, and what that sounds like.

A scene's *combination* (sources, their attributes, the relation) occurs once in the whole data
set: a test is of sources known from training, heard as they were never heard before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from soundscenes.signals import (
    RATE,
    Wave,
    add_at,
    drift,
    frequencies,
    harmonics,
    loudness,
    noise,
    plateau,
    samples,
    silence,
    times,
)
from soundscenes.sources import SOURCES, Source
from utils.errors import DataError

T = TypeVar("T")

RELATIONS = ("alone", "then", "while", "over")
SHORTEST, LONGEST = 3.0, 10.0  # seconds
_LEVELS = {"near": 0.16, None: 0.055, "far": 0.016}  # loudness of an event by its distance
_HISS = (0.0006, 0.006)  # loudness of the noise of a recording, from best to worst
_ROOM = (0.0015, 0.012)  # loudness of the place: murmur and hum that no caption mentions
_PLAN, _SOUND = 1, 2  # what a random stream is for


@dataclass(frozen=True)
class Event:
    """A source as it is heard; None means: as usual, and not in the caption.

    `count` is once, twice or several and set for struck sources alone; `pitch` is high or low,
    `pace` fast or slow, `distance` near or far.
    """

    source: str
    count: str | None = None
    pitch: str | None = None
    pace: str | None = None
    distance: str | None = None


@dataclass(frozen=True)
class Scene:
    """A clip to be: its name, what is heard in which relation, and the seed of its sound."""

    name: str
    split: str
    relation: str
    events: tuple[Event, ...]
    seed: tuple[int, ...]

    @property
    def combination(self) -> tuple[str, tuple[Event, ...]]:
        """Return what no other scene shares; "A while B" is the same as "B while A"."""
        events = self.events
        if self.relation == "while":
            events = tuple(sorted(events, key=repr))
        return self.relation, events


# ------------------------------------------------------------------------------------------ plan


def plan(seed: int, counts: dict[str, int]) -> list[Scene]:
    """Draw the scenes of every split; counts is {"train": 1200, ...}, in order.

    Raises DataError when there are not that many different combinations to be found.
    """
    rng = np.random.default_rng([seed, _PLAN])
    seen: set[tuple[str, tuple[Event, ...]]] = set()
    scenes: list[Scene] = []
    for split, count in counts.items():
        for number in range(count):
            for _ in range(1000):
                relation, events = _draw(rng)
                name = f"{split}-{number:04d}"
                scene = Scene(name, split, relation, events, (seed, _SOUND, len(scenes)))
                if scene.combination not in seen:
                    break
            else:
                raise DataError(f"no unused combinations are left for {split}: ask for fewer clips")
            seen.add(scene.combination)
            scenes.append(scene)
    return scenes


def _draw(rng: np.random.Generator) -> tuple[str, tuple[Event, ...]]:
    """Draw a relation and its events."""
    relation = pick(rng, RELATIONS)
    names = sorted(SOURCES)
    if relation == "alone":
        return relation, (_draw_event(rng, pick(rng, names), chance=0.6, most=2),)
    first, second = (names[int(i)] for i in rng.permutation(len(names))[:2])
    last = [SOURCES[name].kind != "struck" for name in (first, second)]
    if relation != "then" and not any(last):  # one must last for the other to be heard with it
        relation = "then"
    swap = rng.uniform() < 0.5 if relation == "then" or all(last) else last[0]
    if swap:
        first, second = second, first
    front: tuple[str, ...] = ("near", "far")
    back: tuple[str, ...] = ("near", "far")
    if relation == "over":  # the loud one in front is not far, the soft one behind not near
        front, back = ("near",), ("far",)
    return relation, (
        _draw_event(rng, first, chance=0.5, most=1, distances=front),
        _draw_event(rng, second, chance=0.5, most=1, distances=back),
    )


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """Draw one of the items, all alike."""
    return items[int(rng.integers(len(items)))]


def _draw_event(
    rng: np.random.Generator,
    name: str,
    *,
    chance: float,
    most: int,
    distances: tuple[str, ...] = ("near", "far"),
) -> Event:
    source = SOURCES[name]
    choices: dict[str, tuple[str, ...]] = {"distance": distances}
    if source.high_low is not None:
        choices["pitch"] = ("high", "low")
    if source.rates is not None:
        choices["pace"] = ("fast", "slow")
    names = [choice for choice in sorted(choices) if rng.uniform() < chance]
    kept = [names[int(i)] for i in rng.permutation(len(names))[:most]]
    attributes = {key: pick(rng, choices[key]) for key in kept}
    if source.kind == "struck":
        attributes["count"] = pick(rng, source.counts)
    return Event(name, **attributes)


# ----------------------------------------------------------------------------------------- sound


def render(scene: Scene) -> NDArray[np.int16]:
    """Return the sound of a scene: (n,) int16 at RATE, 3 to 10 seconds."""
    rng = np.random.default_rng(scene.seed)
    if scene.relation == "alone":
        (event,) = scene.events
        wave = render_event(event, rng, rng.uniform(3.5, 7.5))
        wave = _pad(wave, rng.uniform(0.05, 0.4))
    elif scene.relation == "then":
        first, second = (
            render_event(event, rng, rng.uniform(2.2, 4.2), most=4.6) for event in scene.events
        )
        start = max(0, first.size + samples(rng.uniform(0.1, 0.4)))
        wave = silence(start + second.size)
        add_at(wave, 0, first)
        add_at(wave, start, second)
        wave = _pad(wave, rng.uniform(0.05, 0.2))
    else:
        wave = _together(scene, rng)
    n = int(np.clip(wave.size, samples(SHORTEST), samples(LONGEST)))
    out: Wave = silence(n)
    add_at(out, 0, wave)
    out *= plateau(n, 0.01, 0.05)
    out = _record(out + _room(n, rng), rng)
    peak = float(np.abs(out).max())
    return np.round(out * (32_000 * min(1.0, 1 / peak))).astype(np.int16)


def _together(scene: Scene, rng: np.random.Generator) -> Wave:
    """Sound one event within the other: side by side (while), or in front of it (over)."""
    front, back = scene.events
    seconds = float(rng.uniform(4.0, 7.0))
    near = render_event(front, rng, seconds, most=8.0)
    if SOURCES[front.source].kind == "struck":
        near = _pad(near, rng.uniform(0.3, 1.0))
        seconds = max(seconds, near.size / RATE + 0.4)
    wave = render_event(back, rng, min(seconds, LONGEST - 0.2))
    if scene.relation == "over":
        wave *= 0.25
    n = max(wave.size, near.size)
    both = silence(n)
    add_at(both, 0, wave)
    add_at(both, 0, near)
    return both


def _room(n: int, rng: np.random.Generator) -> Wave:
    """Draw what is heard in any place when nothing happens: a murmur, sometimes with a hum."""
    low = float(rng.uniform(60, 400))
    murmur = noise(rng, n, low, low * rng.uniform(3, 12), -3) * (0.5 + drift(rng, n, 0.6))
    hum = rng.choice([0.0, 0.5]) * harmonics(np.full(n, rng.choice([50.0, 60.0])), [0.3, 1, 0, 0.5])
    return _between(rng, *_ROOM) * (murmur + hum)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number between two others, evenly in its logarithm."""
    return float(low * (high / low) ** rng.uniform())


def _record(wave: Wave, rng: np.random.Generator) -> Wave:
    """Record a sound with some microphone: its colour (up to 3 dB an octave) and its noise."""
    tilt, knee = rng.uniform(-0.5, 0.5), rng.uniform(3500, 9000)
    size = scipy.fft.next_fast_len(wave.size, real=True)
    frequency = frequencies(size, 50.0)
    squared = (frequency * np.float32(1 / knee)) ** 2
    colour = np.exp2(np.log2(frequency / 1000) * np.float32(tilt)) / np.sqrt(1 + squared * squared)
    out: Wave = scipy.fft.irfft(scipy.fft.rfft(wave, size) * colour, size)[: wave.size]
    hiss = np.float32(_between(rng, *_HISS))
    out += hiss * noise(rng, wave.size, 40, 7900, rng.uniform(-4, 0))
    return out


def _pad(wave: Wave, seconds: float) -> Wave:
    return np.concatenate([silence(samples(seconds)), wave])


def render_event(
    event: Event, rng: np.random.Generator, seconds: float, *, most: float = LONGEST
) -> Wave:
    """Return the sound of one event at its distance: (n,).

    A rhythmic or steady source lasts `seconds`; a struck one lasts as long as its strokes need,
    and is faded out after `most` seconds.
    """
    source = SOURCES[event.source]
    grain = float(rng.uniform())
    pitch = _pitch(source, event) * rng.uniform(0.88, 1.14)
    if source.texture is not None:
        pace = _pace(source, event) * rng.uniform(0.85, 1.18)
        wave = source.texture(rng, samples(seconds), pitch, pace, grain)
        wave = wave * plateau(wave.size, 0.15, 0.25)
    else:
        wave = _repeat(source, event, rng, seconds, pitch, grain)
    if wave.size > samples(most):
        wave = wave[: samples(most)] * plateau(samples(most), 0.001, 0.3)
    wave = wave * (_LEVELS[event.distance] * 10 ** rng.uniform(-0.15, 0.15) / loudness(wave))
    return _far_away(wave, rng) if event.distance == "far" else wave


def _pitch(source: Source, event: Event) -> float:
    if source.high_low is None or event.pitch is None:
        return 1.0
    return source.high_low[("high", "low").index(event.pitch)]


def _pace(source: Source, event: Event) -> float:
    if source.rates is None:
        return 1.0
    return source.rates[("slow", None, "fast").index(event.pace)]


def _repeat(
    source: Source,
    event: Event,
    rng: np.random.Generator,
    seconds: float,
    pitch: float,
    grain: float,
) -> Wave:
    """Repeat a source's sound as often, or at the pace, that the event asks for."""
    if source.sound is None:
        raise ValueError(f"{source.name} is steady: it has nothing to repeat")
    if source.kind == "struck":
        step = source.gap * rng.uniform(0.92, 1.15)
        strokes = {"once": 1, "twice": 2, "several": int(rng.integers(4, 6))}[event.count or "once"]
    else:
        step = 1 / (_pace(source, event) * rng.uniform(0.85, 1.18))
        strokes = max(2, int(seconds / step))
    stray = source.loose * step * rng.uniform(-0.5, 0.5, size=strokes)
    onsets = np.maximum(step * np.arange(strokes) + stray, 0.0)
    sounds = []
    for index in range(strokes):
        height = pitch * (source.swing if index % 2 else 1.0)
        sounds.append(source.sound(rng, height, grain) * rng.uniform(0.88, 1.0))
    if source.kind == "struck":
        n = samples(float(onsets[-1])) + sounds[-1].size
    else:
        n = samples(seconds)
    wave = silence(n)
    for onset, sound in zip(onsets, sounds, strict=True):
        add_at(wave, int(onset * RATE), sound)
    return wave


def _far_away(wave: Wave, rng: np.random.Generator) -> Wave:
    """Take the brightness off a sound and let it echo, as distance does; the loudness is kept."""
    tail = samples(0.7)
    echo = noise(rng, tail, 150, 2500) * np.exp(-times(tail) / 0.16) * 0.012
    echo[0] += 0.6
    size = scipy.fft.next_fast_len(wave.size + tail, real=True)
    frequency = scipy.fft.rfftfreq(size, 1 / RATE)
    air = 1 / (1 + (frequency / 1800) ** 2)
    spectrum = scipy.fft.rfft(wave, size) * scipy.fft.rfft(echo, size) * air
    out = scipy.fft.irfft(spectrum, size)[: wave.size + tail // 2]
    return out * (loudness(wave) / loudness(out))
