"""Small made-up data sets in the real file formats, for every test that needs data on disk.

    made = write_dataset(tmp_path / "AudioCaps", "AudioCaps", missing={"audio": [1, 3]})

Clips of one topic share a direction in every expert and words in their captions, so that a model
can learn something. Everything written is also returned, as the reference tests compare with.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.reading.hickle import write_hickle
from utils.reading.pickles import dump_plain

TOPICS = 5
HARD_NAMES = (
    'it\'s "both" quotes',
    "tab\there.wav",
    "with/slash.wav",
    "größe 音 🎧.wav",
    "  blanks  around ",
    "50% #1 (a) & [b].wav",
)
VISUAL = {
    "imagenet.resnext101_32x48d.0": (
        "aggregated_imagenet_25fps_256px_stride1_offset0/resnext101_32x48d-avg.pickle"
    ),
    "scene.densenet161.0": "aggregated_scene_25fps_256px_stride1_offset0/densenet161-avg.pickle",
    "r2p1d.r2p1d-ig65m.0": (
        "aggregated_r2p1d_30fps_256px_stride32_offset0_inner_stride1/r2p1d-ig65m-avg.pickle"
    ),
}
PUBLISHED = {
    "audio": "aggregated_audio/vggish-raw.hickle",
    "vggsound": "aggregated_vggsound/vggsound-raw.hickle",
    "pann": "aggregated_pann/pann-raw.hickle",
    "syncnet": "aggregated_syncnet/syncnet-raw.hickle",
    "speech": "aggregated_speech/w2v_mean.pkl",
}
WIDTHS = {
    "audio": 128,
    "vggsound": 512,
    "pann": 2048,
    "syncnet": 1024,
    "speech": 300,
    "ocr": 300,
    "face": 512,
    "imagenet.resnext101_32x48d.0": 2048,
    "scene.densenet161.0": 2208,
    "r2p1d.r2p1d-ig65m.0": 512,
}
AVERAGED = {"face", *VISUAL}


@dataclass(frozen=True)
class Layout:
    """Where a data set's files lie, below structured-symlinks/."""

    lists: dict
    captions: str = "structured-symlinks/raw-captions.pkl"
    text: str = "text_embeddings"
    files: dict = field(default_factory=lambda: PUBLISHED | VISUAL)
    captions_per_clip: dict = field(default_factory=lambda: {"train": 2})


LISTS = {"train": "train_list.txt", "val": "val_list.txt", "test": "test_list.txt"}
LAYOUTS = {
    "AudioCaps": Layout(
        {
            "train": "train_list.txt",
            "val": "filtered_val_list.txt",
            "test": "final_filtered_test_list.txt",
        },
        captions_per_clip={"train": 1, "val": 5, "test": 5},
    ),
    "CLOTHO": Layout(LISTS, captions_per_clip={"train": 5, "val": 5, "test": 5}),
    "SoundDescs": Layout(LISTS, captions_per_clip={"train": 1, "val": 1, "test": 1}),
    "SoundScenes": Layout(LISTS),
    "QuerYD": Layout(LISTS, "structured-symlinks/raw_captions_combined_filtered.pkl"),
    "QuerYDSegments": Layout(LISTS, "structured-symlinks/split_raw_captions_filtered.pkl"),
    "ActivityNet": Layout(
        {"train": "train_list.txt", "val": "val_list.txt", "val1": "val_1_list.txt"},
        "structured-symlinks/raw-captions-train-val_1.pkl",
        "aggregated_text_feats",
        {
            "audio": "aggregated_audio/vggish-audio-raw.pickle",
            "speech": "aggregated_speech/goog_w2v-speech-raw.pickle",
            "ocr": "aggregated_ocr_feats/ocr-w2v.pkl",
            "face": "aggregated_facefeats_25fps_256px_stride1/face-avg.pickle",
            **VISUAL,
        },
    ),
}


