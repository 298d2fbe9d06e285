"""Files made to do harm, one generator each, and what became of reading them.

    python tests/hostile_corpus.py          prints the table of cases and outcomes

No such file is kept: every case is made in a temporary folder. A reading runs with 1 GiB of memory
to take, under an audit hook that notes processes, connections and files written elsewhere.
"""
# ruff: noqa: E501  one case, one line: the tables below are read like tables

import argparse
import contextlib
import gzip
import io
import json
import os
import pickle
import re
import struct
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import h5py
import numpy as np

from data_loader.readers import read_captions, read_features, read_text_features
from surroundings import working_in
from trainer.checkpoint import load_checkpoint
from utils.config import load_config
from utils.errors import DataError
from utils.files import read_json, read_list
from utils.reading.unpacking import unpack, verify_unpacked
from watching import Watch, bounded_memory, read_once

CANARY = "was-executed"
COMMAND = f"touch {CANARY}"
"""What the attacks would run; the tests look for the file."""


@dataclass(frozen=True)
class Case:
    """`make(path)` writes the file; reading must end with `outcome` and a message with `says`."""

    kind: str
    name: str
    suffix: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    outcome: str = "refused"
    says: str = ""


@dataclass(frozen=True)
class Kind:
    """The constructor of a table of cases: what they are called, and what reads them."""

    name: str
    suffix: str
    read: Callable[[Path], object]

    def __call__(self, name, content, says="", *, outcome="refused", read=None):
        make = content if callable(content) else lambda path: path.write_bytes(content)
        return Case(self.name, name, self.suffix, make, read or self.read, outcome, says)


def listed(read):
    """Read to the end what is read piece by piece."""
    return lambda path: list(read(path))


OTHER_KINDS = (
    ("an HTML page", b"<!DOCTYPE html><p>Not found", "HTML"),
    ("a page without a head", b"<html><head>404", "HTML"),
    ("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ("a gzip file", b"\x1f\x8b\x08\0", "gunzip"),
    ("an HDF5 file", b"\x89HDF\r\n\x1a\n", "HDF5"),
)


# Pickles


def text(value):
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def name(full):
    module, _, attribute = full.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(full, *arguments):
    return name(full) + b"(" + b"".join(arguments) + b"tR"


def number(value):
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def array(
    shape,
    dtype="f4",
    content=b"\0" * 4,
    state=b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
):
    """A numpy array as Python 2 pickled it, with whatever shape and type."""
    made = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), b"(K\x00t", b"U\x01b")
    kind = call("numpy.dtype", text(dtype), b"K\x00", b"K\x01") + state
    sizes = b"(" + b"".join(map(number, shape)) + b"t"
    data = content if content[:1] == b"]" else b"T" + struct.pack("<I", len(content)) + content
    return made + b"(K\x01" + sizes + kind + b"\x89" + data + b"tb"


def clips(value, key=None):
    """A pickle of {clip: value}."""
    return b"\x80\x02}" + (key or text("clip")) + value + b"s."


def expert_store(**state):
    """A pickle of an ExpertStore with the given instructions as its fields."""
    fields = b"".join(text(key) + value for key, value in state.items())
    return b"\x80\x02" + name("utils.datastructures.ExpertStore") + b")\x81}(" + fields + b"ub."


def again(repeated, *remembered):
    """Instructions for a list of `repeated` 40,000 times; h0, h1, ... stand for `remembered`."""
    kept = b"".join(value + b"q" + bytes([n]) + b"0" for n, value in enumerate(remembered))
    return kept + b"(" + repeated * 40_000 + b"l"


LONG = 200_000
CALL_AGAIN = b"h\x00h\x01R"
BIG_ENDIAN = b"(K\x03U\x01>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
NUMBERS = b"".join(b"M" + struct.pack("<H", n) for n in range(1 << 16))
PAIRS = b"".join(b"M" + struct.pack("<H", n) + b"N\x86" for n in range(1 << 16))
COLLIDING = b"".join(number(n * (2**61 - 1)) + b"N" for n in range(LONG))


class Runs:
    def __reduce__(self):
        return os.system, (COMMAND,)


def shared_array(path):
    """One array of 4 MB under 2,000 names: 8 GB for whoever writes the clips down."""
    path.write_bytes(
        b"\x80\x02}(" + text("clip") + array((1 << 20,), content=bytes(4 << 20)) + b"q\x00"
        + b"".join(text(f"clip {n}") + b"h\x00" for n in range(2000)) + b"u."
    )  # fmt: skip


