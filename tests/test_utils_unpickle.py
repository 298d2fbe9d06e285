"""Pickles and checkpoints are read as data: what is right comes back, the rest is refused."""

import argparse
import collections
import contextlib
import gc
import math
import pathlib
import pickle
import subprocess
import sys
import tracemalloc
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils import pickle_machine
from utils.errors import CheckpointError, DataError, UnsafeFileError
from utils.pickle_machine import Builder, run_pickle
from utils.unpickle import ExpertStore, Opaque, dump_plain, load_plain, read_torch_checkpoint

ROOT = Path(__file__).resolve().parent.parent
MINIDATA = ROOT / "tests" / "data" / "minidata"
PROTOCOLS = range(6)


def same(ours, theirs):
    """Compare what we read with what Python's unpickler read, types included."""
    if isinstance(theirs, np.ndarray):
        return (
            isinstance(ours, np.ndarray)
            and ours.dtype == theirs.dtype.newbyteorder("=")
            and ours.shape == theirs.shape
            and np.array_equal(ours, theirs, equal_nan=True)
        )
    if isinstance(theirs, torch.Tensor):
        return ours.dtype == theirs.dtype and ours.shape == theirs.shape and equal(ours, theirs)
    if isinstance(theirs, (bytes, bytearray)):
        return bytes(ours) == bytes(theirs)
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if type(ours) is not type(theirs):
        return False
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs or (ours != ours and theirs != theirs)


def equal(ours, theirs):
    return torch.equal(torch.nan_to_num(ours.float()), torch.nan_to_num(theirs.detach().float()))


def save(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    return path


# Pickles that are right


KEY_NUMBERS = st.integers(-(2**64) + 1, 2**64 - 1)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
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
def test_plain_values_come_back_as_python_reads_them(value, protocol):
    content = pickle.dumps(value, protocol)
    assert same(read_bytes(content), pickle.loads(content))


def read_bytes(content):
    from utils.pickled_values import ValueBuilder

    return run_pickle(memoryview(content), ValueBuilder())


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
        assert ours.store_dtype == np.float16
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


def test_arrays_are_read_only_views_that_cost_no_memory(tmp_path):
    dump_plain({str(n): np.ones((1000, 1000), np.float32) for n in range(8)}, tmp_path / "x.pkl")
    tracemalloc.start()
    ours = load_plain(tmp_path / "x.pkl")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    with pytest.raises(ValueError, match="read-only"):
        ours["0"][0] = 1


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


def test_what_is_refused_is_named(tmp_path):
    path = save(tmp_path, pickle.dumps(pathlib.Path("/tmp")))
    with pytest.raises(UnsafeFileError, match=r"x\.pkl: refused: names pathlib"):
        load_plain(path)


def test_nothing_named_is_imported(tmp_path):
    path = save(tmp_path, b"cantigravity\nfly\n.")
    with pytest.raises(UnsafeFileError, match=r"antigravity\.fly"):
        load_plain(path)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (b"C\x01a", "a key of type bytes"),
        (b"]", "a key of type list"),
        (b"\x8a\x09" + bytes(8) + b"\x01", "a whole number of 65 bits as a key"),
    ],
)
def test_keys_that_are_refused(tmp_path, key, message):
    for content in (b"}" + key + b"Ns.", b"\x8f(" + key + b"\x90."):
        with pytest.raises(UnsafeFileError, match=message):
            load_plain(save(tmp_path, b"\x80\x04" + content))


def test_a_long_name_is_refused(tmp_path):
    path = save(tmp_path, b"cos\n" + b"x" * 2000 + b"\n.")
    with pytest.raises(UnsafeFileError, match="names something in 2002 letters"):
        load_plain(path)


@pytest.mark.parametrize("end", range(0, 200, 7))
def test_a_pickle_cut_short_is_damaged(tmp_path, end):
    content = pickle.dumps({"clip": np.ones(3), "other": [["a", "b"]] * 3}, 4)
    assert end < len(content)
    with pytest.raises(DataError, match=r"x\.pkl"):
        load_plain(save(tmp_path, content[:end]))


