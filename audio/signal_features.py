"""The two built-in experts: what a clip sounds like, and how that moves, by signal processing.

`logmel` (N, 128): per 0.96 s the mean and the spread of 64 log-mel bands; colour and loudness.
`modulation` (N, 512): per 0.24 s, over a window of 1.92 s, how much each of 8 broad bands
fluctuates at 64 rates from 0.5 to 33 Hz; rhythm, trills and roughness, whatever the loudness.
Each knows little of what the other knows, so that a model gains by listening to both.
Both are brought to about zero mean and unit variance by fixed numbers, never fitted to data: the
features of a clip depend on that clip alone.

Waves are mono float32 in [-1, 1] at RATE samples a second.
"""

import functools
from typing import Literal

import numpy as np
import scipy.fft
import scipy.sparse
from numpy.typing import NDArray

Features = NDArray[np.float32]

RATE = 16_000
WIDTHS = {"logmel": 128, "modulation": 512}
BANDS = 64
FRAME, HOP = 400, 160  # 25 ms every 10 ms
LOGMEL_FRAMES = 96  # 0.96 s
WINDOW, STEP = 192, 24  # of modulation: 1.92 s every 0.24 s
BROAD_BANDS, RATES = 8, 64  # the rates are the multiples of 1 / 1.92 s
_FFT = 512

# What scenes have on average, in round numbers: levels and spreads in decibels by band, strengths
# of fluctuation (decimal logarithms) by rate.
LOGMEL_CENTRE = np.concatenate([np.linspace(-36, -56, BANDS), np.full(BANDS, 5.6)])
LOGMEL_SCALE = np.concatenate([np.linspace(10.5, 8, BANDS), np.full(BANDS, 3.6)])
MODULATION_CENTRE = 3.4 - 0.33 * np.log(np.arange(1, RATES + 1))
MODULATION_SCALE = 1.2 - 0.125 * np.log(np.arange(1, RATES + 1))


def extract(wave: NDArray[np.float32]) -> dict[str, Features]:
    """Return the features of a sound: {"logmel": (N, 128), "modulation": (M, 512)}.

    N is one token per 0.96 s begun (at least half of it), M one per 0.24 s of the sound.
    """
    levels = log_mel(wave)
    return {"logmel": logmel_tokens(levels), "modulation": modulation_tokens(levels)}


def log_mel(wave: NDArray[np.float32]) -> Features:
    """Return the level of 64 mel bands in decibels: (frames, 64), -100 for silence."""
    wave = np.pad(wave, (0, max(0, FRAME - wave.size)))
    frames = np.lib.stride_tricks.sliding_window_view(wave, FRAME)[::HOP]
    spectrum = scipy.fft.rfft(frames * np.hanning(FRAME).astype(np.float32), _FFT, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    return 10 * np.log10(power @ _mel_filters() / _FFT + np.float32(1e-10))


@functools.cache
def _mel_filters() -> scipy.sparse.csr_array:
    """Return 64 triangles from 60 Hz to 7.8 kHz, evenly spaced in mel: (257, 64), sparse."""
    mel = np.linspace(_to_mel(60.0), _to_mel(7800.0), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequency = np.arange(_FFT // 2 + 1)[:, None] * RATE / _FFT
    rising = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0, np.minimum(rising, falling))
    # the lowest triangles are narrower than a bin: each takes at least its nearest one
    nearest = np.abs(frequency - edges[1:-1]).argmin(axis=0)
    weights[nearest, np.arange(BANDS)] = np.maximum(weights[nearest, np.arange(BANDS)], 0.5)
    return scipy.sparse.csr_array(weights.astype(np.float32))


def _to_mel(frequency: float) -> float:
    return float(2595 * np.log10(1 + frequency / 700))


def logmel_tokens(levels: Features) -> Features:
    """Summarise levels (frames, 64) per 0.96 s: (N, 128), means and then spreads."""
    count = max(1, round(levels.shape[0] / LOGMEL_FRAMES))
    tokens = np.empty((count, 2 * BANDS), np.float32)
    for index in range(count):
        part = levels[index * LOGMEL_FRAMES : (index + 1) * LOGMEL_FRAMES]
        tokens[index, :BANDS] = part.mean(axis=0)
        tokens[index, BANDS:] = part.std(axis=0)
    return ((tokens - LOGMEL_CENTRE) / LOGMEL_SCALE).astype(np.float32)


def modulation_tokens(levels: Features) -> Features:
    """Measure the fluctuations of levels (frames, 64): (M, 512), 8 broad bands by 64 rates each."""
    broad = levels.reshape(levels.shape[0], BROAD_BANDS, -1).mean(axis=2)
    broad = np.maximum(broad, -75)  # levels below the hiss of a quiet room do not count
    count = max(1, round(broad.shape[0] / STEP))
    before = WINDOW // 2 - STEP // 2  # the window is centred on its 0.24 s
    mode: Literal["reflect", "edge"] = "reflect" if len(broad) > WINDOW else "edge"
    padded = np.pad(broad, ((before, WINDOW), (0, 0)), mode=mode)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=0)[::STEP][:count]
    centred = windows - windows.mean(axis=2, keepdims=True)  # (M, 8, 192)
    spectrum = scipy.fft.rfft(centred * np.hanning(WINDOW).astype(np.float32), axis=2)
    power = (spectrum.real**2 + spectrum.imag**2)[:, :, 1 : RATES + 1]  # (M, 8, 64)
    tokens = (np.log10(power + 1) - MODULATION_CENTRE) / MODULATION_SCALE
    return tokens.reshape(count, -1).astype(np.float32)
