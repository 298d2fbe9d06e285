"""SoundDescs: its files, its lists, and a checkpoint that the published code trained on it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import eval as evaluation
from data_loader import build_dataset
from synthetic import write_dataset
from utils.config import load_config
from utils.files import write_text
from utils.reading.hickle import write_hickle
from utils.reading.pickles import dump_plain

PUBLISHED = Path(__file__).parent / "data" / "published_ckpt_sounddescs"
CONFIG = "configs/sounddescs/train-vggish-vggsound.json"


@pytest.fixture
def made(tmp_path):
    return write_dataset(tmp_path / "data" / "SoundDescs", "SoundDescs")


def open_split(made, split, **settings):
    changes = {"data_loader.args.packed_dir": None, **settings}
    return build_dataset(load_config(CONFIG, changes, data_dir=made.root.parent.parent), split)


def test_the_similarities_of_a_released_checkpoint(tmp_path):
    """Its config.json loads as published; one expert lies in a hickle, the other in a pickle."""
    shutil.copytree(PUBLISHED / "data", tmp_path / "data")
    files = ("--config", PUBLISHED / "config.json", "--resume", PUBLISHED / "trained_model.pth")
    kept = ("--save_similarities", tmp_path / "sims.npy", "--out", tmp_path / "out")
    flags = [*files, *kept, "--data_dir", tmp_path / "data", "--quiet"]
    assert evaluation.main([str(flag) for flag in flags]) == 0
    expected = np.load(PUBLISHED / "test_sims.npy")
    np.testing.assert_allclose(np.load(tmp_path / "sims.npy"), expected, atol=1e-5)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["protocol"]["queries"] == "one caption"
    assert {Path(file).suffix for file in results["data"]["features"]} == {".hickle", ".pkl"}


def test_a_hickle_is_read_before_a_pickle(made):
    file = made.root / "aggregated_vggsound" / "vggsound-raw.hickle"
    clips = made.clips["test"]
    values = {clip: np.full((2, 512), number, np.float32) for number, clip in enumerate(clips)}
    dump_plain(values, file.with_suffix(".pkl"))
    write_hickle(file, {clip: value + 1 for clip, value in values.items()})
    for added in (1, 0):
        _, experts, _, _, _ = open_split(made, "test").evaluation()
        found = experts["vggsound"][:, 0, 0].numpy()
        np.testing.assert_array_equal(found, np.arange(len(clips)) + added)
        file.unlink(missing_ok=True)


@pytest.mark.parametrize("layout", ["SoundDescs", "CLOTHO"])
def test_other_lists_are_honoured(tmp_path, layout):
    made = write_dataset(tmp_path / "data" / layout, layout)
    for name, split in (("train_list_25.txt", "train"), ("val_list_25.txt", "val")):
        write_text(made.root / name, "".join(f"{clip}\n" for clip in made.clips[split][:2]))
    write_text(made.root / "other.txt", f"{made.clips['test'][1]}\n")
    changes = {"training_file": "train_list_25.txt", "testing_file": "other.txt"}
    changes["data_loader.args.packed_dir"] = None
    config = load_config(CONFIG.replace("sounddescs", layout.lower()), changes,
                         data_dir=tmp_path / "data")  # fmt: skip
    assert build_dataset(config, "train").clips == made.clips["train"][:2]
    assert build_dataset(config, "val").clips == made.clips["val"][:2]
    assert build_dataset(config, "test").clips == made.clips["test"][1:2]