PIECES = {
    "lists": b"]",
    "dicts": b"}",
    "sets": b"\x8f",
    "tuples": b")\x85",
    "remembered": b"N\x94",
    "short bytes": b"C\x00",
    "short texts": b"\x8c\x02ab",
    "integers": b"M\x01\x02",
    "long integers": b"\x8a\x02\x01\x02",
    "floats": b"G" + bytes(8),
    "marks and tuples": b"(t",
    "names": b"ccollections\ndefaultdict\n",
    "reconstructed": b"h\x00h\x01R",
}


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_memory_is_a_small_multiple_of_the_file(tmp_path, piece):
    """Whatever instruction is repeated, the file is refused or takes at most 64 times its size."""
    start = (
        b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n\x94(cnumpy\nndarray\nK\x00\x85C\x01bt\x94("
    )
    path = save(tmp_path, start + piece * (200_000 // len(piece)) + b"l.")
    tracemalloc.start()
    with contextlib.suppress(DataError):
        load_plain(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * path.stat().st_size


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        {str(n): np.ones(4, np.float32) for n in range(9000)},
        {str(n): [["a"] for _ in range(5)] for n in range(9000)},
        {str(n): {"a": (n, [n])} for n in range(9000)},
        [set(map(str, range(n, n + 3))) for n in range(9000)],
    ],
    ids=["tiny arrays", "tiny captions", "tiny containers", "tiny sets"],
)
def test_real_values_stay_far_from_the_limit(monkeypatch, value, protocol):
    """The densest files that make sense use at most two thirds of the objects they may build."""
    monkeypatch.setattr(pickle_machine, "OBJECTS_FREE", 0)
    monkeypatch.setattr(pickle_machine, "BYTES_PER_OBJECT", 3)
    assert len(read_bytes(pickle.dumps(value, protocol))) == len(value)


def test_real_checkpoints_stay_far_from_the_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(pickle_machine, "OBJECTS_FREE", 0)
    monkeypatch.setattr(pickle_machine, "BYTES_PER_OBJECT", 3)
    steps = {n: {"step": torch.tensor(1.0), "a": torch.zeros(1, 1)} for n in range(3000)}
    torch.save({"optimizer": {"state": steps}}, tmp_path / "x.pth")
    assert len(read_torch_checkpoint(tmp_path / "x.pth")["optimizer"]["state"]) == 3000


def test_the_plain_machine_refuses_every_name():
    for content, message in [
        (b"cos\nsystem\n.", "os.system"),
        (b"N)R.", "calls NoneType"),
        (b"NNb.", "state of NoneType"),
        (b"NQ.", "outside the file"),
        (b"NNa.", "appends to NoneType"),
        (b"NNNs.", "items of NoneType"),
    ]:
        with pytest.raises(UnsafeFileError, match=message):
            run_pickle(memoryview(content), Builder())


# Checkpoints


def state():
    """Everything a checkpoint of ours or of others may hold."""
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    layer = torch.nn.Linear(3, 2)
    return {
        "state_dict": layer.state_dict(),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "views": [base, base[1:, ::2], base.T, base.reshape(-1)[5]],
        "kinds": {
            str(dtype): torch.ones(3, 2).to(dtype)
            for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.uint8,
                          torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16)
        },
        "empty": [torch.empty(0), torch.empty(3, 0), torch.tensor(2.5)],
        "numbers": [1, 2**200, -1, 0.5, float("nan"), None, True, "ü", b"bytes", (1, (2,))],
        "generators": [torch.get_rng_state(), (3, tuple(range(2**31, 2**31 + 9)))],
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{}]},
    }  # fmt: skip


def test_checkpoints_come_back_as_torch_reads_them(tmp_path):
    torch.save(state(), tmp_path / "x.pth")
    ours = read_torch_checkpoint(tmp_path / "x.pth")
    theirs = torch.load(tmp_path / "x.pth", weights_only=True)
    assert same(ours, theirs)
    assert type(ours["state_dict"]) is dict
    assert type(ours["parameter"]) is torch.Tensor


def test_tensors_that_shared_their_numbers_still_do(tmp_path):
    base = torch.zeros(4)
    torch.save({"a": base, "b": base[2:]}, tmp_path / "x.pth")
    ours = read_torch_checkpoint(tmp_path / "x.pth")
    ours["a"][3] = 7
    assert ours["b"].tolist() == [0, 7]


def test_changing_a_tensor_leaves_the_file_alone(tmp_path):
    torch.save({"a": torch.zeros(4)}, tmp_path / "x.pth")
    read_torch_checkpoint(tmp_path / "x.pth")["a"].fill_(1)
    assert read_torch_checkpoint(tmp_path / "x.pth")["a"].tolist() == [0] * 4


