"""The index finds exactly what brute force finds, through every change and every kill."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.index import Index, IndexedFile, Stamp, UnusableIndexError
from search.scoring import Clips, Queries, best_of_files, pattern_of, present

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = (3, 2)
WIDTH, EXPERTS = sum(WIDTHS), len(WIDTHS)
IDENTITY = {"model": "m", "window": 10.0, "hop": 5.0}


def make_file(name, windows, draw, *, patterns=None):
    """A file whose missing experts are zeros in its vectors."""
    if patterns is None:
        patterns = draw.integers(1, 1 << EXPERTS, windows)
    there = np.repeat(present(patterns, EXPERTS), WIDTHS, axis=1)
    vectors = draw.standard_normal((windows, WIDTH)).astype(np.float32) * there
    starts = 5.0 * np.arange(windows)
    moments = np.stack([starts, starts + 10], axis=1)
    stamp = Stamp(int(draw.integers(1e6)), int(draw.integers(1e15)))
    return IndexedFile(name, stamp, 5.0 * windows + 5, Clips(vectors, patterns), moments)


def make_queries(count, draw):
    weights = draw.dirichlet(np.ones(EXPERTS), count).astype(np.float32)
    vectors = draw.standard_normal((count, WIDTH)).astype(np.float32)
    return Queries(vectors * np.repeat(weights, WIDTHS, axis=1), weights)


def naive(files, queries, k):
    """Best window of each file, one product at a time."""
    answers = []
    for q in range(len(queries)):
        best = []
        for file in files:
            scores = []
            for vector, pattern in zip(*file.clips, strict=True):
                weight = sum(queries.weights[q, i] for i in range(EXPERTS) if pattern >> i & 1)
                scores.append(float(vector @ queries.vectors[q]) / weight)
            if scores:
                window = int(np.argmax(scores))
                best.append((file.path, scores[window], *file.moments[window]))
        answers.append(sorted(best, key=lambda hit: -hit[1])[:k])
    return answers


def assert_same(found, expected):
    for hits, wanted in zip(found, expected, strict=True):
        assert [hit.file for hit in hits] == [name for name, *_ in wanted]
        for hit, (_, score, start, end) in zip(hits, wanted, strict=True):
            assert hit.score == pytest.approx(score, abs=1e-5)
            assert (hit.start, hit.end) == (start, end)


def test_two_clips_by_hand(tmp_path):
    index = Index(tmp_path, WIDTH, IDENTITY)
    both = IndexedFile(
        "both", Stamp(1, 1), 3.0, Clips(np.float32([[1, 0, 0, 1, 0]]), np.array([3])), [[0, 3]]
    )
    first = IndexedFile(
        "first", Stamp(1, 1), 4.0, Clips(np.float32([[1, 0, 0, 0, 0]]), np.array([1])), [[0, 4]]
    )
    index.add([both._replace(moments=np.array([[0.0, 3.0]]))])
    index.add([first._replace(moments=np.array([[0.0, 4.0]]))])
    query = Queries(np.float32([[0.75, 0, 0, 0, 0.25]]), np.float32([[0.75, 0.25]]))
    hits = index.search(query, 5)[0]
    # first: 0.75 / 0.75, its second expert does not count; both: (0.75 + 0) / 1
    assert [(hit.file, round(hit.score, 6)) for hit in hits] == [("first", 1.0), ("both", 0.75)]
    assert query.shares(0, 1) == [1.0, 0.0]
    assert query.shares(0, 3) == [0.75, 0.25]


def test_patterns_are_the_bits_of_availability():
    available = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1]])
    patterns = pattern_of(available)
    assert patterns.tolist() == [5, 2, 7]
    assert (present(patterns, 3) == available).all()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_best_of_files_is_that_of_sorting(data):
    n = data.draw(st.integers(1, 60))
    scores = np.float32(data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)))
    scores[data.draw(st.lists(st.integers(0, n - 1), max_size=n))] = -np.inf
    files = np.array(data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)))
    k = data.draw(st.integers(1, 12))
    expected = {}
    for row in sorted(range(n), key=lambda row: (-scores[row], row)):
        if np.isfinite(scores[row]):
            expected.setdefault(files[row], row)
    assert best_of_files(scores, files, k).tolist() == list(expected.values())[:k]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_any_changes_leave_what_brute_force_finds(seed, steps, tmp_path_factory):
    draw = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("index")
    index, files = Index(folder, WIDTH, IDENTITY), {}
    for step in steps:
        names = [f"f{n}.wav" for n in draw.choice(12, 4, replace=False)]
        if step == 0:
            index.remove(names)
            files = {name: file for name, file in files.items() if name not in names}
        elif step == 3:
            index.close()
            index = Index(folder, WIDTH, IDENTITY)
        else:
            new = [make_file(name, int(draw.integers(0, 5)), draw) for name in names]
            index.add(new)
            files |= {file.path: file for file in new}
    queries = make_queries(3, draw)
    assert_same(index.search(queries, 5), naive(files.values(), queries, 5))
    assert index.stamps() == {name: file.stamp for name, file in files.items()}
    assert len(index) == sum(len(file.moments) for file in files.values())
    assert index.count_files() == sum(len(file.moments) > 0 for file in files.values())
    index.close()


def test_filters_take_names_as_a_shell_does(tmp_path):
    draw = np.random.default_rng(0)
    index = Index(tmp_path, WIDTH, IDENTITY)
    index.add([make_file(name, 2, draw) for name in ("birds/a.wav", "birds/b.ogg", "cars/a.wav")])
    query = make_queries(1, draw)
    found = {
        only: {h.file for h in index.search(query, 9, only)[0]}
        for only in ("birds/*", "*.wav", "x")
    }
    assert found == {
        "birds/*": {"birds/a.wav", "birds/b.ogg"},
        "*.wav": {"birds/a.wav", "cars/a.wav"},
        "x": set(),
    }


def test_queries_in_groups_find_the_same(tmp_path, monkeypatch):
    draw = np.random.default_rng(1)
    index = Index(tmp_path, WIDTH, IDENTITY)
    files = [make_file(f"{n}", 3, draw) for n in range(20)]
    index.add(files)
    queries = make_queries(7, draw)
    monkeypatch.setattr("search.index.MOST_SCORES", 130)
    monkeypatch.setattr("search.index.BLOCK", 4 * WIDTH * 11)
    assert_same(index.search(queries, 4), naive(files, queries, 4))


def test_removed_rows_are_given_back(tmp_path):
    draw = np.random.default_rng(2)
    index = Index(tmp_path, WIDTH, IDENTITY)
    files = [make_file(f"{n}", 10, draw) for n in range(10)]
    index.add(files)
    index.remove([file.path for file in files[:6]])
    assert sum(path.stat().st_size for path in tmp_path.glob("vectors-*")) == 4 * WIDTH * 40
    queries = make_queries(2, draw)
    assert_same(index.search(queries, 9), naive(files[6:], queries, 9))


def test_other_features_are_refused(tmp_path):
    Index(tmp_path, WIDTH, IDENTITY).require_features({"a": {"version": 1}})
    for width, identity in ((WIDTH + 1, IDENTITY), (WIDTH, IDENTITY | {"model": "other"})):
        with pytest.raises(UnusableIndexError, match=str(tmp_path)):
            Index(tmp_path, width, identity)
    with pytest.raises(UnusableIndexError, match="'version': 2"):
        Index(tmp_path, WIDTH, IDENTITY).require_features({"a": {"version": 2}})


def test_damaged_files_are_named(tmp_path):
    index = Index(tmp_path, WIDTH, IDENTITY)
    index.add([make_file("a", 5, np.random.default_rng(3))])
    index.close()
    os.truncate(tmp_path / "vectors-0.f32", 7)
    with pytest.raises(UnusableIndexError, match=r"vectors-0\.f32"):
        Index(tmp_path, WIDTH, IDENTITY)
    (tmp_path / "catalogue.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(UnusableIndexError, match=str(tmp_path)):
        Index(tmp_path, WIDTH, IDENTITY)


def test_a_writer_at_work_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("search.index.WAIT", 0.1)
    index = Index(tmp_path, WIDTH, IDENTITY)
    other = sqlite3.connect(tmp_path / "catalogue.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnusableIndexError, match="in use"):
        index.add([make_file("a", 1, np.random.default_rng(4))])
    other.execute("ROLLBACK")
    other.close()


WRITER = """
import sys
import numpy as np
from search.index import Index
from test_search_index import IDENTITY, WIDTH, make_file
index = Index(sys.argv[1], WIDTH, IDENTITY)
for number in range(10**6):
    draw = np.random.default_rng(number)
    names = [f"f{n}.wav" for n in draw.choice(30, 3, replace=False)]
    index.add([make_file(name, 200, draw) for name in names])
    print(f"added {number}", flush=True)
    if number % 5 == 4:
        index.remove(names)
        print(f"removed {number}", flush=True)