@dataclass
class Made:
    """What was written: `data_dir` is for the config, the rest for comparing."""

    data_dir: Path
    clips: dict  # split -> list of names
    experts: dict  # expert -> {clip: (N, D) or (D,) array}, missing ones left out
    text: dict  # clip -> list of (words, T) arrays
    captions: dict  # clip -> list of lists of words
    files: dict  # expert, "text", "captions" or "<split> list" -> path

    @property
    def root(self):
        return self.data_dir / "structured-symlinks"


def write_dataset(
    data_dir,
    layout="AudioCaps",
    *,
    sizes=None,
    experts=("audio", "vggsound"),
    widths=None,
    captions_per_clip=None,
    tokens=(2, 8),
    words=(3, 9),
    missing=None,
    hard_names=False,
    text_dim=300,
    text_feat="w2v",
    files=None,
    dtype=np.float32,
    seed=0,
):
    """Write a data set of `layout` into the folder data_dir and return what was written.

    sizes: clips per split, default 12 / 4 / 4. widths: of experts, default the published ones.
    missing: {expert: clips}, numbered over all splits in turn or by name; every other one is
    written as missing, the others are left out of the file. files: {expert: place below
    structured-symlinks/} of experts of one's own; tokens and words: (fewest, most).
    """
    form = LAYOUTS[layout]
    draw = np.random.default_rng(seed)
    sizes = sizes or dict(zip(form.lists, (12, 4, 4), strict=True))
    widths = WIDTHS | (widths or {})
    per_clip = form.captions_per_clip | (captions_per_clip or {})
    places = form.files | (files or {})
    root = Path(data_dir) / "structured-symlinks"
    names = clip_names(sum(sizes.values()), hard=hard_names)
    draws = iter(names)
    clips = {split: [next(draws) for _ in range(size)] for split, size in sizes.items()}
    topic = {name: number % TOPICS for number, name in enumerate(names)}
    written = {}

    features = {}
    for expert in experts:
        absent = {
            names[clip] if isinstance(clip, int) else clip
            for clip in (missing or {}).get(expert, ())
        }
        direction = draw.normal(size=(TOPICS, widths[expert]))
        features[expert] = {}
        for name in names:
            shape = (int(draw.integers(tokens[0], tokens[1] + 1)), widths[expert])
            value = (direction[topic[name]] + draw.normal(size=shape)).astype(dtype)
            if name not in absent:
                features[expert][name] = value[0] if expert in AVERAGED else value
        nan_ones = sorted(absent, key=names.index)[::2]
        kept = features[expert] | dict.fromkeys(nan_ones)
        written[expert] = root / places[expert]
        write_features(written[expert], {name: kept[name] for name in names if name in kept})

    vocabulary = draw.normal(size=(TOPICS, 12, text_dim)).astype(np.float32)
    captions, text = {}, {}
    for split, split_clips in clips.items():
        for name in split_clips:
            chosen = [
                draw.integers(0, 12, size=draw.integers(words[0], words[1] + 1))
                for _ in range(per_clip.get(split, per_clip["train"]))
            ]
            captions[name] = [[f"t{topic[name]}w{word}" for word in line] for line in chosen]
            text[name] = [vocabulary[topic[name]][line] for line in chosen]
    written["text"] = root / form.text / f"{text_feat}.pkl"
    written["captions"] = root / form.captions
    write_features(written["text"], text)
    write_features(written["captions"], captions)
    for split, split_clips in clips.items():
        written[f"{split} list"] = root / form.lists[split]
        write_list(written[f"{split} list"], split_clips)
    return Made(Path(data_dir), clips, features, text, captions, written)


def clip_names(count, *, hard=False):
    """Names as AudioCaps has them, or led by names that are hard to write down."""
    plain = [f"clip{number:03d}_{number * 1000}" for number in range(count)]
    return [*HARD_NAMES[:count], *plain[len(HARD_NAMES) :]] if hard else plain


def write_features(path, values):
    """Write {clip: array or None or list} in the format that the file's suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".hickle":
        write_hickle(path, values)
    else:
        missing = float("nan")
        dump_plain({k: missing if v is None else v for k, v in values.items()}, path)


def write_list(path, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", newline="")
