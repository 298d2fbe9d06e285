"""What a listener would notice in a sound, measured: height, brightness, onsets, pace."""

import numpy as np
from numpy.typing import NDArray

RATE = 16_000


def power_spectrum(wave: NDArray) -> tuple[NDArray, NDArray]:
    """Return frequencies in Hz and the power at each."""
    power = np.abs(np.fft.rfft(np.asarray(wave, float))) ** 2
    return np.fft.rfftfreq(len(wave), 1 / RATE), power


def centroid(wave: NDArray) -> float:
    """Return the mean frequency of the power, in Hz."""
    frequency, power = power_spectrum(wave)
    return float((frequency * power).sum() / power.sum())


def share(wave: NDArray, low: float, high: float) -> float:
    """Return the share of the power between two frequencies."""
    frequency, power = power_spectrum(wave)
    return float(power[(frequency >= low) & (frequency <= high)].sum() / power.sum())


def rms(wave: NDArray) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(np.asarray(wave, float)))))


def envelope(wave: NDArray, smooth: float) -> NDArray:
    """Return the RMS in frames of 5 ms, smoothed over `smooth` seconds."""
    frames = len(wave) // 80
    power = np.square(np.asarray(wave[: frames * 80], float)).reshape(frames, 80).mean(axis=1)
    width = max(1, round(smooth / 0.005))
    return np.sqrt(np.convolve(power, np.ones(width) / width, mode="same"))


def onsets(wave: NDArray, apart: float, smooth: float = 0.03) -> list[float]:
    """Return when sounds begin, in seconds, given that they are at least `apart` seconds apart.

    A beginning is where the level soon stands well above the lowest level just before.
    """
    level = np.concatenate([np.zeros(40), envelope(wave, smooth), np.zeros(20)])
    top = level.max()
    found: list[float] = []
    for i in range(40, len(level) - 10):
        rise = level[i : i + 10].max() - level[i - 16 : i].min()
        if rise > 0.3 * top and (not found or (i - 40) * 0.005 - found[-1] >= apart):
            found.append((i - 40) * 0.005)
    return found


def crossings(curve: NDArray) -> int:
    """Return how often a curve rises through the middle of its range, with some hysteresis."""
    low, high = np.percentile(curve, [10, 98])
    count, below = 0, True
    for value in curve:
        if below and value > low + 0.5 * (high - low):
            count, below = count + 1, False
        elif value < low + 0.25 * (high - low):
            below = True
    return count


def height_track(wave: NDArray, frame: float = 0.05) -> NDArray:
    """Return the centroid of every frame, in Hz."""
    size = round(frame * RATE)
    return np.array([centroid(wave[i : i + size]) for i in range(0, len(wave) - size, size)])
