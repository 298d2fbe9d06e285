"""Sounds made for the tests, in files of any format."""

import numpy as np
import soundfile


def tone(seconds, rate=16_000, frequency=440.0, level=0.3, seed=0):
    """A tone that swells, with a little noise: (n,) float32."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(time.size)
    swell = 1 + 0.8 * np.sin(2 * np.pi * 3 * time)
    wave = level / 2 * swell * np.sin(2 * np.pi * frequency * time) + 0.003 * noise
    return wave.astype(np.float32)


def write_tone(path, seconds, rate=16_000, channels=1, **tone_or_format):
    """Write a tone; returns its wave (n,)."""
    form = {key: tone_or_format.pop(key) for key in ("subtype", "format") if key in tone_or_format}
    wave = tone(seconds, rate, **tone_or_format)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate, **form)
    return wave
