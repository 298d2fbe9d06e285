"""Mel scales: triangles that sum the bins of a spectrum into bands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_mel(frequency: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return HTK's mel of frequencies in Hz: 1127 ln(1 + f / 700)."""
    return np.asarray(1127.0 * np.log1p(np.asarray(frequency) / 700.0))


def mel_triangles(
    bands: int, *, low: float, high: float, rate: int, fft: int
) -> NDArray[np.float64]:
    """Return the weight of each bin in each band: (fft // 2 + 1, bands), at most 1.

    The triangles' corners are evenly spaced in mel from `low` to `high` Hz, their sides straight
    lines in mel; the bin of 0 Hz has no weight.
    """
    corners = np.linspace(to_mel(low), to_mel(high), bands + 2)
    mel = to_mel(np.arange(fft // 2 + 1) * rate / fft)[:, None]
    rising = (mel - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - mel) / (corners[2:] - corners[1:-1])
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return weights