"""


def replay(steps):
    """The files after the steps that a writer says it took."""
    files = {}
    for what, number in steps:
        draw = np.random.default_rng(number)
        names = [f"f{n}.wav" for n in draw.choice(30, 3, replace=False)]
        new = [make_file(name, 200, draw) for name in names]
        for name, file in zip(names, new, strict=True):
            files.pop(name, None)
            if what == "added":
                files[name] = file
    return files


@pytest.mark.parametrize("wait", [0.15, 0.4, 0.7])
def test_a_killed_writer_leaves_every_acknowledged_file(tmp_path, wait):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with writer:
        lines = [writer.stdout.readline()]
        time.sleep(wait)
        os.kill(writer.pid, signal.SIGKILL)
        lines += writer.stdout.readlines()
    steps = [
        (what, int(number))
        for what, number in (line.split() for line in lines if line[-1:] == "\n")
    ]
    what, number = steps[-1]
    following = (
        ("removed", number) if what == "added" and number % 5 == 4 else ("added", number + 1)
    )
    index = Index(tmp_path, WIDTH, IDENTITY)
    candidates = [replay(steps), replay([*steps, following])]  # the last one may be there
    stamps = index.stamps()
    (files,) = [f for f in candidates if {n: x.stamp for n, x in f.items()} == stamps][:1]
    queries = make_queries(2, np.random.default_rng(5))
    assert_same(index.search(queries, 40), naive(files.values(), queries, 40))
    extra = make_file("new.wav", 3, np.random.default_rng(6))
    index.add([extra])  # and it goes on
    assert_same(index.search(queries, 40), naive([*files.values(), extra], queries, 40))


def sql(statement):
    def damage(folder):
        with sqlite3.connect(folder / "catalogue.sqlite") as catalogue:
            catalogue.execute(statement)

    return damage


def spoil(name, change):
    def damage(folder):
        (path,) = folder.glob(name)
        path.write_bytes(change(path.read_bytes()))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        sql("UPDATE about SET value = '\"abc\"' WHERE key = 'rows'"),
        sql("UPDATE about SET value = '{' WHERE key = 'rows'"),
        sql("UPDATE about SET value = '-5' WHERE key = 'rows'"),
        sql("UPDATE about SET value = '2' WHERE key = 'rows'"),
        sql("DELETE FROM about WHERE key = 'rows'"),
        sql("DROP TABLE files"),
        sql("UPDATE files SET first = -3"),
        sql("UPDATE files SET rows = 1000000"),
        sql("UPDATE files SET id = id + 100"),
        sql("INSERT INTO removed VALUES ('x', 'y')"),
        spoil("windows-*", lambda content: bytes(len(content))),
        spoil("vectors-*", lambda content: b"\xff" * len(content)),
        spoil("vectors-*", lambda content: content[:-4] + b"\xff\xff\x7f\x7f"),
    ],
)
def test_damage_is_named_and_never_answers(tmp_path, damage):
    draw = np.random.default_rng(0)
    index = Index(tmp_path / "index", WIDTH, IDENTITY)
    index.add([make_file(name, 3, draw, patterns=np.full(3, 3)) for name in "abc"])
    index.close()
    damage(tmp_path / "index")
    queries = Queries(np.full((2, WIDTH), 9, np.float32), np.full((2, EXPERTS), 0.5, np.float32))
    with pytest.raises(UnusableIndexError, match=r"is damaged: .*; remove this folder"):
        Index(tmp_path / "index", WIDTH, IDENTITY).search(queries, 3)


def test_what_another_process_moves_answers_as_before(tmp_path):
    draw = np.random.default_rng(0)
    index = Index(tmp_path, WIDTH, IDENTITY)
    index.add([make_file(name, 2, draw) for name in "abcd"])
    queries = make_queries(1, draw)
    before = {name: index.search(queries, 4, only=name) for name in "cd"}
    other = Index(tmp_path, WIDTH, IDENTITY)
    other.remove(["a", "b"])
    other.compact()
    assert {name: index.search(queries, 4, only=name) for name in "cd"} == before
    assert {hit.file for hit in index.search(queries, 4)[0]} == {"c", "d"}
    other.close()