EVAL = f"__import__('os').system('{COMMAND}')"
CALLED = {
    **dict.fromkeys(("os.system", "subprocess.Popen", "operator.attrgetter"), COMMAND),
    **dict.fromkeys(("builtins.eval", "builtins.exec"), EVAL),
    **dict.fromkeys(("numpy.load", "numpy.fromfile"), "/etc/passwd"),
    "importlib.import_module": "antigravity",
}
features = Kind("pickle", ".pkl", listed(read_features))
PICKLES = [
    *(features(f"a call of {full}", clips(call(full, text(given))), re.escape(full)) for full, given in CALLED.items()),
    features("posix.system, as pickle writes it", pickle.dumps(Runs()), r"names posix\.system"),
    features("__builtin__.eval in protocol 0", f"c__builtin__\neval\n(S\"{EVAL}\"\ntR.".encode(), "eval"),
    features("builtins.getattr", clips(call("builtins.getattr", b"}", text("get"))), "getattr"),
    features("functools.partial", clips(call("functools.partial", name("os.system"))), "functools|os"),
    features("a call as the name of a clip", clips(b"K\x01", call("os.system", text(COMMAND))), "os.system"),
    features("a call deep inside lists", clips(b"]" * 50 + call("os.system", text(COMMAND)) + b"a" * 50), "os.system"),
    features("a call in an ExpertStore", expert_store(store=call("os.system", text(COMMAND))), "os.system"),
    features("a class of ours that is no data", clips(name("utils.files.atomic_writer") + b")R"), "utils.files"),
    features("copyreg._reconstructor of a foreign class", clips(call("copyreg._reconstructor", name("os.PathLike"), name("builtins.object"), b"N")), "os.PathLike"),
    features("numpy: a function that runs text", clips(call("numpy.testing._private.utils.runstring", text(EVAL), b"}")), "runstring"),
    features("numpy: an array of class memmap", clips(call("numpy.core.multiarray._reconstruct", name("numpy.memmap"), b")", b"U\x01b")), "memmap"),
    features("numpy: _reconstruct of a huge shape", clips(call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), b"(" + number(1 << 60) + b"t", b"U\x01b")), ""),
    features("numpy: an array of objects", clips(array((1,), "O8", b"]" + call("os.system", text(COMMAND)) + b"a")), "'O8'"),
    features("numpy: items of two gigabytes", clips(array((1,), "V2147483647")), "V2147483647"),
    features("numpy: records", clips(array((1,), state=b"(K\x03U\x01|N(U\x01att}K\x04K\x01K\x10tb")), ""),
    features("numpy: a shape of a trillion", clips(array((10**12,))), "in 4 bytes"),
    features("numpy: a shape that overflows", clips(array((2**62, 4), content=b"")), "in 0 bytes"),
    features("numpy: a negative shape", clips(array((-1,))), "impossible shape"),
    features("numpy: a thousand dimensions", clips(array((1,) * 1000)), "impossible shape"),
    features("numpy: _frombuffer of objects", b"\x80\x05}" + text("clip") + call("numpy.core.numeric._frombuffer", b"C\x08" + bytes(8), call("numpy.dtype", text("O8"), b"\x89", b"\x88"), b"K\x01\x85", text("C")) + b"s.", "'O8'"),
    features("numpy: a scalar of a huge type", clips(call("numpy.core.multiarray.scalar", call("numpy.dtype", text("V999999999"), b"K\x00", b"K\x01"), b"U\x00")), "V999999999"),
    features("memo bomb: entry two billion", b"\x80\x02}r\xff\xff\xff\x7f."),
    features("bytes that declare 2^62", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"."),
    features("a frame that declares 2^62", b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}."),
    features("bytearray(10^12)", clips(call("builtins.bytearray", number(10**12))), "bytearray"),
    features("range, list and sum of it", clips(call("builtins.sum", call("builtins.range", number(10**12)))), "builtins"),
    features("a million lists", b"\x80\x02(" + b"]" * 1_000_000 + b"l."),
    features("a million marks", b"\x80\x02" + b"(" * 1_000_000 + b"."),
    features("nested tuples as the name of a clip", clips(b"N", b")" + b"\x85" * 9_000)),
    features("a list inside itself", clips(b"]q\x00h\x00a"), "found a list"),
    features("a dict inside itself", b"\x80\x02}q\x00" + text("clip") + b"h\x00s.", "found a dict"),
    features("a dict whose names are lists", clips(b"N", b"]")),
    features("one text encoded again and again", clips(again(CALL_AGAIN, name("_codecs.encode"), b"(" + text("x" * LONG) + text("latin1") + b"t"))),
    features("one list made a set again and again", clips(again(CALL_AGAIN, name("builtins.set"), b"](" + NUMBERS + b"e\x85"))),
    features("one list made a dict again and again", clips(again(CALL_AGAIN, name("collections.OrderedDict"), b"](" + PAIRS + b"e\x85"))),
    features("keys whose hashes are all the same", b"\x80\x02}(" + COLLIDING + b"u."),
    features("an integer of 16 MB", clips(b"\x8b" + struct.pack("<I", 1 << 24) + b"\x7f" * (1 << 24)), "an integer of"),
    features("an integer of a million digits", b"(lL" + b"9" * 1_000_000 + b"L\na."),
    features("one array under 2,000 names", shared_array, "share"),
    features("a reference outside the file", clips(text("/etc/passwd") + b"Q"), "outside the file"),
    features("a registered extension", b"\x80\x02\x82\x01."),
    features("an old instance of a foreign class", f"(S'{COMMAND}'\nios\nsystem\n.".encode(), "os.system"),
    features("an instance built on the stack", b"(" + name("os.system") + text(COMMAND) + b"o.", "os.system"),
    features("the state of a list", b"\x80\x02]}" + text("__class__") + b"Nsb."),
    features("keywords of a call", b"\x80\x04" + name("collections.OrderedDict") + b")}" + text("a") + b"Ns\x92."),
    features("a pickle without an end", clips(b"K\x01")[:-1], "cut short"),
    features("a pickle that pops too much", b"\x80\x020000.", "cut short"),
    features("an ExpertStore without rows", expert_store(keys=b"]"), "without rows"),
    features("an ExpertStore whose rows lie outside", expert_store(store=array((1, 1)), keymap=b"}" + text("a") + b"K\x07s"), "row 7 of 1"),
    features("features with an infinity", clips(array((1,), content=struct.pack("<f", float("inf")))), "NaN or infinity"),
    features("an empty file", b"", "is empty"),
    *(features(label, content + bytes(100), remedy) for label, content, remedy in OTHER_KINDS),
    features("a zip archive", b"PK\x03\x04" + bytes(100), "zip"),
    features("a folder", lambda path: path.mkdir(), "is not a file"),
    features("a pipe", lambda path: os.mkfifo(path), "is not a file"),
    features("a link to a device", lambda path: path.symlink_to("/dev/zero"), "is not a file"),
    features("captions with HTML stay as they are", pickle.dumps({"clip": [["<script>alert(1)</script>", "&amp;", "\u202e"]]}), outcome="read", read=read_captions),
    features("captions that are no text", clips(b"]" + b"]K\x01aa"), "list of words", read=read_captions),
    features("one caption under many names", b"\x80\x02}(" + text("c") + b"]q\x00]q\x01" + text("x" * 100_000) + b"aa" + b"".join(text(f"c{n}") + b"h\x00" for n in range(5000)) + b"u.", "share", read=read_captions),
    features("text vectors in three dimensions", clips(b"]" + array((1, 1, 1)) + b"a"), "words, width", read=listed(read_text_features)),
]  # fmt: skip


