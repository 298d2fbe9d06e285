"""aisfx: 512 numbers per 1.16 s from a network of sound effects (Ma and Lerch, ISMIR 2022).

    wave (n,) at 44.1 kHz -> log-mel patches (N, 100, 96) -> tokens (N, 512)

The weights come inside a package (CC BY 4.0, name the authors). The front end follows the published
description; that of the authors runs in Essentia, with which it was not compared. Incomplete
frames and patches are dropped; a sound shorter than a patch is padded with silence to one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio.extractor import NetworkExtractor
from audio.mel import mel_triangles
from audio.reading import Wave

RATE = 44_100
FRAME, HOP = 2048, 1024
BANDS, FRAMES, STEP = 96, 100, 50
LEVEL = 10 ** (-6 / 20)
SCALE, LARGEST = 1e4, 9.457798957824707
"""log10(SCALE x + 1) reaches LARGEST in the data that the network was trained on."""
PREFIX = "embedding_net."


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, then the maximum of squares."""

    def __init__(self, inputs: int, width: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.bn2 = nn.BatchNorm2d(width)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (n, width, h / pool, w / pool) of (n, inputs, h, w)."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.max_pool2d(x, self.pool) if self.pool > 1 else x


class AisfxNet(nn.Module):
    """Four blocks, mean over frequency and maximum over time; 4,686,144 parameters."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 64, 128, 256, 512)
        for number in range(1, 5):
            pool = 2 if number < 4 else 1
            block = ConvBlock(widths[number - 1], widths[number], pool)
            self.add_module(f"conv_block{number}", block)

    def forward(self, patches: Tensor) -> Tensor:
        """Return tokens (n, 512) of patches (n, 100, 96)."""
        x = patches[:, None]
        for number in range(1, 5):
            x = self.get_submodule(f"conv_block{number}")(x)
        return x.mean(dim=3).amax(dim=2)


class Aisfx(NetworkExtractor):
    """Tokens of the network of sound effects."""

    name: ClassVar[str] = "aisfx"
    expert: ClassVar[str] = "aisfx"
    file: ClassVar[str] = "aggregated_aisfx/aisfx-raw.hickle"
    width: ClassVar[int] = 512
    rate: ClassVar[int] = RATE
    step: ClassVar[int] = STEP * HOP
    window: ClassVar[int] = (FRAMES - 1) * HOP + FRAME
    batch: ClassVar[int] = 8

    @staticmethod
    def build(state: object) -> nn.Module:
        """Return the network."""
        return AisfxNet()

    @staticmethod
    def state_of(content: object) -> object:
        """Return the network's part of the checkpoint: (weights, names of training sets)."""
        state = content[0] if isinstance(content, tuple) and content else content
        if not isinstance(state, Mapping):
            return state
        return {
            name.removeprefix(PREFIX): value
            for name, value in state.items()
            if isinstance(name, str) and name.startswith(PREFIX)
        }

    def patches(self, wave: Wave) -> Tensor:
        """Return the log-mel patches of a sound: (N, 100, 96)."""
        levels = log_mel(torch.from_numpy(wave))
        levels = F.pad(levels, (0, 0, 0, max(0, FRAMES - len(levels))))
        return levels.unfold(0, FRAMES, STEP).transpose(1, 2)


def log_mel(wave: Tensor) -> Tensor:
    """Return the level of 96 mel bands, about 0 to 1: (frames, 96)."""
    wave = F.pad(wave * LEVEL, (0, max(0, FRAME - len(wave))))
    window, triangles = _window_and_triangles()
    spectrum = torch.fft.rfft(wave.unfold(0, FRAME, HOP) * window)  # (frames, 1025)
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.log10(SCALE * (power @ triangles) + 1) / LARGEST


@functools.cache
def _window_and_triangles() -> tuple[Tensor, Tensor]:
    """Return a Hann window (2048,) and triangles (1025, 96) that each sum to 1."""
    triangles = mel_triangles(BANDS, low=0.0, high=RATE / 2, rate=RATE, fft=FRAME)
    triangles /= triangles.sum(axis=0)
    return torch.from_numpy(np.hanning(FRAME)).float(), torch.from_numpy(triangles).float()
