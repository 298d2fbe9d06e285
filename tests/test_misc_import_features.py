"""Embeddings made elsewhere become an expert: every form they come in, and what is none."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_loader.readers import read_features
from misc.import_features import main
from misc.own_data.embeddings import read_embeddings
from sounds import write_tone
from utils.errors import DataError
from utils.extraction_record import read_record

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "misc" / "import_features.py"
FEATURES = Path("structured-symlinks/aggregated_clap/clap-raw.hickle")
RNG = np.random.default_rng(0)
VALUES = {
    name: RNG.normal(size=(3, 8)).astype(np.float32) for name in ("a.wav", "b/c.wav", "b/ä 音.ogg")
}


def write_folder(folder, ending):
    for name, value in VALUES.items():
        path = folder / (name + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == ".npy":
            np.save(path, value)
        elif ending == ".npz":
            np.savez(path, embedding=value)
        else:
            with h5py.File(path, "w") as file:
                file["embedding"] = value


def write_parquet(path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    lists = [value.tolist() for value in VALUES.values()]
    parquet.write_table(pyarrow.table({"File": list(VALUES), "x": lists, "n": [1, 2, 3]}), path)


def write(place, form):
    if form in (".npy", ".npz", ".h5"):
        write_folder(place, form)
        return place
    path = place.with_suffix(form.removeprefix("one"))
    if form == "one.npz":
        np.savez(path, **VALUES)
    elif form == "one.h5":
        with h5py.File(path, "w") as file:
            for name, value in VALUES.items():
                file[name] = value  # a slash makes a group
    else:
        write_parquet(path)
    return path


@pytest.mark.parametrize("form", [".npy", ".npz", ".h5", "one.npz", "one.h5", "one.parquet"])
def test_every_form_gives_the_same_embeddings(tmp_path, form):
    found = dict(read_embeddings(write(tmp_path / "made", form)))
    assert found.keys() == VALUES.keys()
    for name, value in VALUES.items():
        np.testing.assert_array_equal(found[name], value)


def test_rows_of_a_matrix_need_the_names_of_its_rows(tmp_path):
    np.save(tmp_path / "m.npy", np.stack([value[0] for value in VALUES.values()]))
    (tmp_path / "names.txt").write_text("\n".join(VALUES))
    found = dict(read_embeddings(tmp_path / "m.npy", tmp_path / "names.txt"))
    assert [vector.shape for vector in found.values()] == [(8,)] * 3
    np.testing.assert_array_equal(found["b/c.wav"], VALUES["b/c.wav"][0])
    with pytest.raises(DataError, match="--names"):
        list(read_embeddings(tmp_path / "m.npy"))
    (tmp_path / "names.txt").write_text("one\ntwo")
    with pytest.raises(DataError, match=r"m\.npy.*names\.txt"):
        list(read_embeddings(tmp_path / "m.npy", tmp_path / "names.txt"))


def test_columns_of_numbers_are_vectors(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = {"clip": ["a", "b"], "e0": [1.0, 2.0], "e1": [3, 4], "note": ["x", "y"]}
    parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    found = dict(read_embeddings(tmp_path / "t.parquet"))
    assert {clip: vector.tolist() for clip, vector in found.items()} == {"a": [1, 3], "b": [2, 4]}


def import_them(place, out, *flags, made_by="CLAP x"):
    named = ["--expert", "clap", "--made_by", made_by]
    return main(["--features", str(place), "--out", str(out), *named, *flags])


def test_the_expert_is_read_by_the_readers_with_its_record(tmp_path, capsys):
    assert import_them(write(tmp_path / "made", "one.npz"), tmp_path / "Mine") == 0
    found = dict(read_features(tmp_path / "Mine" / FEATURES))
    assert found.keys() == VALUES.keys()
    assert read_record(tmp_path / "Mine" / FEATURES).extractor == "imported: CLAP x"
    assert '"width": 8' in capsys.readouterr().out


def test_sounds_give_their_names(tmp_path, capsys):
    write_folder(tmp_path / "made", ".npy")
    (tmp_path / "made" / "a.wav.npy").rename(tmp_path / "made" / "a.npy")
    for name in ("a.wav", "b/c.wav", "d.wav"):
        write_tone(tmp_path / "sounds" / name, 0.1)
    flags = ("--audio", str(tmp_path / "sounds"))
    assert import_them(tmp_path / "made", tmp_path / "Mine", *flags) == 0
    assert dict(read_features(tmp_path / "Mine" / FEATURES)).keys() == {"a.wav", "b/c.wav"}
    assert "1 of 3" in capsys.readouterr().err


def test_other_embeddings_are_not_put_in_their_place(tmp_path, capsys):
    place = write(tmp_path / "made", "one.npz")
    assert import_them(place, tmp_path / "Mine") == 0
    assert import_them(place, tmp_path / "Mine") == 0
    assert import_them(place, tmp_path / "Mine", made_by="PANNs") == 1
    error = capsys.readouterr().err
    assert "CLAP x" in error
    assert "PANNs" in error


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"a": np.full((2, 3), np.nan)}, "a"),
        ({"a": np.ones((2, 3)), "bad": np.ones((2, 4))}, "width"),
        ({"bad": np.ones((1, 2, 3))}, "bad"),
        ({"bad": np.ones(0)}, "bad"),
        ({"bad": np.array(["text"])}, "bad"),
        ({"bad": np.array([{"an": "object"}])}, r"t\.npz"),
        ({"big": np.array([1e300, 1.0])}, "big"),
    ],
)
def test_what_is_no_embedding_is_an_error_that_names_it(tmp_path, capsys, arrays, named):
    np.savez(tmp_path / "t.npz", **arrays)
    assert import_them(tmp_path / "t.npz", tmp_path / "Mine") == 1
    error = capsys.readouterr().err
    assert "t.npz" in error
    assert __import__("re").search(named, error)
    assert not (tmp_path / "Mine" / FEATURES).exists()


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.h5", "x.parquet", "x.txt", "missing"])
def test_damaged_files_are_errors_naming_them(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    if name != "missing":
        (tmp_path / name).write_bytes(b"no array at all")
    with pytest.raises(DataError, match=name):
        list(read_embeddings(tmp_path / name, tmp_path / name))
    (tmp_path / "empty").mkdir(exist_ok=True)
    with pytest.raises(DataError, match="empty"):
        list(read_embeddings(tmp_path / "empty"))


@pytest.mark.parametrize("expert", ["../up", "a b", "", "vggish", "audio"])
def test_names_that_no_expert_can_have_are_usage_errors(tmp_path, expert):
    place = write(tmp_path / "made", "one.npz")
    flags = ["--features", str(place), "--made_by", "x", "--out", str(tmp_path)]
    assert main([*flags, "--expert", expert]) == 2


def test_help_works_from_another_directory(tmp_path):
    command = [sys.executable, str(SCRIPT), "--help"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--made_by" in found.stdout


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("a", np.full((2, 4), 2**40 + 1), "whole numbers that float32 cannot"),
        ("a\nb", np.ones(4), "a line break"),
        ("a", np.zeros((1 << 12, 1 << 13), np.float32), "refused: unpacks to"),
    ],
)
def test_odd_arrays_are_refused(tmp_path, name, value, problem):
    np.savez_compressed(tmp_path / "x.npz", **{name: value})
    with pytest.raises(DataError, match=problem):
        list(read_embeddings(tmp_path / "x.npz"))


def test_small_whole_numbers_are_taken(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(8))
    ((clip, array),) = read_embeddings(tmp_path / "x.npz")
    assert (clip, array.dtype) == ("a", np.float32)
