"""The packed file: what is written comes back, and nothing else is believed."""

import hashlib
import io
import json

import numpy as np
import pytest

from data_loader.packed_file import (
    MAGIC,
    TAIL,
    PackedWriter,
    decode_names,
    encode_names,
    map_packed,
    open_packed,
)
from utils.errors import DataError

NAMES = ["plain", 'it\'s "quoted"', "tab\there", "größe 音", "lone \ud800 surrogate", ""]


def packed_bytes():
    """A small packed file: float rows in three pieces, offsets, names."""
    sink = io.BytesIO()
    writer = PackedWriter(sink)
    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    for piece in (rows[:4], rows[4:5], rows[5:]):
        writer.extend("rows", piece)
    writer.add("offsets", np.array([0, 4, 10]))
    writer.add("none", np.zeros(0, np.uint8))
    writer.add("names", encode_names(NAMES))
    writer.finish({"kind": "features"})
    return sink.getvalue()


def opened(data):
    return open_packed(np.frombuffer(bytearray(data), np.uint8), "here.packed")


def with_footer(change):
    """The small file with another footer, whose checksum is right."""
    data = packed_bytes()
    _, length, _ = TAIL.unpack(data[-TAIL.size :])
    start = len(data) - TAIL.size - length
    footer = json.loads(data[start : start + length])
    changed = change(footer)
    text = changed if isinstance(changed, bytes) else json.dumps(changed or footer).encode()
    tail = TAIL.pack(hashlib.sha256(text).digest(), len(text), MAGIC)
    return data[:start] + text + tail


def test_arrays_come_back(tmp_path):
    path = tmp_path / "x.packed"
    path.write_bytes(packed_bytes())
    packed = map_packed(path)
    assert packed.header == {"kind": "features"}
    assert packed.arrays["rows"].dtype == np.float32
    np.testing.assert_array_equal(packed.arrays["rows"], np.arange(30).reshape(10, 3))
    np.testing.assert_array_equal(packed.arrays["offsets"], [0, 4, 10])
    assert packed.arrays["none"].shape == (0,)
    assert decode_names(packed.arrays["names"]) == NAMES
    assert packed.damaged_block() is None


def test_blocks_are_aligned():
    packed = opened(packed_bytes())
    base = packed.arrays["rows"].__array_interface__["data"][0]
    for array in packed.arrays.values():
        assert (array.__array_interface__["data"][0] - base) % 64 == 0


def test_the_streamed_block_takes_rows_of_one_form():
    writer = PackedWriter(io.BytesIO())
    writer.extend("rows", np.zeros((2, 3), np.float32))
    for wrong in (np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float16)):
        with pytest.raises(ValueError, match="cannot take"):
            writer.extend("rows", wrong)


def test_every_truncation_is_noticed(tmp_path):
    data = packed_bytes()
    path = tmp_path / "x.packed"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"x\.packed"):
            map_packed(path)


def test_every_changed_byte_is_noticed():
    """At opening, or in the large first block (and the gaps between blocks) on demand."""
    data = packed_bytes()
    rows = 10 * 3 * 4
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x10
        try:
            packed = opened(changed)
        except DataError:
            continue
        damaged = packed.damaged_block()
        assert damaged == ("rows" if position < rows else None)
        if damaged is None:
            np.testing.assert_array_equal(packed.arrays["offsets"], [0, 4, 10])
            assert decode_names(packed.arrays["names"]) == NAMES


def block(index, **changes):
    def change(footer):
        footer["blocks"][index] |= changes

    return change


@pytest.mark.parametrize(
    "change",
    [
        block(1, start=1 << 40),
        block(1, start=-64),
        block(1, start=8),
        block(1, start=64.0),
        block(0, shape=[1 << 40, 3]),
        block(0, shape=[-1, 3]),
        block(0, shape=[1 << 62, 1 << 62]),
        block(0, shape=[True, 3]),
        block(0, shape=None),
        block(1, dtype="|O"),
        block(1, dtype="object"),
        block(1, crc32="0"),
        block(1, name="rows"),
        block(1, name=["x"]),
        lambda footer: {"header": {}},
        lambda footer: {"header": [], "blocks": []},
        lambda footer: [1],
        lambda footer: b"not json",
        lambda footer: b"[" * 100_000,
        lambda footer: b" " * ((1 << 20) + 1),
    ],
)
def test_a_hostile_footer_is_refused(change):
    with pytest.raises(DataError, match=r"here\.packed: is not a whole packed file"):
        opened(with_footer(change))


@pytest.mark.parametrize("text", [b"{}", b"[1]", b"[", b"[" * 100_000, b"\xff"])
def test_names_are_strings(text):
    with pytest.raises(DataError, match="names"):
        decode_names(np.frombuffer(text, np.uint8))