def released(monkeypatch):
    """Such an object as released checkpoints hold; its class is gone when they are read."""
    module = types.ModuleType("parse_config")
    module.ConfigParser = type("ConfigParser", (), {"__module__": "parse_config"})
    monkeypatch.setitem(sys.modules, "parse_config", module)
    held = module.ConfigParser()
    held.args = argparse.Namespace(device="0", config="configs/a.json")
    held.save_dir = pathlib.PosixPath("data/saved/models")
    held.best = np.float64(0.25)
    held.table = collections.OrderedDict(a=1)
    return held


def test_foreign_objects_stay_inert(tmp_path, monkeypatch):
    held = released(monkeypatch)
    weights = torch.nn.Linear(2, 2).state_dict()
    torch.save({"state_dict": weights, "config": held, "monitor_best": held.best}, tmp_path / "x")
    monkeypatch.delitem(sys.modules, "parse_config")
    ours = read_torch_checkpoint(tmp_path / "x")
    assert same(ours["state_dict"], dict(weights))
    assert ours["monitor_best"] == 0.25
    assert type(ours["monitor_best"]) is float
    config = ours["config"]
    assert isinstance(config, Opaque)
    assert config.name == "parse_config.ConfigParser"
    assert config.state["save_dir"] == "data/saved/models"
    assert config.state["args"].name == "argparse.Namespace"
    assert config.state["args"].state == {"device": "0", "config": "configs/a.json"}
    assert config.state["table"] == {"a": 1}
    assert "parse_config" not in sys.modules


class Listed(list):
    pass


class Keyed(dict):
    pass


def test_foreign_lists_and_dicts_keep_their_items(tmp_path):
    torch.save({"list": Listed([1, 2]), "dict": Keyed(a=1)}, tmp_path / "x.pth")
    ours = read_torch_checkpoint(tmp_path / "x.pth")
    assert ours["list"].items == [1, 2]
    assert ours["dict"].items == [("a", 1)]


def test_checkpoints_saved_without_checksums_are_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(3)}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_torch_checkpoint(tmp_path / "x.pth")["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_tensors_of_numbers_that_torch_cannot_check_are_refused(tmp_path, dtype):
    torch.save({"state_dict": {"a": torch.ones(2).to(dtype)}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=rf"x\.pth: holds a tensor of {dtype}; convert it"):
        read_torch_checkpoint(tmp_path / "x.pth")


def test_naming_a_part_of_torch_imports_nothing(tmp_path):
    """In a process of its own: this one may have imported it already."""
    torch.save({"a": 1, "kind": torch.float32}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content.replace(b"ctorch\nfloat32\n", b"ctorch\n_dynamo\n"))
    program = (
        "import sys; from utils.unpickle import read_torch_checkpoint\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "print(read_torch_checkpoint(sys.argv[1])['kind'].name)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "y.pth"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (run.stdout, run.stderr) == ("torch._dynamo\n", "")


def test_types_of_numbers_come_back(tmp_path):
    torch.save({"a": torch.float16, "b": torch.float8_e5m2}, tmp_path / "x.pth")
    assert read_torch_checkpoint(tmp_path / "x.pth") == {
        "a": torch.float16,
        "b": torch.float8_e5m2,
    }


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"x\.pth is missing"):
        read_torch_checkpoint(tmp_path / "x.pth")


def test_the_old_format_is_refused_with_advice(tmp_path):
    torch.save(state(), tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="load and save it anew"):
        read_torch_checkpoint(tmp_path / "x.pth")


def test_what_is_no_dict_is_refused(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds list, not a checkpoint's dict"):
        read_torch_checkpoint(tmp_path / "x.pth")


def test_any_cut_and_any_changed_byte_of_the_numbers_is_noticed(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.arange(200.0)}, path)
    content = path.read_bytes()
    for end in range(0, len(content), 61):
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError):
            read_torch_checkpoint(path)
    with zipfile.ZipFile(tmp_path / "y", "w"):
        start = content.index(torch.arange(200.0).numpy().tobytes())
    for at in range(start, start + 800, 37):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(CheckpointError, match="checksum"):
            read_torch_checkpoint(path)


def test_a_checkpoint_takes_no_more_memory_than_its_size(tmp_path):
    torch.save({"a": torch.zeros(1 << 20), "b": np.zeros(3)}, tmp_path / "x.pth")
    tracemalloc.start()
    read_torch_checkpoint(tmp_path / "x.pth")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20  # besides the tensors, which tracemalloc does not see
