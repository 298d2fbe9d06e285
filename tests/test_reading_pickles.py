"""Pickles are read as data: what is right comes back, the rest is refused."""

import collections
import gc
import io
import math
import pathlib
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import DataError, UnsafeFileError
from utils.reading.instructions import check_instructions
from utils.reading.pickles import ExpertStore, dump_plain, load_plain
from values import same

ROOT = Path(__file__).resolve().parent.parent
MINIDATA = ROOT / "tests" / "data" / "minidata"
PROTOCOLS = range(6)


def save(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pickles")


# Pickles that are right


KEY_NUMBERS = st.integers(-(2**63), 2**63 - 1)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text()
    | st.binary(min_size=1)
    | st.sets(st.text() | KEY_NUMBERS)
    | st.frozensets(st.text()),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.tuples(inner, inner, inner, inner)
        | st.dictionaries(st.text() | KEY_NUMBERS | st.none(), inner)
    ),
    max_leaves=30,
)


@given(value=PLAIN, protocol=st.sampled_from(PROTOCOLS))
def test_plain_values_come_back_as_python_reads_them(folder, value, protocol):
    content = pickle.dumps(value, protocol)
    assert same(load_plain(save(folder, content)), pickle.loads(content))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "i8", ">i2", "u4", "?"])
@pytest.mark.parametrize("shape", [(0,), (3,), (1, 4), (5, 7), (0, 3), (2, 3, 2), ()])
def test_arrays_come_back(tmp_path, protocol, dtype, shape):
    array = np.asarray(np.random.default_rng(0).random(shape) * 100).astype(dtype)
    dump_plain({"a": array, "b": [array, array.T]}, tmp_path / "x.pkl", protocol)
    ours = load_plain(tmp_path / "x.pkl")
    assert same(ours["a"], array)
    assert same(ours["b"], [array, array.T])
    assert ours["a"].dtype.isnative


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_object_in_two_places_stays_one(tmp_path, protocol):
    array, shared = np.ones(3, np.float32), ["x"]
    dump_plain([array, {"a": array, "b": shared}, shared], tmp_path / "x.pkl", protocol)
    ours = load_plain(tmp_path / "x.pkl")
    assert ours[0] is ours[1]["a"]
    assert ours[2] is ours[1]["b"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numbers_of_numpy_become_numbers(tmp_path, protocol):
    values = [np.float32(1.5), np.float64("nan"), np.int64(-3), np.float16(2), np.bool_(True)]
    dump_plain(values, tmp_path / "x.pkl", protocol)
    ours = load_plain(tmp_path / "x.pkl")
    assert [type(value) for value in ours] == [float, float, int, float, bool]
    assert ours[0] == 1.5
    assert math.isnan(ours[1])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ordered_and_default_dicts_become_dicts(tmp_path, protocol):
    kept = collections.defaultdict(list, {"a": [1]})
    dump_plain([collections.OrderedDict(b=1, a=2), kept], tmp_path / "x.pkl", protocol)
    ours = load_plain(tmp_path / "x.pkl")
    assert ours == [{"b": 1, "a": 2}, {"a": [1]}]
    assert [type(value) for value in ours] == [dict, dict]
    assert list(ours[0]) == ["b", "a"]


# What Python 2.7 with numpy 1.16 writes for {"gr\xc3\xb6\xc3\x9fe": array([1.5, -2], "f4")}.
PYTHON_2 = {
    0: b"(dp0\nS'gr\\xc3\\xb6\\xc3\\x9fe'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\n"
    b"ndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'f4'\np10\n"
    b"I0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\n"
    b"S'\\x00\\x00\\xc0?\\x00\\x00\\x00\\xc0'\np15\ntp16\nbs.",
    2: b"\x80\x02}q\x01U\x07gr\xc3\xb6\xc3\x9feq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03"
    b"cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02\x85cnumpy\ndtype\nq\x06U\x02f4"
    b"K\x00K\x01\x87Rq\x07(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
    b"\x00\x00\xc0?\x00\x00\x00\xc0tbs.",
}


@pytest.mark.parametrize("protocol", PYTHON_2)
def test_python_2_pickles_come_back_with_latin_1_text(tmp_path, protocol):
    theirs = pickle.loads(PYTHON_2[protocol], encoding="latin1")
    ours = load_plain(save(tmp_path, PYTHON_2[protocol]))
    assert same(ours, theirs)
    assert list(ours) == ["größe".encode().decode("latin-1")]
    assert ours.popitem()[1].tolist() == [1.5, -2.0]


@pytest.mark.parametrize("path", sorted(MINIDATA.rglob("*.p*kl*")), ids=lambda path: path.name)
def test_published_files_come_back(path):
    ours = load_plain(path)
    theirs = published(path)
    if isinstance(ours, ExpertStore):
        theirs.__dict__.pop("store_dtype")
        assert all(same(getattr(ours, name), value) for name, value in theirs.__dict__.items())
    else:
        assert same(ours, theirs)


def published(path):
    """Read a file that we wrote down ourselves as Python does."""
    store = type("ExpertStore", (), {})

    class Theirs(pickle.Unpickler):
        def find_class(self, module, name):
            return store if name == "ExpertStore" else super().find_class(module, name)

    with path.open("rb") as file:
        return Theirs(file).load()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "module", ["datastructures", "utils.datastructures", "zsvision.zs_data_structures"]
)
def test_expert_stores_are_known_by_three_names(tmp_path, monkeypatch, module, protocol):
    theirs = types.ModuleType(module)
    theirs.ExpertStore = type("ExpertStore", (), {"__module__": module})
    monkeypatch.setitem(sys.modules, module, theirs)
    monkeypatch.setitem(sys.modules, "zsvision", types.ModuleType("zsvision"))
    store = theirs.ExpertStore()
    rows = np.arange(6, dtype=np.float16).reshape(3, 2)
    store.__dict__.update(
        keys=["a", "b", "c"], dim=2, store_dtype=np.float16, store=rows,
        keymap={"a": 0, "b": 1, "c": 2}, missing={"b"}, later_addition=[1],
    )  # fmt: skip
    dump_plain(store, tmp_path / "x.pkl", protocol)
    ours = load_plain(tmp_path / "x.pkl")
    assert isinstance(ours, ExpertStore)
    assert same(ours.store, rows)
    assert (ours.keys, ours.dim, ours.missing) == (["a", "b", "c"], 2, {"b"})
    assert ours.keymap == {"a": 0, "b": 1, "c": 2}


