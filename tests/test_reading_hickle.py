"""`.hickle` files: read as HDF5's own library reads them, written as hickle 4.0.4 does."""

import contextlib
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import DataError, UnsafeFileError
from utils.reading.hickle import hickle_keys, iter_hickle, write_hickle
from values import same

MINIDATA = Path(__file__).resolve().parent / "data" / "minidata"
HARD_NAMES = (
    "it's", 'say "x"', "both ' and \"", "a/b", "/", "//a/", "tab\there", "line\nend\r", "größe 音",
    " blanks ", "", "\x01\x7f\x85\u2028\u200b", "\udcff", "[brackets] (1) {2}", "data", ".", "100%",
)  # fmt: skip
FORMS = ("earliest", "v108")


@contextlib.contextmanager
def hickle(path, **how):
    with h5py.File(path, "w", **how) as file:
        folder = file.create_group("data")
        folder.attrs["base_type"] = "dict"
        yield folder


def add(folder, key, kind="ndarray", **how):
    item = folder.create_group(key)
    dataset = item.create_dataset("data", **how)
    dataset.attrs["base_type"] = kind
    return dataset


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.hickle"


# Reading


def test_a_genuine_file_is_read_as_the_library_reads_it():
    [path] = MINIDATA.rglob("vggish-raw.hickle")
    ours = dict(iter_hickle(path))
    with h5py.File(path) as file:
        assert file.attrs["HICKLE_VERSION"] == "4.0.4"
        assert list(ours) == [eval(key).replace("\\", "/") for key in file["data"]]
        for key, item in zip(ours, file["data"].values(), strict=True):
            theirs = item["data"][()]
            if theirs.ndim == 0:
                assert np.isnan(theirs)
                assert ours[key] is None
            else:
                assert same(ours[key], theirs)
    assert hickle_keys(path) == list(ours)
    assert sum(value is None for value in ours.values()) == 2


@pytest.mark.parametrize("libver", ["earliest", "v108", ("v108", "v108"), ("v110", "v110")])
@pytest.mark.parametrize("count", [0, 1, 8, 9, 300, 3000])
def test_groups_of_every_size_and_form(path, libver, count):
    """Large groups are stored in trees and heaps, which differ between the forms of HDF5."""
    draw = np.random.default_rng(count)
    values = {f"clip {n} größe": draw.random((n % 3 + 1, 2), np.float32) for n in range(count)}
    with hickle(path, libver=libver) as folder:
        for name, value in values.items():
            add(folder, repr(name), data=value)
    ours = dict(iter_hickle(path))
    assert ours.keys() == values.keys()
    assert all(same(ours[name], values[name]) for name in values)


@pytest.mark.parametrize("libver", ["earliest", ("v108", "v108")])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f2", ">f4", ">f8", "i4", ">i8", "u1", "u2"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"chunks": (2, 3)},
        {"compression": "gzip"},
        {"compression": "gzip", "chunks": (3, 2), "shuffle": True},
        {"shuffle": True, "chunks": (7, 5)},
        {"chunks": (1, 1), "compression": 9},
        {"maxshape": (None, None), "chunks": (4, 8)},
    ],
    ids=str,
)
def test_arrays_of_every_type_and_layout(path, libver, dtype, how):
    value = (np.random.default_rng(0).random((7, 5)) * 100).astype(dtype)
    with hickle(path, libver=libver) as folder:
        add(folder, "'clip'", data=value, **how)
        add(folder, "'row'", data=value[0])
        add(folder, "'none'", data=value[:0])
    ours = dict(iter_hickle(path))
    assert same(ours["clip"], value)
    assert same(ours["row"], value[0])
    assert same(ours["none"], value[:0])


