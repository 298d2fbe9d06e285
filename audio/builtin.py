"""The extractors that need no weights: `logmel` and `modulation` of `audio/signal_features.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from audio.extractor import Extractor, Tokens
from audio.reading import Wave
from audio.signal_features import (
    FRAME,
    HOP,
    LOGMEL_FRAMES,
    RATE,
    STEP,
    WIDTHS,
    WINDOW,
    log_mel,
    logmel_tokens,
    modulation_tokens,
)


class LogMel(Extractor):
    """Colour and loudness: mean and spread of 64 mel bands per 0.96 s."""

    name: ClassVar[str] = "logmel"
    expert: ClassVar[str] = "logmel"
    file: ClassVar[str] = "aggregated_logmel/logmel-raw.hickle"
    width: ClassVar[int] = WIDTHS["logmel"]
    rate: ClassVar[int] = RATE
    step: ClassVar[int] = LOGMEL_FRAMES * HOP
    window: ClassVar[int] = (LOGMEL_FRAMES - 1) * HOP + FRAME

    def __call__(self, waves: Sequence[Wave]) -> list[Tokens]:
        """Return (N, 128) of each sound, N one per 0.96 s begun by half at least."""
        return [logmel_tokens(log_mel(wave)) for wave in waves]


class Modulation(Extractor):
    """Rhythm and roughness: how 8 broad bands fluctuate, per 0.24 s."""

    name: ClassVar[str] = "modulation"
    expert: ClassVar[str] = "modulation"
    file: ClassVar[str] = "aggregated_modulation/modulation-raw.hickle"
    width: ClassVar[int] = WIDTHS["modulation"]
    rate: ClassVar[int] = RATE
    step: ClassVar[int] = STEP * HOP
    window: ClassVar[int] = (STEP - 1) * HOP + FRAME
    context: ClassVar[int] = -(-WINDOW // 2 // STEP)

    def __call__(self, waves: Sequence[Wave]) -> list[Tokens]:
        """Return (N, 512) of each sound, N one per 0.24 s begun by half at least."""
        return [modulation_tokens(log_mel(wave)) for wave in waves]