# Checkpoints


def zipped(records, **how):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", **how) as archive:
        for record, content in records:
            archive.writestr(record, content)
    return packed.getvalue()


def checkpoint_of(program, *storages, more=()):
    """A checkpoint whose pickle is `program`, with storages 0, 1, ..."""
    records = [("m/data.pkl", b"\x80\x02" + program + b"."), ("m/byteorder", b"little")]
    records += [(f"m/data/{key}", content) for key, content in enumerate(storages)]
    return zipped([*records, ("m/version", b"3\n"), *more])


def state(*tensors):
    """Instructions for {"state_dict": {"0": tensor, ...}}."""
    items = b"".join(text(str(n)) + tensor for n, tensor in enumerate(tensors))
    return b"}" + text("state_dict") + b"}(" + items + b"us"


def storage(key=0, length=4, kind="torch.FloatStorage"):
    return (
        b"("
        + text("storage")
        + name(kind)
        + text(str(key))
        + text("cuda:0")
        + number(length)
        + b"tQ"
    )


def tensor(made=None, offset=0, size=(2, 2), stride=(2, 1)):
    sizes, strides = (b"(" + b"".join(map(number, values)) + b"t" for values in (size, stride))
    hooks = call("collections.OrderedDict")
    return call(
        "torch._utils._rebuild_tensor_v2",
        made or storage(),
        number(offset),
        sizes,
        strides,
        b"\x89",
        hooks,
    )


FOUR = bytes(16)
GOOD = state(tensor())


def duplicate_records(path):
    path.write_bytes(
        checkpoint_of(
            GOOD, FOUR, more=[("m/dataXpkl", b"\x80\x02" + call("os.system", text(COMMAND)) + b".")]
        ).replace(b"m/dataXpkl", b"m/data.pkl")
    )


def overlapping_records(path):
    """A thousand records that all lie in the same megabyte."""
    body = bytes(1 << 20)
    content = bytearray(zipped([("m/data.pkl", b"\x80\x02}."), ("m/data/0", body)]))
    directory = content.rindex(b"PK\x01\x02")
    entry = bytes(content[directory : content.index(b"PK\x05\x06")])
    more = b"".join(entry.replace(b"m/data/0", f"n{n:07d}".encode()) for n in range(1000))
    end = content.index(b"PK\x05\x06")
    count, size = 1002, end - content.index(b"PK\x01\x02") + len(more)
    tail = bytearray(content[end:])
    tail[8:16] = struct.pack("<HHI", count, count, size)
    path.write_bytes(bytes(content[:end]) + more + bytes(tail))


def patched(content, old, new, count=-1):
    assert old in content
    return content.replace(old, new, count)


def encrypted(path):
    content = bytearray(checkpoint_of(GOOD, FOUR))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