def test_a_compact_array_is_read(path):
    """Small arrays may stand inside the description of the dataset."""
    with hickle(path) as folder:
        item = folder.create_group("'clip'")
        form = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        form.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((2, 3))
        made = h5py.Dataset(h5py.h5d.create(item.id, b"data", h5py.h5t.IEEE_F32LE, space, form))
        made[...] = np.arange(6).reshape(2, 3)
        made.attrs["base_type"] = "ndarray"
    assert dict(iter_hickle(path))["clip"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("kind", ["float", "np_scalar", np.bytes_("float")])
def test_a_nan_is_a_missing_clip(path, kind):
    with hickle(path) as folder:
        add(folder, "'clip'", kind, data=np.float64("nan"))
    assert dict(iter_hickle(path)) == {"clip": None}


def test_a_number_that_is_no_nan_is_refused(path):
    with hickle(path) as folder:
        add(folder, "'clip'", "float", data=1.5)
    with pytest.raises(DataError, match=r"x\.hickle: clip 'clip': is of shape \(\); expected"):
        list(iter_hickle(path))


def test_attributes_of_hickle_are_not_looked_at(path):
    with hickle(path) as folder:
        dataset = add(folder, "'clip'", data=np.ones((1, 2), np.float32))
        for n in range(40):  # they no longer fit into the first part of the header
            dataset.attrs[f"attribute {n}"] = np.bytes_(b"cos\nsystem\n(S'x'\ntR." * n + b".")
    assert dict(iter_hickle(path))["clip"].tolist() == [[1, 1]]


def test_features_are_read_clip_by_clip_without_copies(path):
    write_hickle(path, {str(n): np.ones((500, 500), np.float32) for n in range(20)})
    tracemalloc.start()
    for _, value in iter_hickle(path):
        assert not value.flags.writeable
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


def test_damage_is_found_clip_by_clip(path):
    """The clips before the damaged one are still yielded."""
    with hickle(path) as folder:
        add(folder, "'a'", data=np.ones(2, np.float32))
        add(folder, "'b'", "pickle", data=np.ones(2, np.uint8))
    found = iter_hickle(path)
    assert next(found)[0] == "a"
    with pytest.raises(UnsafeFileError, match="clip 'b': is stored as a pickle"):
        next(found)


def complete(path):
    """Say whether a file can be read to its end; any error is a DataError that names it."""
    try:
        list(iter_hickle(path))
    except DataError as error:
        message = str(error)
    else:
        return True
    assert message.startswith(str(path))
    return False


@pytest.mark.parametrize("form", FORMS)
def test_a_file_cut_anywhere_is_damaged_or_whole(path, form):
    write_hickle(path, {f"clip {n}": np.ones((2, 3), np.float32) for n in range(12)}, form=form)
    content = path.read_bytes()
    for end in range(0, len(content), 113):
        path.write_bytes(content[:end])
        if complete(path):
            assert len(dict(iter_hickle(path))) == 12


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda file: None, "holds no `data`"),
        (lambda file: file.create_group("data"), "holds None; expected a dict"),
        (lambda file: file.create_dataset("data", data=[1.0]), "holds None; expected a dict"),
        (lambda file: file.create_group("data").attrs.update(base_type="list"), "holds 'list'"),
        (lambda file: file.create_group("data").attrs.update(base_type="d" * 300), "holds None"),
        (lambda file: file.create_group("data").attrs.update(base_type=["dict"]), "holds None"),
    ],
)
def test_files_that_hickle_did_not_write(path, build, message):
    with h5py.File(path, "w") as file:
        build(file)
    with pytest.raises(DataError, match=message):
        list(iter_hickle(path))
    with pytest.raises(DataError, match=message):
        hickle_keys(path)


@pytest.mark.parametrize("key", ["clip", "5", "'a' 'b'", "'a", "f'a'", "b'a'", "'\\d'", "('a')"])
def test_keys_that_are_no_text_are_refused(path, key):
    with hickle(path) as folder:
        add(folder, key, data=[1.0])
    with pytest.raises(DataError, match="is not a text in quotes"):
        hickle_keys(path)