def test_arrays_are_read_only(tmp_path):
    dump_plain({"a": np.ones(3, np.float32)}, tmp_path / "x.pkl")
    with pytest.raises(ValueError, match="read-only"):
        load_plain(tmp_path / "x.pkl")["a"][0] = 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_text_come_back(tmp_path, protocol):
    words = np.array(["größe", "dog"])
    dump_plain({np.str_("clip"): [words]}, tmp_path / "x.pkl", protocol)
    ours = load_plain(tmp_path / "x.pkl")
    assert type(next(iter(ours))) is str
    assert ours["clip"][0].tolist() == ["größe", "dog"]


def test_the_garbage_collector_is_as_before(tmp_path):
    dump_plain([1], tmp_path / "x.pkl")
    load_plain(tmp_path / "x.pkl")
    assert gc.isenabled()
    gc.disable()
    try:
        load_plain(tmp_path / "x.pkl")
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(DataError):
        load_plain(save(tmp_path, b"\x80\x02"))
    assert gc.isenabled()


# Pickles that are not (tests/hostile_corpus.py has many more)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (pickle.dumps(pathlib.PurePosixPath("/tmp")), "pathlib"),
        (b"cantigravity\nfly\n.", "antigravity.fly"),
        (b"cos\n\x1b[2J" + b"x" * 10**6 + b"\n.", "os."),
    ],
)
def test_a_name_that_is_not_allowed_is_shown_and_not_imported(tmp_path, content, name):
    path = save(tmp_path, content)
    with pytest.raises(UnsafeFileError) as caught:
        load_plain(path)
    message = str(caught.value)
    assert str(path) in message
    assert name in message
    assert message.isprintable()
    assert len(message) < 400
    assert "antigravity" not in sys.modules


def test_tensors_inside_a_pickle_are_named_with_the_remedy(tmp_path):
    torch = pytest.importorskip("torch")
    with pytest.raises(UnsafeFileError, match=r"\.numpy\(\)"):
        load_plain(save(tmp_path, pickle.dumps({"clip": torch.ones(2)})))


@pytest.mark.parametrize("end", range(0, 200, 7))
def test_a_pickle_cut_short_is_damaged(tmp_path, end):
    content = pickle.dumps({"clip": np.ones(3), "other": [["a", "b"]] * 3}, 4)
    assert end < len(content)
    with pytest.raises(DataError, match=r"x\.pkl"):
        load_plain(save(tmp_path, content[:end]))


def test_a_file_cannot_change_what_the_next_one_reads(tmp_path):
    """BUILD on what a name stands for would change it for the whole process."""
    for name in (b"numpy\nfloat16", b"numpy.core.multiarray\nscalar", b"numpy\ndtype",
                 b"datastructures\nExpertStore", b"builtins\nset"):  # fmt: skip
        state = b"(N}\x8c\x0b__setstate__Nst"
        with pytest.raises(DataError):
            load_plain(save(tmp_path, b"\x80\x04c" + name + b"\n" + state + b"b."))
    dump_plain({"a": np.ones(2)}, tmp_path / "y.pkl")
    assert load_plain(tmp_path / "y.pkl")["a"].tolist() == [1, 1]


DEEP = b")" + b"\x85" * 60


@pytest.mark.parametrize(
    "content",
    [
        DEEP + b".",
        b"}" + DEEP + b"Ns.",
        b")" + b"\x85N0" * 60 + b".",  # with instructions between that change nothing
        b")" + b"\x85q\x000h\x00" * 60 + b".",
        b")" + b"\x85Nb" * 60 + b".",
        b")" + b"(h\x00t" * 0 + b"\x85(1" * 60 + b".",
        b"N" + b"N\x86" * 60 + b".",
        b"N(" + b"N(" * 60 + b"t" * 61 + b"\x86.",
    ],
)
def test_tuples_in_tuples_without_end_are_refused(tmp_path, content):
    """Hashing such a tuple overflows the stack of C, which ends the process."""
    with pytest.raises(UnsafeFileError, match="nested"):
        load_plain(save(tmp_path, b"\x80\x02" + content))


def test_instructions_are_judged_and_not_followed():
    check_instructions(io.BytesIO(b"cos\nsystem\n(S'x'\ntR."))
    for content, error in [
        (b"r\xff\xff\xff\x7f.", DataError),
        (b"}r\xff\xff\xff\x7f.", UnsafeFileError),
        (b"h\x05.", DataError),
        (b"\x85.", DataError),
        (b"t.", DataError),
        (b"\x8a\x09" + bytes(8) + b"\x01.", UnsafeFileError),
    ]:
        with pytest.raises(error):
            check_instructions(io.BytesIO(content))
