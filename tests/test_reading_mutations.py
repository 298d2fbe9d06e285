"""Small real files with damaged bytes: reading each ends in a value or a ProjectError naming it.

MUTATIONS=5000 tries so many of each kind, SEED=1 others.
"""
# ruff: noqa: E501  one kind, one line

import gzip
import io
import os
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from data_loader.packed_file import PackedWriter, map_packed
from data_loader.readers import read_captions, read_features, read_masks, read_text_features
from released import write_released
from trainer.checkpoint import load_checkpoint
from utils.config import load_config
from utils.files import read_json, read_list
from utils.reading.archives import check_archive
from utils.reading.hickle import write_hickle
from utils.reading.pickles import ExpertStore, dump_plain
from watching import Watch, bounded_memory, read_once

CONFIG = Path(__file__).parent / "data" / "released_clotho_ce_config.json"
MUTATIONS, SEED = int(os.environ.get("MUTATIONS", "40")), os.environ.get("SEED", "0")
WATCH = Watch(Path("/nowhere"))
ROWS = {f"clip {n}": np.full((n % 3 + 1, 3), n, np.float32) for n in range(9)}
TEXTS = ("", "-1", "9" * 20, "1e999", "NaN", "[]", '"', "\r", "\0", "\ufeff", "\ud800", "[" * 150, '{"a":' * 99, "*a", "!!python/object/apply:os.system ['x']", "../", "\\ud800")  # fmt: skip
WORDS = (b"cos\nsystem\n", b"R", b"b", b"\x81", b"Q", b"h\x00", b"(", b"r\xff\xff\xff\x7f", b"TREE", b"\x8e" + b"\xff" * 8, b"SNOD", b"OHDR", b"PK\x03\x04", bytes(64))  # fmt: skip


def mutate(content, draw):
    """Flip, cut, duplicate, overwrite: mostly at the ends, where the structure is."""
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 16))):
        edge = min(len(damaged), 512)
        start = draw.choice((0, len(damaged) - edge, draw.randrange(len(damaged) - edge + 1)))
        at = start + draw.randrange(edge + 1)
        old = damaged[at : at + draw.choice((0, 1, 1, 8, 60))]
        flipped = bytes(byte ^ 1 << draw.randrange(8) for byte in old[:1]) + old[1:]
        new = (flipped, flipped, b"", old * 2, old * 50, draw.randbytes(8), draw.choice(WORDS))
        damaged[at : at + len(old)] = draw.choice(new)
    return bytes(damaged[: draw.choice((None, None, None, None, draw.randrange(len(damaged) + 1)))])


def in_text(content, draw):
    """Keep it UTF-8, which few random bytes are."""
    text = content.decode()
    for _ in range(draw.choice((1, 2, 8))):
        at = draw.randrange(len(text) + 1)
        text = text[:at] + draw.choice(TEXTS) + text[at + draw.choice((0, 1, 10)) :]
    return text.encode("utf-8", "surrogatepass")


def in_zip(content, draw):
    """Damage the pickle of a checkpoint, and seal the archive anew."""
    sealed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(sealed, "w") as new:
        for name in old.namelist():
            record = old.read(name)
            new.writestr(name, mutate(record, draw) if name.endswith("data.pkl") else record)
    return sealed.getvalue()


def archive(path):
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for name in ("data/a/x.txt", f"data/{'d' * 120}/ü.pkl"):
            tar.addfile(tarfile.TarInfo(name))


def packed(path):
    with path.open("wb") as file:
        writer = PackedWriter(file)
        writer.extend("features", np.zeros((5, 3), np.float32))
        writer.finish({"kind": "a"})


def pickled(value):
    return lambda path: dump_plain(value, path, protocol=2)


def plain_store(path):
    dump_plain(ExpertStore(["a"], 4, None, np.ones((1, 4)), {"a": 0}), path, 2)
    ours = b"cutils.reading.stand_ins\n"
    path.write_bytes(path.read_bytes().replace(ours, b"cutils.datastructures\n"))


KINDS = {
    "hickle": (".hickle", lambda path: write_hickle(path, ROWS), lambda path: list(read_features(path)), None),
    "hickle-gzip": (".hickle", lambda path: write_hickle(path, ROWS, gzip=True, form="v108"), lambda path: list(read_features(path)), None),
    "pickle": (".pkl", pickled(ROWS), lambda path: list(read_features(path)), None),
    "expert-store": (".pickle", plain_store, lambda path: list(read_features(path)), None),
    "text": (".pkl", pickled({"a": [np.ones((2, 5), np.float32)]}), lambda path: list(read_text_features(path)), None),
    "captions": (".pkl", pickled({"a": [["a", "größe"], ["b"] * 3]}), read_captions, None),
    "masks": (".pkl", pickled({"a": [1, 0]}), read_masks, None),
    "checkpoint": (".pth", lambda path: write_released(path, {"a": torch.ones(2, 3)}, config={"a": [1]}, learning_rate=0.1), load_checkpoint, in_zip),
    "config": (".json", lambda path: path.write_bytes(CONFIG.read_bytes()), load_config, in_text),
    "yaml": (".yaml", lambda path: path.write_text("inherit_from: configs/clotho/train-vggish-vggsound.json\ntrainer: {epochs: 2}\n"), load_config, in_text),
    "json": (".json", lambda path: path.write_text('{"a": [1, -2.5e3, "x", null, {"b": {}}]}'), read_json, in_text),
    "list": (".txt", lambda path: path.write_text("\ufeffa 'b'/c.wav\r\nä.wav\r\n", newline=""), read_list, in_text),
    "archive": (".tar.gz", archive, check_archive, lambda content, draw: gzip.compress(mutate(gzip.decompress(content), draw), 1)),
    "packed": (".packed", packed, lambda path: map_packed(path).damaged_block(), None),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_end_in_a_value_or_an_error(kind, tmp_path, monkeypatch):
    suffix, make, read, inside = KINDS[kind]
    path = tmp_path / f"x{suffix}"
    make(path)
    content = path.read_bytes()
    monkeypatch.setattr(WATCH, "place", str(tmp_path))
    assert read_once(read, path, WATCH)[0] == "read"
    outcomes = set()
    for number in range(MUTATIONS):
        draw = random.Random(f"{SEED} {kind} {number}")
        path.write_bytes((inside if inside and draw.random() < 0.6 else mutate)(content, draw))
        with bounded_memory():
            outcome, message, seconds = read_once(read, path, WATCH)
        assert outcome != "unexplained", f"SEED={SEED}, mutation {number}: {message}"
        assert seconds < 20
        outcomes.add(outcome)
    assert "refused" in outcomes