checkpoint = Kind("checkpoint", ".pth", load_checkpoint)
CHECKPOINTS = [
    checkpoint("posix.system in the optimizer", checkpoint_of(GOOD[:-1] + b"s" + text("optimizer") + call("posix.system", text(COMMAND)) + b"s", FOUR), r"posix\.system"),
    *(checkpoint(f"a call of {full}", checkpoint_of(call(full, text(given))), full.rpartition(".")[2]) for full, given in CALLED.items()),
    checkpoint("sys.modules", checkpoint_of(name("sys.modules")), r"sys\.modules"),
    checkpoint("torch.hub.load", checkpoint_of(GOOD + text("config") + call("torch.hub.load", text("a/b"), text("c")) + b"s", FOUR), "torch.hub.load"),
    checkpoint("a foreign class with state stays inert", checkpoint_of(GOOD + text("config") + name("parse_config.ConfigParser") + b")\x81}" + text("a") + b"K\x01sbs", FOUR), outcome="read"),
    checkpoint("a stand-in of ours by its name", checkpoint_of(GOOD + text("config") + name("utils.reading.checkpoints.Opaque") + b")\x81}bs", FOUR), "Opaque"),
    checkpoint("a foreign class as the whole", checkpoint_of(name("evil.Model") + b")\x81}b")),
    checkpoint("torch.FloatStorage(10^12)", checkpoint_of(call("torch.FloatStorage", number(10**12)))),
    checkpoint("torch.Tensor of 10^12", checkpoint_of(GOOD + text("a") + call("torch.Tensor", number(10**12)) + b"s", FOUR)),
    checkpoint("bytearray(10^12)", checkpoint_of(call("builtins.bytearray", number(10**12)))),
    checkpoint("a tensor for the named arguments of a call", checkpoint_of(name("collections.OrderedDict") + b")" + tensor() + b"\x92", FOUR)),
    checkpoint("a part of torch that is imported when asked for", checkpoint_of(GOOD + text("a") + name("torch._dynamo") + b"s", FOUR), "torch._dynamo"),
    checkpoint("weights in numbers of 8 bits", checkpoint_of(state(call("torch._utils._rebuild_tensor_v3", storage(length=16, kind="torch.storage.UntypedStorage"), b"K\x00", b"K\x10\x85", b"K\x01\x85", b"\x89", call("collections.OrderedDict"), name("torch.float8_e4m3fn"))), FOUR), "holds a tensor of torch.float8_e4m3fn; convert it"),
    checkpoint("a tensor that starts outside its storage", checkpoint_of(state(tensor(offset=100)), FOUR)),
    checkpoint("strides that reach outside", checkpoint_of(state(tensor(stride=(2**39, 1))), FOUR)),
    checkpoint("sizes of a trillion by strides of 0", checkpoint_of(state(tensor(size=(10**12,), stride=(0,))), FOUR)),
    checkpoint("negative strides", checkpoint_of(state(tensor(stride=(-2, 1))), FOUR)),
    checkpoint("an empty tensor that starts outside", checkpoint_of(state(tensor(offset=9, size=(0, 2**39))), FOUR), outcome="read"),
    checkpoint("an empty tensor of 2^39 columns", checkpoint_of(state(tensor(size=(0, 2**39))), FOUR), outcome="read"),
    checkpoint("an empty tensor whose sizes overflow", checkpoint_of(state(tensor(size=(0, 2**39, 2**39), stride=(0, 0, 0))), FOUR), "cannot be computed with"),
    checkpoint("a tensor of a thousand dimensions", checkpoint_of(state(tensor(size=(1,) * 1000, stride=(1,) * 1000)), FOUR)),
    checkpoint("a tensor of 64 dimensions", checkpoint_of(state(tensor(size=(1,) * 64, stride=(1,) * 64)), FOUR), outcome="read"),
    checkpoint("sizes and strides that differ in number", checkpoint_of(state(tensor(stride=(1,))), FOUR)),
    checkpoint("a storage longer than its record", checkpoint_of(state(tensor(storage(length=10**12))), FOUR)),
    checkpoint("a storage that holds half a number", checkpoint_of(GOOD, bytes(15))),
    checkpoint("a storage that is not there", checkpoint_of(state(tensor(storage(key=7))), FOUR)),
    checkpoint("a storage named outside the archive", checkpoint_of(state(tensor(storage(key="../../x"))), FOUR)),
    checkpoint("a storage of a foreign type", checkpoint_of(state(tensor(storage(kind="evil.Storage"))), FOUR), ""),
    checkpoint("a sparse tensor of a huge size", checkpoint_of(state(call("torch._utils._rebuild_sparse_tensor", b"N", b"(" + number(10**12) + b"t")), FOUR)),
    checkpoint("weights that are no numbers", checkpoint_of(state(tensor()), struct.pack("<4f", 1, 2, float("nan"), 4)), "NaN"),
    checkpoint("records that unpack to much more", zipped([("m/data.pkl", bytes(1 << 24))], compression=zipfile.ZIP_DEFLATED)),
    checkpoint("two records of one name", duplicate_records),
    checkpoint("two records of one name but for the case", checkpoint_of(GOOD, FOUR, more=[("m/DATA.PKL", b"\x80\x02}.")]), "one name"),
    checkpoint("two pickles", zipped([("a/data.pkl", b"}."), ("b/data.pkl", b"}.")])),
    checkpoint("a record named ../../x", checkpoint_of(GOOD, FOUR, more=[("../../x", b"")])),
    checkpoint("a thousand records in one place", overlapping_records),
    checkpoint("an encrypted record", encrypted, "encrypted"),
    checkpoint("a record of a size beyond the file", patched(checkpoint_of(GOOD, FOUR), struct.pack("<II", 16, 16), struct.pack("<II", 2**31, 2**31))),
    checkpoint("an archive with a second end in its comment", lambda path: path.write_bytes(patched(checkpoint_of(GOOD, FOUR), b"\0\0", b"\0\0", 0)[:-2] + struct.pack("<H", 22) + b"PK\x05\x06" + bytes(18)), ""),
    checkpoint("a program in front of the archive", b"#!/bin/sh\ntouch was-executed\n" + checkpoint_of(GOOD, FOUR)),
    checkpoint("one flipped bit in the weights", patched(checkpoint_of(GOOD, b"\x01" * 16), b"\x01" * 16, b"\x01" * 15 + b"\x03"), "CRC"),
    checkpoint("the format before PyTorch 1.6, with a call", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(Runs(), 2), "posix.system"),
    checkpoint("another byte order", patched(checkpoint_of(GOOD, FOUR), b"little", b"bigbig")),
    checkpoint("a pickle of 100 MB", zipped([("m/data.pkl", b"\x80\x02" + b"N0" * 50_000_000 + b"}.")]), "its pickle takes"),
    checkpoint("no archive at all", b"PK\x03\x04" + bytes(1000), "damaged or cut short"),
    checkpoint("an empty file", b"", "is empty"),
    *(checkpoint(label, content + bytes(100), remedy) for label, content, remedy in OTHER_KINDS),
    checkpoint("a pickle", b"\x80\x04}." + bytes(100), "is a pickle"),
]  # fmt: skip


# HDF5


@contextlib.contextmanager
def hickle(path, **how):
    """A .hickle file to add clips to."""
    with h5py.File(path, "w", **how) as file:
        folder = file.create_group("data")
        folder.attrs["base_type"] = "dict"
        yield file, folder


def clip(folder, key="'clip'"):
    item = folder.create_group(key)
    item.attrs["base_type"] = "dict_item"
    return item


def value(item, kind="ndarray", **how):
    dataset = item.create_dataset("data", **({"data": np.zeros((2, 3), "f4")} | how))
    dataset.attrs["base_type"] = kind
    return dataset


