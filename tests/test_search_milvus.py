"""The index in embedded Milvus finds what the exact one finds."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from search.engine import open_engine
from search.index import UnusableIndexError
from test_search_index import (
    IDENTITY,
    ROOT,
    WIDTH,
    assert_same,
    make_file,
    make_queries,
    naive,
)
from utils.errors import UsageError

pytest.importorskip("milvus_lite", reason="pip install -r requirements/milvus.txt")
pytestmark = pytest.mark.filterwarnings("ignore")  # of pymilvus and what it imports

NAMES = ['a"q.wav', "b\\s.wav", "größe 音.wav", "it's.wav", "50%_#.wav", "d/e.wav", "50x_#.wav"]


@pytest.fixture
def open_index(tmp_path):
    opened = []

    def open_it():
        opened.append(open_engine(str(tmp_path / "index.db"), WIDTH, IDENTITY))
        return opened[-1]

    yield open_it
    for index in opened:
        index.close()


def test_it_finds_what_brute_force_finds_through_changes(open_index):
    draw = np.random.default_rng(0)
    index = open_index()
    files = [make_file(name, windows, draw) for windows, name in enumerate(NAMES)]
    index.add(files)
    queries = make_queries(3, draw)
    assert_same(index.search(queries, 4), naive(files, queries, 4))
    assert len(index) == sum(range(len(NAMES)))
    assert index.count_files() == len(NAMES) - 1
    assert index.stamps() == {file.path: file.stamp for file in files}

    changed = make_file(NAMES[2], 4, draw)
    index.add([changed])
    index.remove([NAMES[3], "not there"])
    files = [changed if f.path == NAMES[2] else f for f in files if f.path != NAMES[3]]
    index.close()
    index = open_index()
    assert_same(index.search(queries, 9), naive(files, queries, 9))
    assert index.seconds(NAMES[5]) == pytest.approx(files[4].seconds)
    assert index.seconds(NAMES[3]) is None


def test_filters_take_names_as_a_shell_does(open_index):
    draw = np.random.default_rng(1)
    index = open_index()
    index.add([make_file(name, 2, draw) for name in NAMES])
    query = make_queries(1, draw)
    expected = {"50%_*": {NAMES[4]}, "50?_*": {NAMES[4], NAMES[6]}, "*/*": {NAMES[5]}, "x": set()}
    for only, names in expected.items():
        assert {hit.file for hit in index.search(query, 9, only)[0]} == names
    with pytest.raises(UsageError):
        index.search(query, 9, "[ab]*")


def test_a_file_of_many_windows_does_not_hide_the_others(open_index):
    draw = np.random.default_rng(2)
    files = [make_file("long.wav", 300, draw, patterns=np.full(300, 3))]
    files += [make_file(f"{n}.wav", 1, draw, patterns=np.array([3])) for n in range(5)]
    files[0].clips.vectors[:] += 10
    index = open_index()
    index.add(files)
    queries = make_queries(1, draw)
    queries.vectors[:] = np.abs(queries.vectors)
    assert_same(index.search(queries, 3), naive(files, queries, 3))


def test_other_features_and_engines_that_do_not_answer_are_refused(open_index):
    index = open_index()
    index.require_features({"a": {"version": 1}})
    index.require_features({"a": {"version": 1}})
    with pytest.raises(UnusableIndexError, match=r"index\.db.*'version': 2"):
        index.require_features({"a": {"version": 2}})
    with pytest.raises(UnusableIndexError, match=r"127\.0\.0\.1:1"):
        open_engine("http://127.0.0.1:1", WIDTH, IDENTITY)


WRITER = """
import sys
import numpy as np
from search.engine import open_engine
from test_search_index import IDENTITY, WIDTH, make_file
index = open_engine(sys.argv[1], WIDTH, IDENTITY)
for number in range(10**6):
    index.add([make_file(f"{number}.wav", 5, np.random.default_rng(number))])
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_what_it_acknowledged_or_a_clear_error(tmp_path, open_index):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "index.db")],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with writer:
        numbers = [int(writer.stdout.readline()) for _ in range(4)]
        os.kill(writer.pid, signal.SIGKILL)
    try:
        index = open_index()
    except UnusableIndexError as error:  # 1 of 20 kills damaged what milvus-lite 3.2.2 had written
        assert str(tmp_path / "index.db") in str(error)  # noqa: PT017
        return
    stamps = index.stamps()
    files = [make_file(f"{n}.wav", 5, np.random.default_rng(n)) for n in numbers]
    for file in files:
        assert stamps[file.path] == file.stamp
    queries = make_queries(1, np.random.default_rng(5))
    found = [[hit for hit in index.search(queries, 99)[0] if int(hit.file[:-4]) in numbers]]
    assert_same(found, naive(files, queries, 99))
