"""The whole way on a small SoundScenes: captions find held-out scenes; shuffled ones do not."""

import json

import numpy as np
import pytest

import train
from data_loader.readers import read_captions, read_text_features
from soundscenes.write import make_soundscenes
from utils.reading.pickles import dump_plain

COUNTS = {"train": 240, "val": 30, "test": 50}
CHANCE = 100 * 10 / COUNTS["test"]
SMALL = {
    "experts.ce_shared_dim": 96,
    "arch.args.vlad_clusters.text": 8,
    "arch.args.vlad_clusters.logmel": 4,
    "arch.args.vlad_clusters.modulation": 4,
    "data_loader.args.batch_size": 32,
    "trainer.epochs": 12,
    "trainer.tensorboard": "false",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "SoundScenes"
    make_soundscenes(folder, seed=0, counts=COUNTS, workers=1, quiet=True)
    return folder


def recall_at_10(data, folder):
    """Train CE on both experts; return R@10 of the test captions, in percent."""
    settings = SMALL | {
        "data_loader.args.data_dir": data,
        "data_loader.args.packed_dir": folder / "packed",
        "trainer.save_dir": folder / "saved",
    }
    custom = "+".join(f"{key}@{value}" for key, value in settings.items())
    config = "configs/soundscenes/train-logmel-modulation.json"
    assert train.main(["--config", config, "--custom_args", custom, "--quiet"]) == 0
    (results,) = folder.rglob("results.json")
    return json.loads(results.read_text())["summary"]["t2v_metrics"]["R10"]["mean"]


def shuffle_training_captions(data):
    """Give every training scene the captions of another one."""
    root = data / "structured-symlinks"
    said = read_captions(root / "raw-captions.pkl")
    vectors = dict(read_text_features(root / "text_embeddings" / "ngrams.pkl"))
    names = [name for name in said if name.startswith("train")]
    others = np.roll(np.random.default_rng(0).permutation(names), 1)
    moved = dict(zip(names, map(str, others), strict=True))
    dump_plain({name: said[moved.get(name, name)] for name in said}, root / "raw-captions.pkl")
    dump_plain(
        {name: vectors[moved.get(name, name)] for name in said},
        root / "text_embeddings" / "ngrams.pkl",
    )


def test_captions_find_held_out_scenes_and_shuffled_ones_do_not(data, tmp_path, capsys):
    (tmp_path / "true").mkdir()
    (tmp_path / "shuffled").mkdir()
    assert recall_at_10(data, tmp_path / "true") > 2 * CHANCE
    shuffle_training_captions(data)
    assert recall_at_10(data, tmp_path / "shuffled") < 1.6 * CHANCE