def hdf5(build, **how):
    """Make a file by `build(file, folder)`."""

    def make(path):
        with hickle(path, **how) as (file, folder):
            build(file, folder)

    return make


def with_link(link):
    def build(file, folder):
        clip(folder)["data"] = link(file) if callable(link) else link

    return hdf5(build)


def with_value(**how):
    return hdf5(lambda file, folder: value(clip(folder), **how))


def virtual(file, folder):
    layout = h5py.VirtualLayout((2, 3), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "data", (2, 3))
    clip(folder).create_virtual_dataset("data", layout).attrs["base_type"] = "ndarray"


def external_storage(file, folder):
    item = clip(folder)
    form = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    form.set_external(b"/etc/passwd", 0, 24)
    made = h5py.h5d.create(
        item.id, b"data", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((6,)), form
    )
    h5py.Dataset(made).attrs["base_type"] = "ndarray"


def unwritten(shape, **how):
    def build(file, folder):
        value(clip(folder), data=None, shape=shape, dtype="f4", **how)

    return hdf5(build)


def bomb(file, folder):
    """300 MB of zeros in 300 kB, in chunks that are each within measure."""
    value(clip(folder), data=np.zeros((75, 1 << 20), "f4"), compression="gzip", chunks=(1, 1 << 20))


def chunk_bomb(path):
    """A chunk of 1 MB whose gzip stream is 256 MB of zeros."""
    with hickle(path) as (_, folder):
        form = {"shape": (1 << 18,), "dtype": "f4", "chunks": (1 << 18,), "compression": "gzip"}
        made = value(clip(folder), data=None, **form)
        press = zlib.compressobj(9)
        stream = b"".join(press.compress(bytes(1 << 20)) for _ in range(256)) + press.flush()
        made.id.write_direct_chunk((0,), stream)


def many_names(file, folder):
    """One array of 1 MB under 5,000 names."""
    item = clip(folder)
    value(item, data=np.zeros((1, 1 << 18), "f4"))
    for n in range(5000):
        folder[f"'clip {n}'"] = item


def long_links(file, folder):
    """A group of seven links with long names, which 1,500 names lead to."""
    item = clip(folder)
    for n in range(7):
        item[str(n) + "x" * 60_000] = file
    value(item)
    for n in range(1500):
        folder[f"'clip {n}'"] = item


def circle(file, folder):
    clip(folder)["data"] = folder


def soft_circle(file, folder):
    file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")
    clip(folder)["data"] = h5py.SoftLink("/a")


def damaged_tree(path):
    """A tree of names whose node is its own child."""
    with hickle(path, libver="earliest") as (_, folder):
        for n in range(2000):
            value(clip(folder, f"'clip {n}'"))
    content = bytearray(path.read_bytes())
    # The node above the leaves is the one of level 1: let its first child be itself.
    at = content.index(b"TREE\x00\x01")
    content[at + 32 : at + 40] = struct.pack("<Q", at)
    path.write_bytes(content)


def damaged_header(path):
    """An object header that goes on in itself."""
    with hickle(path, libver="earliest") as (_, folder):
        made = value(clip(folder))
        for n in range(30):
            made.attrs[f"a{n}"] = n
        address = h5py.h5o.get_info(made.id).addr
    content = bytearray(path.read_bytes())
    at = address + 16
    while struct.unpack_from("<H", content, at)[0] != 0x10:
        at += 8 + struct.unpack_from("<H", content, at + 2)[0]
    content[address + 2 : address + 4] = b"\xff\xff"
    content[at + 8 : at + 24] = struct.pack("<QQ", address + 16, at + 24 - address - 16)
    path.write_bytes(content)


def in_two_files(path):
    with h5py.File(path, "w", driver="split") as file:
        file["data"] = 1
    Path(f"{path}-m.h5").rename(path)


def whole_pickle(path):
    with h5py.File(path, "w") as file:
        file["data"] = np.frombuffer(pickle.dumps(Runs()), "u1")
        file["data"].attrs["base_type"] = "pickle"


def in_front(content):
    def make(path):
        with hickle(path, userblock_size=512) as (_, folder):
            value(clip(folder))
        with path.open("r+b") as file:
            file.write(content)

    return make


def cut(path):
    with_value()(path)
    path.write_bytes(path.read_bytes()[:2000])