# Writing


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gzip", [False, True])
def test_hard_names_come_back(path, form, gzip):
    values = {name: np.full((2, 3), n, np.float32) for n, name in enumerate(HARD_NAMES)}
    write_hickle(path, {**values, "missing": None}, gzip=gzip, form=form)
    ours = dict(iter_hickle(path))
    assert ours.pop("missing") is None
    assert ours.keys() == values.keys()
    assert all(same(ours[name], values[name]) for name in values)


@given(name=st.text(st.characters(exclude_characters="\\")))
def test_any_name_comes_back(tmp_path_factory, name):
    path = tmp_path_factory.getbasetemp() / "name.hickle"
    write_hickle(path, {name: np.ones(1, np.float16)})
    assert hickle_keys(path) == [name]


def test_a_backslash_would_come_back_as_a_slash(path):
    with pytest.raises(DataError, match="it has a backslash"):
        write_hickle(path, {"a\\b": np.ones(1)})
    assert not path.exists()


def test_what_is_written_is_the_layout_of_hickle(path):
    write_hickle(path, {"a/b": np.ones((2, 3), np.float16), "m": None})
    [genuine] = MINIDATA.rglob("vggish-raw.hickle")
    with h5py.File(path) as ours, h5py.File(genuine) as theirs:
        assert dict(ours.attrs) == dict(theirs.attrs)
        assert dict(ours["data"].attrs) == dict(theirs["data"].attrs)
        assert list(ours["data"]) == [r"'a\\b'", "'m'"]
        their_items = list(theirs["data"].values())
        for mine, their in [
            (ours["data"][r"'a\\b'"], next(i for i in their_items if i["data"].ndim == 2)),
            (ours["data"]["'m'"], next(i for i in their_items if i["data"].ndim == 0)),
        ]:
            assert comparable(mine) == comparable(their)
            assert comparable(mine["data"]) == comparable(their["data"])
    assert path.read_bytes()[8] == genuine.read_bytes()[8] == 0  # the oldest form of HDF5


def comparable(owner):
    attributes = dict(owner.attrs)
    attributes.pop("key_idx", None)
    attributes.pop("np_dtype", None)
    return attributes


def test_a_failed_writing_leaves_what_was_there(path):
    write_hickle(path, {"a": np.ones(1)})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_hickle(path, {"a": np.ones(1), "b": object()})
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("packed", [{}, {"compression": "gzip"}], ids=["plain", "gzip"])
def test_files_of_todays_hickle_are_read(tmp_path, packed):
    hickle = pytest.importorskip("hickle", minversion="5")
    values = {
        "clip a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a/b c": np.arange(4.0),
        "größe 'x'": np.ones((1, 2), np.float16),
        "turned": np.arange(6, dtype=">i2").reshape(3, 2),
        "long": np.random.default_rng(0).random((400, 128), np.float32),
        "missing": float("nan"),
        "missing too": np.float64("nan"),
        "none": None,
    }
    hickle.dump(values, str(tmp_path / "x.hickle"), mode="w", **packed)
    found = dict(iter_hickle(tmp_path / "x.hickle"))
    assert found.keys() == values.keys()
    for key, value in values.items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(found[key], value)
        else:
            assert found[key] is None


def test_keys_of_todays_hickle_that_are_no_text_are_refused(tmp_path):
    hickle = pytest.importorskip("hickle", minversion="5")
    for number, key in enumerate((5, (1, 2))):
        hickle.dump({key: np.ones(2)}, str(tmp_path / f"{number}.hickle"), mode="w")
        with pytest.raises(DataError, match=rf"{number}\.hickle"):
            list(iter_hickle(tmp_path / f"{number}.hickle"))


def test_an_html_page_is_named(tmp_path):
    (tmp_path / "x.hickle").write_bytes(b"<!DOCTYPE html>" + bytes(100))
    with pytest.raises(DataError, match="HTML"):
        list(iter_hickle(tmp_path / "x.hickle"))
