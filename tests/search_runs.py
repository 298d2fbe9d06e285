"""Small runs and folders of made-up recordings that searches are tested with."""

import json
import wave

import numpy as np
import torch

from model import build_model
from utils.config import load_config

EXPERTS = ("logmel", "modulation")
RATE = 16_000


def make_run(folder, *, experts=EXPERTS, form="ce", width=16, seed=0, changes=None):
    """Write a run of an untrained model of SoundScenes' experts; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    args = {
        "use_ce": "pairwise" if form == "ce" else "",
        "vlad_clusters": {"text": 3, "logmel": 2, "modulation": 2},
    }
    content = {
        "inherit_from": "configs/datasets/soundscenes.json",
        "experts": {"modalities": list(experts), "ce_shared_dim": width},
        "arch": {"args": args | (changes or {})},
    }
    (folder / "source.json").write_text(json.dumps(content))
    config = load_config(folder / "source.json")
    (folder / "source.json").unlink()
    (folder / "config.json").write_text(json.dumps(config.raw))
    torch.manual_seed(seed)
    model = build_model(config)
    checkpoint = {"epoch": 1, "config": config.raw, "state_dict": model.published_state_dict()}
    torch.save(checkpoint, folder / "trained_model.pth")
    return folder


def tone(frequency, seconds, *, loudness=0.3):
    time = np.arange(round(RATE * seconds)) / RATE
    noise = np.random.default_rng(int(frequency)).normal(0, 0.01, time.size)
    return (loudness * np.sin(2 * np.pi * frequency * time) + noise).astype(np.float32)


def write_sound(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((32_767 * np.clip(samples, -1, 1)).astype("<i2").tobytes())
    return path


def make_folder(folder, names=("a.wav", "b.wav", "birds/c.wav", "birds/d.wav")):
    """Write one tone a name, each of another pitch and length."""
    for number, name in enumerate(names, start=1):
        write_sound(folder / name, tone(200 * number, 1 + 0.5 * number))
    return folder