h5 = Kind("hdf5", ".hickle", listed(read_features))
REFERENCE = h5py.special_dtype(ref=h5py.Reference)
REGION = h5py.special_dtype(ref=h5py.RegionReference)
HDF5S = [
    h5("a link to another file", with_link(h5py.ExternalLink("/etc/passwd", "/data")), "link"),
    h5("a symbolic link", with_link(h5py.SoftLink("/data")), "link"),
    h5("symbolic links in a circle", hdf5(soft_circle), "link"),
    h5("a hard link to its own group", hdf5(circle), "nested value"),
    h5("a virtual dataset", hdf5(virtual, libver="v110"), "virtual|not supported"),
    h5("numbers kept in another file", hdf5(external_storage), "another file"),
    h5("a shape of 4 TB that was never written", unwritten((1 << 20, 1 << 20)), "times as many"),
    h5("a shape of 60 MB that was never written", unwritten((15 << 20,)), "not in the file"),
    h5("4 TB in chunks that were never written", unwritten((1 << 20, 1 << 20), chunks=(1, 64)), "times as many"),
    h5("a million tiny chunks that were never written", unwritten((1 << 20,), chunks=(1,)), "over and over|missing"),
    h5("300 MB of zeros in 300 kB", hdf5(bomb), "times as many"),
    h5("a chunk that unpacks to 256 MB", chunk_bomb, "does not unpack to its 1048576 bytes"),
    h5("one array under 5,000 names", hdf5(many_names), "times as many|over and over"),
    h5("long names of links under 1,500 names", hdf5(long_links, libver=("v108", "v108")), "over and over"),
    h5("a filter that is not supported", with_value(compression="lzf"), "filter 32000"),
    h5("checksums by a filter", with_value(fletcher32=True), "filter 3"),
    h5("a reference to an object", with_value(data=None, shape=(2,), dtype=REFERENCE), "plain numbers"),
    h5("a reference to a region", with_value(data=None, shape=(2,), dtype=REGION), "plain numbers"),
    h5("arrays of variable length", with_value(data=None, shape=(2,), dtype=h5py.vlen_dtype("f4")), "plain numbers"),
    h5("records", with_value(data=np.zeros(3, [("a", "f4")])), "plain numbers"),
    h5("texts", with_value(data=["a", "b"]), "plain numbers"),
    h5("numbers of 16 bytes", with_value(data=np.zeros(3, "c16")), "plain numbers"),
    h5("three dimensions", with_value(data=np.zeros((2, 2, 2), "f4")), "shape"),
    h5("an array of nothing is a missing clip", with_value(data=h5py.Empty("f4")), outcome="read"),
    h5("a value stored as a pickle", with_value(kind="pickle", data=np.frombuffer(pickle.dumps(Runs()), "u1")), "stored as a pickle"),
    h5("the whole stored as a pickle", whole_pickle, "stored as a pickle"),
    h5("numbers whose type is no text", with_value(kind=3), outcome="read"),
    h5("a value of another type", with_value(kind="str"), "of type 'str'"),
    h5("a key that is a program", hdf5(lambda file, folder: value(clip(folder, f"__import__('os').system('{COMMAND}')".replace("/", "")))), "not a text in quotes"),
    h5("a key of a thousand brackets", hdf5(lambda file, folder: value(clip(folder, "(" * 1000))), "not a text in quotes"),
    h5("two keys that mean the same", hdf5(lambda file, folder: [value(clip(folder, key)) for key in ("'a'", '"a"')]), "comes twice"),
    h5("a tree of names in a circle", damaged_tree, "damaged|circles"),
    h5("an object header in a circle", damaged_header, "damaged|circles"),
    h5("one half of a file in two", in_two_files, "several parts|not an HDF5"),
    h5("a program in front of the file", in_front(b"#!/bin/sh\n"), "not an HDF5 file"),
    h5("a file cut short", cut, "damaged"),
    h5("no HDF5 at all", b"\x89HDF\r\n\x1a\n" + b"\xff" * 100, "unknown version|unusual"),
]  # fmt: skip


# JSON, YAML and configurations


def sparse(path):
    """A file of a gigabyte that takes no place on the disk."""
    path.touch()
    os.truncate(path, 1 << 30)


def inherits(from_what):
    return json.dumps({"inherit_from": from_what}).encode()


def inherits_itself(path):
    path.write_bytes(inherits(str(path)))


def inherits_in_a_circle(path):
    other = path.with_name("other.json")
    path.write_bytes(inherits(str(other)))
    other.write_bytes(inherits(str(path)))


plain_json = Kind("json", ".json", read_json)
config = Kind("config", ".json", load_config)
yaml = Kind("yaml", ".yaml", load_config)
DEEP = 100_000
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
JSONS = [
    config("forty thousand unknown keys", json.dumps({f"unknown{n}": 1 for n in range(40_000)}).encode(), "mistakes in"),
    plain_json("the same key twice", b'{"a": 1, "a": 2}', "comes twice"),
    plain_json("the same key twice, deep inside", b'[{"b": {"a": 1, "\\u0061": 2}}]', "comes twice"),
    plain_json("a hundred thousand lists in each other", b"[" * DEEP + b"]" * DEEP, "deeper"),
    plain_json("a hundred thousand objects in each other", b'{"a":' * DEEP + b"1" + b"}" * DEEP, "deeper"),
    plain_json("two hundred levels", b"[" * 200 + b"]" * 200, "deeper"),
    plain_json("NaN", b'{"a": NaN}', "NaN"),
    plain_json("minus infinity", b'{"a": -Infinity}', "Infinity"),
    plain_json("a number that overflows", b'{"a": 1e999}', "finite"),
    plain_json("an integer of a million digits", b"9" * 1_000_000),
    plain_json("a byte order mark", b"\xef\xbb\xbf{}", "byte order mark"),
    plain_json("UTF-16", "{}".encode("utf-16"), "not UTF-8"),
    plain_json("a gigabyte of zeros", sparse, "larger than"),
    plain_json("a text without an end", b'{"a": "', "not valid JSON"),
    config("inherits from itself", inherits_itself, "inherit_from"),
    config("inherits in a circle", inherits_in_a_circle, "inherit_from"),
    config("inherits from /etc/passwd", inherits("/etc/passwd"), "inside the repository"),
    config("inherits from above the repository", inherits("../../../etc/passwd"), "inside the repository"),
    config("inherits from a device", inherits("/dev/zero"), "inside the repository"),
    config("an unknown key with a command", json.dumps({"$(touch was-executed)": 1}).encode(), "unknown key"),
    yaml("calls os.system", b"a: !!python/object/apply:os.system ['touch was-executed']\n", "YAML"),
    yaml("makes an object", b"a: !!python/object/new:subprocess.Popen [['touch', 'was-executed']]\n", "YAML"),
    yaml("a billion laughs", LAUGHS.encode(), "aliases"),
    yaml("a hundred thousand lists in each other", b"a: " + b"[" * DEEP, "nested|YAML"),
    yaml("the same key twice", b"seed: 1\nseed: 2\n", "twice"),
]  # fmt: skip


