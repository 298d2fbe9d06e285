"""VGGish: 128 numbers per 0.96 s (Hershey et al., CNN Architectures for Large-Scale Audio, 2017).

    wave (n,) -> log-mel patches (N, 1, 96, 64) -> tokens (N, 128)

Incomplete frames and incomplete patches are dropped; a sound shorter than one patch is padded with
zeros at its end to one. Names of the weights are those of vggish-10086976.pth.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio.extractor import NetworkExtractor
from audio.mel import mel_triangles
from audio.reading import Wave
from audio.weights import load_state, locate_weights, read_weights
from utils.files import sha256_of

RATE = 16_000
FRAME, HOP, FFT = 400, 160, 512
BANDS, FRAMES = 64, 96
LOW, HIGH = 125.0, 7500.0
OFFSET = 0.01
PCA_FILE = "vggish_pca"
CHANNELS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")


class VGGishNet(nn.Module):
    """Six convolutions and three linear layers; 72,141,184 parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for channels in CHANNELS:
            if isinstance(channels, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU(inplace=True)]
                width = channels
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 6 * 4, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, 128),
            nn.ReLU(inplace=True),
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Return tokens (n, 128) of patches (n, 1, 96, 64)."""
        maps = self.features(patches)  # (n, 512, 6, 4)
        return self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))  # channels last, as published


class PCA(nn.Module):
    """The released post-processing: projection, clipping to [-2, 2], 8-bit integers."""

    pca_eigen_vectors: Tensor
    pca_means: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pca_eigen_vectors", torch.zeros(128, 128))
        self.register_buffer("pca_means", torch.zeros(128, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (n, 128) as whole numbers 0 to 255."""
        projected = (tokens - self.pca_means.T) @ self.pca_eigen_vectors.T
        return ((projected.clamp(-2, 2) + 2) * (255 / 4)).round()


class VGGish(NetworkExtractor):
    """Tokens of VGGish; the extra file `vggish_pca` turns the released post-processing on."""

    name: ClassVar[str] = "vggish"
    expert: ClassVar[str] = "audio"
    file: ClassVar[str] = "aggregated_audio/vggish-raw.hickle"
    width: ClassVar[int] = 128
    rate: ClassVar[int] = RATE
    step: ClassVar[int] = FRAMES * HOP
    window: ClassVar[int] = (FRAMES - 1) * HOP + FRAME
    batch: ClassVar[int] = 8

    extras: ClassVar[tuple[str, ...]] = (PCA_FILE,)

    def load(self, weights: Path | None) -> None:
        """Load the weights, and those of the post-processing when `extra` has them."""
        super().load(weights)
        self.pca: PCA | None = None
        if PCA_FILE in self.extra:
            path = locate_weights(PCA_FILE, self.extra[PCA_FILE])
            content = read_weights(path)
            if isinstance(content, dict):
                content = {name: torch.as_tensor(value) for name, value in content.items()}
            self.pca = PCA()
            load_state(self.pca, content, path)
            self.weights_sha256 = f"{self.weights_sha256}+{sha256_of(path)}"

    @staticmethod
    def build(state: object) -> nn.Module:
        """Return the network."""
        return VGGishNet()

    @property
    def options(self) -> dict[str, bool]:
        """Whether the post-processing is on."""
        return {"pca": self.pca is not None}

    def patches(self, wave: Wave) -> Tensor:
        """Return the log-mel patches of a sound: (N, 1, 96, 64)."""
        return log_mel_patches(torch.from_numpy(wave))

    def finish(self, tokens: Tensor, wave: Wave) -> Tensor:
        """Apply the post-processing when it is on."""
        return tokens if self.pca is None else self.pca(tokens)


def log_mel_patches(wave: Tensor) -> Tensor:
    """Return log(mel + 0.01) of magnitudes in patches of 96 frames: (N, 1, 96, 64)."""
    wave = F.pad(wave, (0, max(0, VGGish.window - len(wave))))
    count = (len(wave) - VGGish.window) // VGGish.step + 1
    wave = wave[: (count - 1) * VGGish.step + VGGish.window]
    window, triangles = _window_and_triangles()
    spectrum = torch.fft.rfft(wave.unfold(0, FRAME, HOP) * window, FFT)  # (96 N, 257)
    return torch.log(spectrum.abs() @ triangles + OFFSET).view(count, 1, FRAMES, BANDS)


@functools.cache
def _window_and_triangles() -> tuple[Tensor, Tensor]:
    """Return a periodic Hann window (400,) and the triangles (257, 64)."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    triangles = mel_triangles(BANDS, low=LOW, high=HIGH, rate=RATE, fft=FFT)
    return torch.from_numpy(window).float(), torch.from_numpy(triangles).float()
