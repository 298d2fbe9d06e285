"""VGGSound's ResNet-18: 512 numbers, 3.2 times a second (Chen et al., VGGSound, 2020).

    wave (n,) -> log spectrograms of 10 s (N, 1, 257, 1004) -> maps (N, 512, 9, 32)
              -> mean over frequency: 32 tokens of 512 per 10 s

A sound (or the last part of a long one) that is shorter than 10 s is repeated up to ten times and
cut to 10 s, as the network was trained (the last part of a long one as often as it takes); the
tokens kept are those of the sound itself, one for each 0.3125 s begun. Names of the weights are
those of H.pth.tar (average) and I.pth.tar (NetVLAD).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import scipy.signal
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio.extractor import NetworkExtractor
from audio.reading import Wave

RATE = 16_000
CLIP = 160_000
TOKENS = 32
TOKEN = CLIP // TOKENS
REPEATS = 10
SEGMENT, OVERLAP = 512, 353
CLASSES, CLUSTERS = 309, 16


class BasicBlock(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (n, width, h / stride, w / stride) of (n, inputs, h, w)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class ResNet18(nn.Module):
    """The convolutions of ResNet-18 on one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for number in range(1, 5):
            inputs, width = widths[number - 1 : number + 1]
            stride = 1 if number == 1 else 2
            blocks = BasicBlock(inputs, width, stride), BasicBlock(width, width, 1)
            self.add_module(f"layer{number}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (n, 512, 9, T / 32) of spectrograms (n, 1, 257, T)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, padding=1)
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return x


class VGGSoundNet(nn.Module):
    """ResNet-18 as VGGSound released it, its classifier's weights included.

    Tokens are taken before the classifier; its weights are here so that the files load name by
    name. `vlad`: those of I.pth.tar, otherwise of H.pth.tar.
    """

    def __init__(self, *, vlad: bool = False) -> None:
        super().__init__()
        self.audnet = ResNet18()
        if vlad:
            self.audnet.avgpool = nn.Module()
            self.audnet.avgpool.conv = nn.Conv2d(512, CLUSTERS, 1)
            self.audnet.avgpool.centroids = nn.Parameter(torch.zeros(CLUSTERS, 512))
            self.audnet.fc_ = nn.Linear(CLUSTERS * 512, CLASSES)
        else:
            self.audnet.fc = nn.Linear(512, CLASSES)

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Return tokens (n, T / 32, 512) of spectrograms (n, 1, 257, T)."""
        return self.audnet(spectrograms).mean(dim=2).transpose(1, 2)


class VGGSound(NetworkExtractor):
    """Tokens of VGGSound's ResNet-18."""

    name: ClassVar[str] = "vggsound"
    expert: ClassVar[str] = "vggsound"
    file: ClassVar[str] = "aggregated_vggsound/vggsound-raw.hickle"
    width: ClassVar[int] = 512
    rate: ClassVar[int] = RATE
    step: ClassVar[int] = CLIP
    window: ClassVar[int] = CLIP
    group: ClassVar[int] = TOKENS
    batch: ClassVar[int] = 4

    @staticmethod
    def build(state: object) -> nn.Module:
        """Return the network with the classifier that the weights have."""
        return VGGSoundNet(vlad=isinstance(state, Mapping) and "audnet.fc_.weight" in state)

    @staticmethod
    def state_of(content: object) -> object:
        """Return the state dict: the released files hold it beside the state of the training."""
        if isinstance(content, Mapping) and "model_state_dict" in content:
            return content["model_state_dict"]
        return content

    def patches(self, wave: Wave) -> Tensor:
        """Return a spectrogram for each 10 s begun: (N, 1, 257, T)."""
        parts = [wave[start : start + CLIP] for start in range(0, max(len(wave), 1), CLIP)]
        if len(parts) > 1 and len(parts[-1]) < TOKEN:
            parts.pop()
        if len(parts) > 1:
            parts[-1] = np.resize(parts[-1], CLIP)  # repeats it
        return torch.stack([spectrogram(part) for part in parts])[:, None]

    def finish(self, tokens: Tensor, wave: Wave) -> Tensor:
        """Return the tokens of the sound itself, without those of its repetitions: (N, 512)."""
        count = max(1, math.ceil(len(wave) / TOKEN))
        return tokens.flatten(0, 1)[:count]


def spectrogram(wave: Wave) -> Tensor:
    """Return the standardised log spectrogram of up to 10 s: (257, T), T 1004 from 1 s on."""
    if len(wave) < CLIP:
        wave = np.tile(wave, REPEATS)[:CLIP]
    if len(wave) < SEGMENT:
        wave = np.pad(wave, (0, SEGMENT - len(wave)))
    _, _, power = scipy.signal.spectrogram(
        wave.clip(-1, 1), RATE, nperseg=SEGMENT, noverlap=OVERLAP
    )
    logs = np.log(power + 1e-7)
    logs = (logs - logs.mean()) / (logs.std() + 1e-9)
    return torch.from_numpy(logs.astype(np.float32))