# Split lists

names = Kind("list", ".txt", read_list)
LISTS = [
    names("NUL inside a name", b"a\nb\0c\n", "line 2 holds a NUL"),
    names("lines that end in a carriage return", b"a\rb\rc\r", "carriage return"),
    names("lines that end as on Windows", b"a\r\nb\r\n", outcome="read"),
    names("a byte order mark", b"\xef\xbb\xbfa\nb\n", outcome="read"),
    names(
        "other line ends of Unicode stay in names", "a\u2028b\x0bc\x85d\n".encode(), outcome="read"
    ),
    names("a million lines", b"".join(b"clip %d\n" % n for n in range(1_000_000)), outcome="read"),
    names("a name twice", b"a\nb\na\n", "second time"),
    names("no names", b"\n\n \n", "no names"),
    names("a blank line between names", b"a\n\nb\n", outcome="read"),
    names("Latin-1", "größe\n".encode("latin-1"), "not UTF-8"),
    names("half a character", b"\xed\xa0\x80\n", "not UTF-8"),
    names("a gigabyte of zeros", sparse, "larger than"),
    names("a name of 50 MB", b"x" * (50 << 20), outcome="read"),
]


# Archives

PREFIX = "data/Set/"


def member(path, content=b"e", /, *, kind=tarfile.REGTYPE, link="", **headers):
    """A member of an archive; `headers`: of the pax format."""
    info = tarfile.TarInfo(path)
    info.type, info.linkname, info.pax_headers = kind, link, headers
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    return info, content


def symlink(path, target):
    return member(PREFIX + path, kind=tarfile.SYMTYPE, link=target)


def hardlink(path, target):
    return member(PREFIX + path, kind=tarfile.LNKTYPE, link=target)


def tar(*members, form=tarfile.PAX_FORMAT):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form, errors="surrogateescape") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def header(kind, size, path="x"):
    """A header of any size, with the right checksum."""
    info = tarfile.TarInfo(path)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def raw(*blocks):
    return gzip.compress(b"".join(blocks) + bytes(20480), 1)


def endless_map():
    """An old file with holes, whose map goes on from block to block."""
    first = bytearray(header(tarfile.GNUTYPE_SPARSE, 512, "data/Set/a"))
    first[482], first[148:156] = 1, b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    return raw(first, (b"1".rjust(12, b"0") * 42 + b"\1" + bytes(7)) * 20_000)


def tar_bomb(path):
    """A gigabyte of zeros."""
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("data/Set/zeros")
        info.size = 1 << 30
        with Path("/dev/zero").open("rb") as zeros:
            archive.addfile(info, zeros)


def unpacked(path):
    """Unpack beside the archive, where all stays below `out` and nothing may be run from."""
    out = (path.parent / "out").resolve()
    try:
        unpack(path, out, prefix=PREFIX)
    except DataError:
        assert verify_unpacked(path, out) is None
        raise
    finally:
        for file in out.rglob("*"):
            assert file.resolve().is_relative_to(out)
            assert not file.lstat().st_mode & 0o7000


