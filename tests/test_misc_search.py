"""The command: words and files in, a table or JSON out, one clear error for each mistake."""

import json
import shutil

import numpy as np
import pytest

from misc import search
from search_runs import EXPERTS, make_folder, make_run, tone, write_sound
from surroundings import working_in


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def call(run, tmp_path, capsys):
    folder = make_folder(tmp_path / "sounds")

    def call_it(*flags, run=run, audio=folder):
        with working_in(tmp_path):
            found = [] if run is None else ["--run", run]
            status = search.main([str(flag) for flag in (*found, "--audio", audio, *flags)])
        return status, *capsys.readouterr()

    return call_it


def test_json_has_exactly_the_promised_keys(call, tmp_path):
    status, out, _ = call("a dog barks", "rain", "--json", "-k", "3")
    assert status == 0
    answers = json.loads(out)
    assert [answer["query"] for answer in answers] == ["a dog barks", "rain"]
    for answer in answers:
        assert set(answer) == {"query", "results"}
        assert len(answer["results"]) == 3
        for result in answer["results"]:
            assert list(result) == ["file", "score", "start", "end", "experts"]
            assert (tmp_path / "sounds" / result["file"]).is_file()
            assert set(result["experts"]) == set(EXPERTS)
            numbers = [result["score"], result["start"], result["end"], *result["experts"].values()]
            assert all(type(number) is float for number in numbers)
    assert (tmp_path / "data" / "search").is_dir()


def test_the_table_names_moments_and_weights(call):
    status, out, _ = call("a dog barks", "-k", "2")
    assert status == 0
    query, head, first, second = out.splitlines()
    assert query == "a dog barks"
    assert head.split() == ["score", "file", "moment", *EXPERTS]
    assert first.lstrip().startswith("1.")
    assert second.lstrip().startswith("2.")
    assert "00:00-00:0" in first


def test_like_and_filter(call, tmp_path):
    copy = shutil.copy(tmp_path / "sounds" / "b.wav", tmp_path / "copy.wav")
    _, out, _ = call("--like", copy, "--json", "-k", "1")
    (answer,) = json.loads(out)
    assert answer["query"] == str(copy)
    assert [result["file"] for result in answer["results"]] == ["b.wav"]
    _, out, _ = call("rain", "--filter", "birds/*", "--json")
    assert {r["file"] for r in json.loads(out)[0]["results"]} == {"birds/c.wav", "birds/d.wav"}
    status, out, _ = call("rain", "--filter", "nothing")
    assert (status, out) == (0, "rain\n  nothing found\n")


def test_a_moment_of_a_long_recording_is_printed(call, tmp_path):
    sound = np.random.default_rng(0).normal(0, 0.003, 16_000 * 90).astype(np.float32)
    sound[16_000 * 72 : 16_000 * 76] += tone(1500, 4)
    write_sound(tmp_path / "long" / "long.wav", sound)
    write_sound(tmp_path / "beep.wav", tone(1500, 4))
    flags = ("--like", tmp_path / "beep.wav", "--window", "4", "--hop", "2")
    assert "01:12-01:16" in call(*flags, audio=tmp_path / "long")[1]


def test_unreadable_files_are_named_aside(call, tmp_path):
    (tmp_path / "sounds" / "broken.ogg").write_bytes(b"OggS")
    status, out, err = call("rain", "--json")
    assert (status, len(json.loads(out)[0]["results"])) == (0, 4)
    assert "broken.ogg" in err


MISTAKES = {
    "no query": ([], 2, "--like"),
    "empty query": ([" "], 2, "query"),
    "k": (["rain", "-k", "0"], 2, "-k 0"),
    "hop": (["rain", "--hop", "0"], 2, "hop"),
    "weights": (["rain", "--weights", "vggish"], 2, "vggish"),
    "unused weights": (["rain", "--weights", "vggish=x.pth"], 2, "vggish"),
    "flag": (["rain", "--top", "3"], 2, "--top"),
    "file": (["--like", "missing.wav"], 1, "missing.wav"),
    "vectors": (["rain", "--word_vectors", "missing.bin"], 1, "missing.bin"),
    "engine": (["rain", "--index", "http://127.0.0.1:1"], 1, "127.0.0.1:1"),
}


@pytest.mark.filterwarnings("ignore")  # of pymilvus
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(call, mistake):
    flags, expected, named = MISTAKES[mistake]
    status, out, err = call(*flags)
    assert (status, out) == (expected, "")
    assert named in err
    assert "Traceback" not in err


def test_folders_and_runs_that_are_none(call, tmp_path):
    (tmp_path / "empty").mkdir()
    for audio in ("empty", "missing"):
        status, _, err = call("rain", audio=tmp_path / audio)
        assert (status, audio in err) == (1, True)
    status, _, err = call("rain", run=tmp_path / "empty")
    assert (status, "trained_model.pth" in err) == (2, True)


def test_an_index_of_another_run_is_refused(call, tmp_path):
    place = tmp_path / "kept"
    assert call("rain", "--index", place)[0] == 0
    status, _, err = call("rain", "--index", place, run=make_run(tmp_path / "other", seed=3))
    assert (status, str(place) in err) == (1, True)
