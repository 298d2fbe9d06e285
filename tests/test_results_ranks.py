"""ranks.npz keeps what every metric can be computed from, and is read without trust."""

import io
import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from model.metric import summarise, t2v_ranks, v2t_ranks
from results.ranks import RANKS, TOP, query_texts, ranks_of, read_ranks, save_ranks
from utils.errors import DataError, UnsafeFileError


def scored(sims, masks, weights=None):
    sims, masks = np.asarray(sims, np.float32), np.asarray(masks)
    return SimpleNamespace(similarities=sims, query_masks=masks, weights=weights or {})


HAND = scored([[3, 2, 1], [1, 3, 2], [1, 2, 3], [0, 1, 0], [9, 8, 7], [5, 5, 5]], np.ones((3, 2)))


def test_ranks_worked_by_hand():
    found = ranks_of(HAND, ["a", "b", "c"])
    assert found.t2v_ranks.tolist() == [0, 2, 1, 0, 2, 1]
    assert found.query_clip.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.query_caption.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.top_clips.tolist()[:2] == [[0, 1, 2], [1, 2, 0]]
    assert found.v2t_ranks.tolist() == [2, 3.5, 0]  # of b: 3 above, a tie of two


def test_captions_that_do_not_exist_are_no_queries():
    found = ranks_of(scored(HAND.similarities, [[1, 0], [1, 1], [1, 0]]), ["a", "b", "c"])
    assert found.query_clip.tolist() == [0, 1, 1, 2]
    assert found.query_caption.tolist() == [0, 0, 1, 0]
    assert found.t2v_ranks.tolist() == [0, 1, 0, 2]


def test_what_is_written_is_read(tmp_path):
    captions = [["<b>", "ä\ud800"], ["", "x"], ["y", "z"]]
    weights = {"audio": np.arange(6) / 6, "vggsound": 1 - np.arange(6) / 6}
    weighed = scored(HAND.similarities, HAND.query_masks, weights)
    expected = ranks_of(weighed, list("abc"), captions=captions)
    path = save_ranks(tmp_path / "seed-0", expected)
    assert path == tmp_path / "seed-0" / RANKS
    found = read_ranks(path)
    for name, value in vars(expected).items():
        assert np.array_equal(getattr(found, name), value), name
    assert found.captions[1] == "ä\ud800"
    assert found.experts == ("audio", "vggsound")


@pytest.mark.parametrize("seed", range(5))
def test_every_metric_comes_back(tmp_path, seed):
    draw = np.random.default_rng(seed)
    sims = np.round(draw.normal(size=(60, 20)), 1)  # with ties
    masks = (draw.random((20, 3)) < 0.7).astype(int)
    masks[:, 0] = 1
    only = [f"clip {n}" for n in range(0, 20, 2)]
    names = [f"clip {n}" for n in range(20)]
    save_ranks(tmp_path, ranks_of(scored(sims, masks), names, only=only))
    chosen = np.arange(20) % 2 == 0
    sims = sims.astype(np.float32)
    assert read_ranks(tmp_path / RANKS).metrics() == {
        "t2v_metrics": summarise(t2v_ranks(sims, masks * chosen[:, None])),
        "v2t_metrics": summarise(v2t_ranks(sims, masks)[chosen]),
    }


def test_the_top_is_the_head_of_the_sorted_list():
    draw = np.random.default_rng(3)
    sims = draw.normal(size=(40, 40))
    found = ranks_of(scored(sims, np.ones((40, 1))), [str(n) for n in range(40)])
    assert np.array_equal(found.top_clips, np.argsort(-sims.astype(np.float32), axis=1)[:, :TOP])
    rows = np.arange(40)
    inside = found.t2v_ranks < TOP
    place = found.t2v_ranks[inside].astype(int)
    assert (found.top_clips[rows[inside], place] == rows[inside]).all()


class Captions:
    def __init__(self, *, fused, per_clip):
        self.settings = SimpleNamespace(fuse_captions=fused, num_test_captions=per_clip)
        self.clips = ["a", "b"]

    def captions(self, clip):
        return [f"{clip}1", f"{clip}2", f"{clip}3"]


def test_queries_are_the_captions_that_are_tested():
    assert query_texts(Captions(fused=False, per_clip=2)) == [["a1", "a2"], ["b1", "b2"]]
    assert query_texts(Captions(fused=True, per_clip=1))[0] == ["a1 / a2 / a3"]
    assert query_texts(Captions(fused=False, per_clip=2), average=True)[1] == ["b1 / b2"]


def stored(path, **changes):
    """Write the hand-worked ranks with some arrays changed."""
    save_ranks(path.parent, ranks_of(HAND, list("abc")))
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files}
    np.savez(path, **{k: v for k, v in {**arrays, **changes}.items() if v is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"t2v_ranks": None},
        {"t2v_ranks": np.zeros(5)},
        {"t2v_ranks": np.full(6, np.nan)},
        {"t2v_ranks": np.full(6, -1.0)},
        {"t2v_ranks": np.array(["a"] * 6)},
        {"query_clip": np.full(6, 3)},
        {"query_clip": np.full(6, -1)},
        {"top_clips": np.full((6, 3), 9)},
        {"top_scores": np.zeros((6, 2))},
        {"weights": np.zeros((6, 1))},
        {"query_clip": np.array([None] * 6, dtype=object)},
        {"names": np.frombuffer(b"[[], [], []]", np.uint8)},
        {"names": np.frombuffer(b"{}", np.uint8)},
        {"names": np.frombuffer(b"[", np.uint8)},
    ],
)
def test_a_damaged_file_is_refused(tmp_path, changes):
    stored(tmp_path / RANKS, **changes)
    with pytest.raises(DataError, match=RANKS):
        read_ranks(tmp_path / RANKS)


def test_what_is_no_archive_is_refused(tmp_path):
    with pytest.raises(DataError):
        read_ranks(tmp_path / RANKS)
    for content in (b"", b"x" * 100, json.dumps([]).encode()):
        (tmp_path / RANKS).write_bytes(content)
        with pytest.raises(DataError):
            read_ranks(tmp_path / RANKS)


def test_a_file_that_unpacks_to_far_too_much_is_refused(tmp_path):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in range(17):
            archive.writestr(f"{member}.npy", bytes(64 << 20))
    (tmp_path / RANKS).write_bytes(memory.getvalue())
    assert (tmp_path / RANKS).stat().st_size < 2 << 20
    with pytest.raises(UnsafeFileError):
        read_ranks(tmp_path / RANKS)