FINE = member("data/Set/good", b"good")
HOLES = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "data/Set/b"}
SET_ID = member("data/Set/run", b"#!/bin/sh\n")
SET_ID[0].mode = 0o6777
NAMES = {
    "climbing out": ("data/Set/../../evil", r"'\.\.'"),
    "climbing in the middle": ("data/Set/a/../../../evil", r"'\.\.'"),
    "climbing and back": ("data/Set/../Set/evil", r"'\.\.'"),
    "climbing at once": ("../evil", r"'\.\.'"),
    "only dots": ("data/Set/..", r"'\.\.'"),
    "absolute": ("/tmp/evil", "absolute"),
    "absolute below data": ("/data/Set/evil", "absolute"),
    "beside the data set": ("data/Other/evil", "is not below"),
    "beside data": ("configs/evil.json", "is not below"),
    "the data set as a file": ("data/Set", "is not below"),
    "the data set's name and more": ("data/Settings/evil", "is not below"),
    "a name twice": ("data/Set/good", "twice"),
    "a name twice, with dots": ("data/./Set//good", "twice"),
    "a folder where a file is": ("data/Set/good/inner", "not a folder"),
    "a newline in a name": ("data/Set/a\nb", "control"),
    "an escape sequence in a name": ("data/Set/\x1b[2Jx", "control"),
    "a name of 300 letters": ("data/Set/" + "n" * 300, "long"),
    "a path of 1,200 letters": ("data/Set/" + "nnnnnnnnn/" * 120 + "n", "long"),
    "forty folders deep": ("data/Set/" + "n/" * 40 + "n", "long"),
}
TARGETS = (
    "/etc/passwd",
    "..",
    "../..",
    "../../x",
    "good/../../../x",
    "./../x",
    "",
    "a\nb",
    "n" * 2000,
)
KINDS = {
    "a character device": tarfile.CHRTYPE,
    "a block device": tarfile.BLKTYPE,
    "a pipe": tarfile.FIFOTYPE,
    "an unknown kind": b"Z",
}
HEADERS = {
    "a name of gigabytes": header(tarfile.GNUTYPE_LONGNAME, 8 << 30),
    "a link name of gigabytes": header(tarfile.GNUTYPE_LONGLINK, 8 << 30),
    "attributes of gigabytes": header(tarfile.XHDTYPE, 8 << 30),
    "global attributes of gigabytes": header(tarfile.XGLTYPE, 8 << 30),
    "old attributes of gigabytes": header(tarfile.SOLARIS_XHDTYPE, 8 << 30),
    "a negative size": header(tarfile.REGTYPE, -(1 << 40), "data/Set/a"),
    "an old file with holes": header(tarfile.GNUTYPE_SPARSE, 512, "data/Set/a") + bytes(512),
    "a name of negative size": header(tarfile.GNUTYPE_LONGNAME, -512),
    "headers of headers without end": header(tarfile.XGLTYPE, 0) * 5000,
    "exabytes in one file": header(tarfile.REGTYPE, 1 << 60, "data/Set/a"),
}
archive = Kind("archive", ".tar.gz", unpacked)
ARCHIVES = [
    *(archive(label, tar(FINE, member(path)), says) for label, (path, says) in NAMES.items()),
    *(archive(f"a link to {target[:20]!r}", tar(FINE, symlink("l", target)), "link whose target") for target in TARGETS),
    *(archive(label, tar(FINE, member("data/Set/x", kind=kind)), "device") for label, kind in KINDS.items()),
    *(archive(label, raw(content)) for label, content in HEADERS.items()),
    archive("a folder, then a file of its name", tar(member("data/Set/a/b"), member("data/Set/a")), "twice"),
    archive("a name that is not UTF-8", tar(FINE, member("data/Set/\udcff"), form=tarfile.GNU_FORMAT), "UTF-8"),
    archive("a link to what is not UTF-8", tar(FINE, symlink("l", "\udcff"), form=tarfile.GNU_FORMAT), "UTF-8"),
    archive("a header of 100,000 letters", tar(FINE, member("data/Set/" + "n" * 100_000), form=tarfile.GNU_FORMAT), "long"),
    archive("an attribute with a negative size", tar(member("data/Set/a", size="-512"), FINE)),
    archive("an attribute with a huge size", tar(member("data/Set/a", size=str(1 << 60)), FINE)),
    archive("an attribute with a size of 5,000 digits", tar(member("data/Set/a", size="9" * 5000), FINE)),
    archive("an attribute with another name", tar(member("data/Set/a", **{"path": "/tmp/evil"})), "absolute"),
    archive("holes by attributes", tar(member("data/Set/a", b"1\n0\n512\n" + bytes(504), **HOLES, **{"GNU.sparse.realsize": "9"}))),
    archive("holes of a size that is no number", tar(member("data/Set/a", **{"GNU.sparse.size": "abc"}), FINE)),
    archive("a map of holes without end", tar(member("data/Set/a", b"99999999\n" + b"1\n" * (1 << 20), **HOLES))),
    archive("an old map of holes without end", endless_map()),
    archive("a hard link out", tar(hardlink("a", "precious"), FINE), "is not below"),
    archive("a hard link that climbs", tar(hardlink("a", "data/Set/../../precious")), r"'\.\.'"),
    archive("a hard link to an absolute path", tar(hardlink("a", "/etc/passwd")), "absolute"),
    archive("a hard link to what comes later", tar(hardlink("a", "data/Set/good"), FINE), "no file before"),
    archive("a hard link to a link", tar(symlink("l", "good"), hardlink("a", "data/Set/l")), "no file before"),
    archive("a file through a link", tar(symlink("l", "."), member("data/Set/l/evil")), "not a folder"),
    archive("a file over a link", tar(symlink("l", "good"), member("data/Set/l")), "twice"),
    archive("links in a circle", tar(FINE, symlink("a", "b"), symlink("b", "a")), "link"),
    archive("a folder alone", tar(member("data/Set", kind=tarfile.DIRTYPE)), "holds no file"),
    archive("a gigabyte of zeros", tar_bomb, "unpack"),
    archive("a bomb behind the end", tar(FINE) + gzip.compress(bytes(100 << 20), 1), "times as many"),
    archive("a bomb of copies", tar(member("data/Set/a", bytes(1 << 20)), *(hardlink(str(n), "data/Set/a") for n in range(200))), "times as many"),
    archive("attributes of 10 MB", tar(member("data/Set/a", comment="x" * 10_000_000)), outcome="read"),
    archive("an archive cut short", tar(member("data/Set/a", os.urandom(5000)))[:-2000], "damaged|incomplete"),
    archive("no archive at all", b"\x1f\x8bnonsense", "damaged"),
    archive("set-user-ID is not kept", tar(SET_ID), outcome="read"),
]  # fmt: skip

CASES = [*PICKLES, *CHECKPOINTS, *HDF5S, *JSONS, *LISTS, *ARCHIVES]


def run_case(case, folder, watch):
    """Make a hostile file in an empty folder, read it; returns (outcome, message, seconds)."""
    path = folder / f"hostile{case.suffix}"
    case.make(path)
    with working_in(folder), bounded_memory():
        outcome, message, seconds = read_once(case.read, path, watch)
    if (folder / CANARY).exists():
        outcome = "executed"
    return outcome, message, seconds


def main(argv=None):
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    contained = 0
    print(f"{'kind':<11}{'case':<50}{'outcome':<9}{'s':>5}  message")
    with tempfile.TemporaryDirectory() as root:
        watch = Watch(Path(root))
        for number, case in enumerate(CASES):
            folder = Path(root) / str(number)
            folder.mkdir()
            outcome, message, seconds = run_case(case, folder, watch)
            good = outcome == case.outcome and re.search(case.says, message)
            contained += bool(good)
            said = message.split("\n")[0][:100] + ("" if good else "  <-- NOT CONTAINED")
            print(f"{case.kind:<11}{case.name:<50}{outcome:<9}{seconds:>5.2f}  {said}")
    print(f"{len(CASES)} cases, {contained} contained")
    return 0 if contained == len(CASES) else 1


if __name__ == "__main__":
    sys.exit(main())
