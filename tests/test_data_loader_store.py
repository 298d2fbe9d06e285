"""The packed feature store: read once, used as long as the source stays as it was."""

import errno
import hashlib
import logging
import mmap
import multiprocessing
import os
import shutil

import numpy as np
import pytest
import torch

from data_loader import packing
from data_loader import store as store_module
from data_loader.packed_file import TAIL
from data_loader.store import FeatureStore
from surroundings import bound_by_permissions, open_folder
from synthetic import HARD_NAMES, write_features
from utils.errors import ConfigError, DataError
from utils.reading.pickles import dump_plain


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Each test opens everything anew and may be warned anew."""
    monkeypatch.setattr(store_module, "_OPENED", {})
    monkeypatch.setattr(store_module, "_WARNED", set())


@pytest.fixture
def values():
    draw = np.random.default_rng(0)
    return {
        name: None if number % 3 == 1 else draw.normal(size=(number + 1, 6)).astype(np.float32)
        for number, name in enumerate((*HARD_NAMES, "plain"))
    }


@pytest.fixture
def source(tmp_path, values):
    path = tmp_path / "features" / "aggregated_x" / "x-raw.hickle"
    write_features(path, values)
    return path


def store_of(source, packed_dir, dtype="keep"):
    return FeatureStore(source.parents[1], packed_dir, "Mine", dtype)


def packed_files(packed_dir):
    return sorted(path for path in packed_dir.rglob("*") if path.is_file())


def assert_holds(packed, values, dtype=np.float32):
    rows = packed.find([*values, "nobody"])
    assert rows[-1] == -1
    starts, lengths = packed.run(rows[:-1])
    for row, start, length, value in zip(rows, starts, lengths, values.values(), strict=False):
        assert packed.available[row] == (value is not None)
        if value is None:
            assert length == 0
        else:
            stored = packed.rows[start : start + length]
            np.testing.assert_array_equal(stored, np.atleast_2d(value).astype(dtype))
    assert packed.rows.dtype == dtype
    assert not packed.rows[-1].any()


@pytest.mark.parametrize("place", ["packed", None])
@pytest.mark.parametrize("suffix", [".hickle", ".pickle"])
def test_features_come_back(tmp_path, values, place, suffix):
    source = tmp_path / "features" / f"x-raw{suffix}"
    write_features(source, values)
    before = source.stat()
    packed = FeatureStore(source.parent, place and tmp_path / place, "Mine", "keep").features(
        source, "x"
    )
    assert_holds(packed, values)
    assert packed.identity["size"] == before.st_size
    assert len(packed.identity["sha256"]) == 64
    assert packed.file.damaged_block() is None
    assert packed_files(source.parent) == [source]


def test_a_second_start_reads_the_packed_file_alone(tmp_path, source, values, monkeypatch):
    store_of(source, tmp_path / "packed").features(source, "x")
    store_module._OPENED.clear()
    monkeypatch.setattr(packing, "read_features", None)
    assert_holds(store_of(source, tmp_path / "packed").features(source, "x"), values)


def test_data_sets_of_one_process_share_what_is_open(tmp_path, source):
    for place in (tmp_path / "packed", None):
        first = store_of(source, place).features(source, "x")
        assert store_of(source, place).features(source, "x") is first


def test_a_changed_source_is_packed_again(tmp_path, source, values, caplog):
    store_of(source, tmp_path / "packed").features(source, "x")
    changed = {**values, "plain": np.ones((2, 6), np.float32)}
    write_features(source, changed)
    with caplog.at_level(logging.INFO):
        packed = store_of(source, tmp_path / "packed").features(source, "x")
    assert_holds(packed, changed)
    assert f"{source} has changed" in caplog.text
    assert len(packed_files(tmp_path / "packed")) == 1


def test_sources_of_one_name_in_two_folders_keep_apart(tmp_path, source, values):
    other = tmp_path / "other" / "features" / "aggregated_x" / "x-raw.hickle"
    write_features(other, {"plain": np.ones((1, 4), np.float32)})
    for _ in range(2):
        assert_holds(store_of(source, tmp_path / "packed").features(source, "x"), values)
        assert store_of(other, tmp_path / "packed").features(other, "x").width == 4
    assert len(packed_files(tmp_path / "packed")) == 2


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "other kind", "other arrays"])
def test_a_damaged_packed_file_is_made_again(tmp_path, source, values, caplog, damage):
    store = store_of(source, tmp_path / "packed")
    packed = store.features(source, "x")
    [path] = packed_files(tmp_path / "packed")
    data = path.read_bytes()
    del packed
    store_module._OPENED.clear()
    if damage == "truncate":
        path.write_bytes(data[:-100])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "flip":
        path.write_bytes(data[:-50] + bytes([data[-50] ^ 1]) + data[-49:])
    else:
        with path.open("wb") as file:
            writer = packing.PackedWriter(file)
            writer.add("rows", np.ones((3, 6), np.float32))
            writer.add("offsets", np.array([0, 2]))
            kind = "text" if damage == "other kind" else "features"
            identity = {**packing.identity_of(source), "sha256": "0" * 64}
            writer.add("names", packing.encode_names(["plain"]))
            writer.finish({"kind": kind, "source": identity})
    with caplog.at_level(logging.WARNING):
        assert_holds(store.features(source, "x"), values)
    assert str(source) in caplog.text
    assert "again" in caplog.text
    store_module._OPENED.clear()
    caplog.clear()
    assert_holds(store.features(source, "x"), values)
    assert not caplog.text


def test_float16_stays_and_float16_can_be_asked_for(tmp_path, source, values):
    asked = store_of(source, tmp_path / "packed", "float16").features(source, "x")
    assert_holds(asked, values, np.float16)
    assert_holds(store_of(source, tmp_path / "packed").features(source, "x"), values)
    half = tmp_path / "features" / "half.pickle"
    write_features(half, {"a": np.ones((2, 3), np.float16), "b": np.ones(3, np.float16)})
    assert store_of(source, None).features(half, "half").rows.dtype == np.float16


@pytest.mark.parametrize("place", ["packed", None])
def test_mixed_precision_is_kept_in_the_wider_one(tmp_path, source, place):
    mixed = {
        "a": np.full((2, 3), 0.1, np.float16),
        "b": np.full((1, 3), 0.1, np.float64),
        "c": np.full((1, 3), 0.1, np.float32),
    }
    path = tmp_path / "features" / "mixed.pickle"
    write_features(path, mixed)
    assert_holds(store_of(source, place and tmp_path / place).features(path, "mixed"), mixed)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.full((2, 6), 1e5, np.float32), "float16", "100000, too large for float16; set .*keep"),
        (np.full((2, 6), 1e200), "keep", r"1e\+200, too large for float32$"),
        (np.ones((2, 5), np.float32), "keep", "width 5, those before it 6"),
        (np.array([[1, 2, np.nan, 4, 5, 6]], np.float32), "keep", "NaN or infinity"),
        (np.array([[1, 2, np.inf, 4, 5, 6]], np.float32), "keep", "NaN or infinity"),
    ],
)
def test_unusable_values_name_expert_file_and_clip(tmp_path, source, values, value, dtype, message):
    write_features(source, {**values, "the bad one": value})
    with pytest.raises(DataError, match=message) as caught:
        store_of(source, tmp_path / "packed", dtype).features(source, "my expert")
    assert "expert 'my expert'" in str(caught.value)
    assert str(source) in str(caught.value)
    assert "'the bad one'" in str(caught.value)
    assert packed_files(tmp_path / "packed") == []


def test_a_file_without_any_features_is_refused(tmp_path, source):
    write_features(source, {"a": None, "b": None})
    with pytest.raises(DataError, match="no features at all"):
        store_of(source, None).features(source, "x")


def test_a_place_that_takes_no_files_means_memory(tmp_path, source, values, caplog, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "atomic_writer", refuse)
    for _ in range(2):
        packed = store_of(source, tmp_path / "packed").features(source, "x")
        assert_holds(packed, values)
        store_module._OPENED.clear()
    assert caplog.text.count("No space left on device") == 1
    assert packed_files(tmp_path / "packed") == []


def test_a_file_in_the_place_of_the_folder_is_an_error_of_ours(tmp_path, source):
    (tmp_path / "packed").write_text("a file")
    with pytest.raises(ConfigError, match=r"packed_dir: .*Not a directory"):
        store_of(source, tmp_path / "packed").features(source, "x")


def test_a_read_only_folder_means_memory(source, values):
    with open_folder() as folder:
        shutil.copytree(source.parents[1], folder / "features")
        (folder / "packed").mkdir(mode=0o555)
        own = folder / "features" / source.relative_to(source.parents[1])
        with bound_by_permissions():
            assert_holds(store_of(own, folder / "packed").features(own, "x"), values)
        assert not packed_files(folder / "packed")


def pack_in_process(source, packed_dir, barrier, results):
    barrier.wait()
    packed = store_of(source, packed_dir).features(source, "x")
    results.put(float(packed.rows.sum()))


def test_processes_that_start_together_do_not_disturb_each_other(tmp_path, source, values):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (source, tmp_path / "packed", barrier, results)
    workers = [context.Process(target=pack_in_process, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    sums = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert len(sums) == 1
    assert len(packed_files(tmp_path / "packed")) == 1
    assert_holds(store_of(source, tmp_path / "packed").features(source, "x"), values)


def test_an_interrupted_packing_leaves_nothing(tmp_path, source, values, monkeypatch):
    def interrupted(path):
        yield "plain", values["plain"]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packing, "read_features", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store_of(source, tmp_path / "packed").features(source, "x")
    assert packed_files(tmp_path / "packed") == []
    assert_holds(store_of(source, tmp_path / "packed").features(source, "x"), values)


def test_a_source_must_not_change_while_it_is_packed(tmp_path, source, values, monkeypatch):
    def meanwhile(path):
        yield "plain", values["plain"]
        write_features(source, {"plain": np.ones((9, 6), np.float32)})

    monkeypatch.setattr(packing, "read_features", meanwhile)
    with pytest.raises(DataError, match="changed while it was being packed"):
        store_of(source, tmp_path / "packed").features(source, "x")


def test_packed_files_serve_after_the_folder_of_features_was_linked(tmp_path, source, values):
    """The link is resolved: one packed file, whatever the way to the features."""
    store_of(source, tmp_path / "packed").features(source, "x")
    link = tmp_path / "link"
    link.symlink_to(source.parents[1])
    linked = link / source.relative_to(source.parents[1])
    assert_holds(store_of(linked, tmp_path / "packed").features(linked, "x"), values)
    assert len(packed_files(tmp_path / "packed")) == 1


def test_text_captions_and_masks_come_back(tmp_path):
    draw = np.random.default_rng(0)
    root = tmp_path / "features"
    text = {"no captions": []} | {
        name: [draw.normal(size=(n, 4)).astype(np.float32) for n in (2, 0, 5)[: 1 + k % 3]]
        for k, name in enumerate((*HARD_NAMES, "plain"))
    }
    lines = [["größe", "音"], ["a", "b"]]
    captions = {name: lines[: k % 3] for k, name in enumerate(HARD_NAMES)}
    masks = {name: [0, 1, 1][:k] for k, name in enumerate(HARD_NAMES[:4])}
    for name, value in (("text", text), ("captions", captions), ("masks", masks)):
        write_features(root / f"{name}.pkl", value)
    store = FeatureStore(root, tmp_path / "packed", "Mine", "keep")
    packed = store.text(root / "text.pkl")
    for row, expected in zip(packed.find([*text]), text.values(), strict=True):
        first, count = packed.run(row)
        assert count == len(expected)
        for caption, words in enumerate(expected, start=first):
            begin, end = packed.word_offsets[caption : caption + 2]
            np.testing.assert_array_equal(packed.rows[begin:end], words)
    opened = store.captions(root / "captions.pkl")
    for row, expected in zip(opened.find([*captions]), captions.values(), strict=True):
        assert opened.captions(row) == [" ".join(words) for words in expected]
    allowed = store.masks(root / "masks.pkl")
    for row, expected in zip(allowed.find([*masks]), masks.values(), strict=True):
        first, count = allowed.run(row)
        assert allowed.allowed[first : first + count].tolist() == expected
    assert len(packed_files(tmp_path / "packed")) == 3


@pytest.mark.parametrize(
    "masks",
    [{}, [1, 0], {"a": [1, 2]}, {"a": 1}, {3: [1]}, {"a": ["1"]}, {"a": [1, [0, 1]]}, [[1]]],
)
def test_masks_of_another_form_are_refused(tmp_path, masks):
    (tmp_path / "features").mkdir()
    dump_plain(masks, tmp_path / "features" / "masks.pkl")
    with pytest.raises(DataError, match=r"caption masks: .*masks\.pkl"):
        FeatureStore(tmp_path / "features", None, "Mine", "keep").masks(
            tmp_path / "features" / "masks.pkl"
        )


def test_a_packed_folder_can_be_removed_at_any_time(tmp_path, source, values):
    packed = store_of(source, tmp_path / "packed").features(source, "x")
    shutil.rmtree(tmp_path / "packed")
    assert_holds(packed, values)
    store_module._OPENED.clear()
    assert_holds(store_of(source, tmp_path / "packed").features(source, "x"), values)


KINDS_OF_NUMBERS = [f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)] + ["f2", "f4", "f8"]


@pytest.mark.parametrize("first", KINDS_OF_NUMBERS)
@pytest.mark.parametrize("then", KINDS_OF_NUMBERS)
def test_numbers_of_every_type_come_back_exactly(tmp_path, first, then):
    largest = {"u2": 60001, "i2": -32767, "f2": 1.5, "u1": 255, "i1": -128}
    values = {
        name: np.array([[largest.get(kind, 70001), 3]], kind)
        for name, kind in (("a", first), ("b", then))
    }
    source = tmp_path / "features" / "x.pkl"
    source.parent.mkdir()
    dump_plain(values, source)
    packed = FeatureStore(source.parent, None, "Mine", "keep").features(source, "x")
    found = packed.rows[packed.run(packed.find(["a", "b"]))[0]]
    assert found.tolist() == [values["a"][0].tolist(), values["b"][0].tolist()]


def test_a_whole_number_that_float32_cannot_hold_is_refused(tmp_path):
    source = tmp_path / "x.pkl"
    dump_plain({"clip": np.array([2**24 + 1], np.int32)}, source)
    with pytest.raises(DataError, match="16777217"):
        FeatureStore(tmp_path, None, "Mine", "keep").features(source, "x")


def test_a_source_of_another_time_alone_is_packed_again(tmp_path, source, caplog):
    store_of(source, tmp_path / "packed").features(source, "x")
    status = source.stat()
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with caplog.at_level(logging.INFO):
        store_of(source, tmp_path / "packed").features(source, "x")
    assert f"{source} has changed" in caplog.text


def test_a_link_that_leads_elsewhere_is_packed_again(tmp_path, source, values):
    """Though the other file has the same size and time."""
    link = source.with_name("link.hickle")
    link.symlink_to(source)
    store_of(source, tmp_path / "packed").features(link, "x")
    other = source.with_name("other.hickle")
    write_features(other, {c: None if v is None else 2 * v for c, v in values.items()})
    status = source.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert other.stat().st_size == status.st_size
    link.unlink()
    link.symlink_to(other)
    again = store_of(source, tmp_path / "packed").features(link, "x")
    clip = next(clip for clip, value in values.items() if value is not None)
    np.testing.assert_array_equal(rows_of(again, clip), 2 * np.atleast_2d(values[clip]))


# Damage while a file is in use


@pytest.fixture
def large(tmp_path):
    """Features over several pieces: (source, values, packed, path of the packed file)."""
    source = tmp_path / "features" / "large.pickle"
    source.parent.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    values = {f"clip {n}": draw.random((5, 1000), np.float32) for n in range(20)}
    write_features(source, values)
    store = store_of(source, tmp_path / "packed")
    store.features(source, "x")
    store_module._OPENED.clear()
    packed = store.features(source, "x")
    return source, values, packed, packed.file.path


def flip(path, position):
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x40]))


def rows_of(packed, clip):
    starts, counts = packed.run(packed.find([clip]))
    packed.verify(starts, starts + counts)
    return packed.rows[starts[0] : starts[0] + counts[0]]


@pytest.mark.parametrize("position", [0, 65_535, 65_536, 200_000, 403_999])
def test_a_changed_byte_is_mended_when_it_is_first_used(large, caplog, position):
    _source, values, packed, path = large
    whole = path.read_bytes()
    flip(path, position)
    for clip, expected in values.items():
        np.testing.assert_array_equal(rows_of(packed, clip), expected)
    packed.file.verify_all()
    assert path.read_bytes() == whole
    [record] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert str(path) in record.getMessage()


def test_a_piece_is_read_once(large, monkeypatch):
    _, values, packed, _ = large
    checked = []
    intact = type(packed.file)._is_intact

    def noted(file, piece):
        checked.append(piece)
        return intact(file, piece)

    monkeypatch.setattr(type(packed.file), "_is_intact", noted)
    rows_of(packed, "clip 0")
    assert checked == [0]
    for clip in [*values, *values]:
        rows_of(packed, clip)
    packed.file.verify_all()
    assert sorted(checked) == list(range(7))


def test_damage_that_cannot_be_mended_names_the_remedy(large, caplog):
    source, values, packed, path = large
    flip(path, 0)
    write_features(source, {clip: value + 1 for clip, value in values.items()})
    with pytest.raises(DataError, match="cannot be mended") as caught:
        rows_of(packed, "clip 0")
    assert f"remove {path} and start again" in str(caught.value)
    source.unlink()
    with pytest.raises(DataError):
        rows_of(packed, "clip 0")


def test_damage_is_mended_before_rows_move_to_a_device(large, caplog):
    _, values, packed, path = large
    flip(path, 300_000)
    rows = packed.tensor(torch.device("meta"))
    assert rows.shape == packed.rows.shape
    np.testing.assert_array_equal(packed.rows[:-1], np.concatenate(list(values.values())))


def test_a_file_cut_short_in_use_is_an_error_not_the_end_of_the_process(large):
    _, _, packed, path = large
    packed.file.require_whole()
    os.truncate(path, 1000)
    with pytest.raises(DataError, match="was cut short to 1000 of"):
        packed.file.require_whole()


def test_files_of_older_versions_are_packed_again(large, caplog):
    source, _values, packed, path = large
    content = path.read_bytes().replace(b'"name": "pieces"', b'"name": "older!"')
    _, length, magic = TAIL.unpack(content[-TAIL.size :])
    footer = content[-TAIL.size - length : -TAIL.size]
    path.write_bytes(
        content[: -TAIL.size] + TAIL.pack(hashlib.sha256(footer).digest(), length, magic)
    )
    del packed
    store_module._OPENED.clear()
    store_of(source, path.parents[1]).features(source, "x")
    assert "older version" in caplog.text


def test_features_are_read_where_files_cannot_be_mapped(tmp_path, source, values, monkeypatch):
    real = mmap.mmap

    def refusing(handle, size, **options):
        if handle != -1:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return real(handle, size)

    monkeypatch.setattr(mmap, "mmap", refusing)
    packed = store_of(source, tmp_path / "packed").features(source, "x")
    assert_holds(packed, values)
    packed.file.verify_all()
    packed.file.require_whole()
    packed.will_need(np.array([0]), np.array([1]))
