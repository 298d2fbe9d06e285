"""Extraction of a folder: the whole command, resumed, shared, merged, and interrupted for good."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from audio import extraction, read
from audio.extractors import EXTRACTORS
from audio.shards import Shard, find_shard
from data_loader.readers import read_features
from misc.extract_experts import SOME_SKIPPED, main
from sounds import write_tone
from utils.errors import UsageError
from utils.extraction_record import ExtractionRecord, read_record
from utils.files import read_json
from utils.reading.hickle import write_hickle

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "misc" / "extract_experts.py"
LOGMEL = Path("structured-symlinks/aggregated_logmel/logmel-raw.hickle")
MODULATION = Path("structured-symlinks/aggregated_modulation/modulation-raw.hickle")


@pytest.fixture
def folder(tmp_path):
    """Seven sounds of several formats, rates and lengths."""
    folder = tmp_path / "sounds"
    for number, (name, rate) in enumerate(
        [("a.wav", 16_000), ("b.flac", 44_100), ("c d/ä 音.ogg", 48_000), ("c d/e.mp3", 22_050),
         ("f.wav", 8_000), ("g.wav", 16_000), ("h.wav", 16_000)]
    ):  # fmt: skip
        write_tone(folder / name, 0.6 + number, rate, 1 + number % 2, seed=number)
    return folder


def run(folder, out, *flags, experts="logmel,modulation"):
    return main(["--audio", str(folder), "--experts", experts, "--out", str(out), *flags])


def features(path):
    return {clip: np.array(tokens) for clip, tokens in read_features(path)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for clip, tokens in expected.items():
        np.testing.assert_array_equal(found[clip], tokens)


def watch(monkeypatch):
    """Return a list that grows by every wave that logmel is run on."""
    seen = []
    kind = EXTRACTORS["logmel"]
    call = kind.__call__

    def watched(self, waves):
        seen.extend(waves)
        return call(self, waves)

    monkeypatch.setattr(kind, "__call__", watched)
    return seen


@pytest.fixture
def expected(folder):
    """What one sound at a time gives: clip -> (N, 128)."""
    extractor = EXTRACTORS["logmel"]()
    names = ["a.wav", "b.flac", "c d/e.mp3", "c d/ä 音.ogg", "f.wav", "g.wav", "h.wav"]
    return {name: extractor.tokens(read(folder / name, 16_000)) for name in names}


def test_a_folder_becomes_features_that_the_readers_take(folder, tmp_path, expected, capsys):
    out = tmp_path / "Mine"
    assert run(folder, out) == 0
    assert_same(features(out / LOGMEL), expected)
    assert all(tokens.shape[1] == 512 for tokens in features(out / MODULATION).values())
    assert read_record(out / LOGMEL) == ExtractionRecord("logmel", 1)
    assert not list((out / "extraction" / "logmel").glob("[0-9]*"))
    assert "7 sounds extracted" in capsys.readouterr().out


def test_a_table_chooses_the_sounds(folder, tmp_path, expected):
    (folder / "index.csv").write_text("caption,file\nx,g.wav\ny,c d/e.mp3\n")
    assert run(folder / "index.csv", tmp_path / "Mine") == 0
    assert features(tmp_path / "Mine" / LOGMEL).keys() == {"g.wav", "c d/e.mp3"}


def test_a_second_run_extracts_only_what_is_new_or_changed(folder, tmp_path, monkeypatch):
    out = tmp_path / "Mine"
    run(folder, out)
    before = (out / LOGMEL).stat().st_mtime_ns
    assert run(folder, out) == 0
    assert (out / LOGMEL).stat().st_mtime_ns == before

    seen = watch(monkeypatch)
    write_tone(folder / "new.wav", 1.0)
    changed = write_tone(folder / "a.wav", 3.0, seed=9)
    assert run(folder, out) == 0
    assert len(seen) == 2
    found = features(out / LOGMEL)
    assert len(found) == 8
    tokens = EXTRACTORS["logmel"]().tokens(changed)
    np.testing.assert_allclose(found["a.wav"], tokens, atol=0.02)


def test_adding_an_expert_runs_that_one_alone(folder, tmp_path, monkeypatch):
    out = tmp_path / "Mine"
    run(folder, out, experts="logmel")
    monkeypatch.setattr(EXTRACTORS["logmel"], "__call__", lambda self, waves: pytest.fail("again"))
    assert run(folder, out) == 0
    assert features(out / LOGMEL).keys() == features(out / MODULATION).keys()


def test_broken_files_are_listed_and_skipped(folder, tmp_path, expected, capsys):
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp3").write_text("no sound")
    (folder / "b.flac").write_bytes((folder / "b.flac").read_bytes()[:5_000])
    out = tmp_path / "Mine"
    assert run(folder, out) == SOME_SKIPPED
    del expected["b.flac"]
    assert_same(features(out / LOGMEL), expected)
    printed = capsys.readouterr().err
    skipped = read_json(out / "extraction" / "skipped.json")
    assert sorted(skipped) == ["b.flac", "empty.wav", "text.mp3"]
    assert all(name in printed for name in skipped)
    # mended files are taken, files that broke since are left out
    write_tone(folder / "empty.wav", 1.0)
    (folder / "a.wav").write_bytes(b"RIFF")
    assert run(folder, out) == SOME_SKIPPED
    assert "empty.wav" in features(out / LOGMEL)
    assert "a.wav" not in features(out / LOGMEL)
    assert sorted(read_json(out / "extraction" / "skipped.json")) == ["a.wav", "b.flac", "text.mp3"]


def test_strict_stops_at_a_broken_file_and_keeps_the_work(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(extraction, "BATCH_FILES", 1)
    (folder / "b.flac").write_text("no sound")
    assert run(folder, tmp_path / "Mine", "--strict", experts="logmel") == 1
    assert "b.flac" in capsys.readouterr().err
    assert len(list((tmp_path / "Mine/extraction/logmel").glob("[0-9]*.pkl"))) == 1


def test_a_table_that_names_missing_files(folder, tmp_path, capsys):
    (folder / "index.csv").write_text("file\ng.wav\ngone.wav\n")
    assert run(folder / "index.csv", tmp_path / "Mine") == SOME_SKIPPED
    assert "gone.wav" in capsys.readouterr().err


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "a.wav").write_text("no sound")
    assert run(tmp_path / "sounds", tmp_path / "Mine") == 1
    assert not (tmp_path / "Mine" / LOGMEL).exists()


def test_long_sounds_go_in_blocks_and_give_the_same(folder, tmp_path, monkeypatch, expected):
    monkeypatch.setattr(extraction, "BATCH_SECONDS", 2.0)
    monkeypatch.setattr("audio.extractor.CHUNK", 1.9)
    monkeypatch.setattr("audio.reading.BLOCK", 0.9)
    assert run(folder, tmp_path / "Mine") == 0
    found = features(tmp_path / "Mine" / LOGMEL)
    for clip, tokens in expected.items():
        # decoders of compressed formats differ slightly by where reading stops
        np.testing.assert_allclose(found[clip], tokens, atol=2e-3)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_shares_together_make_what_one_process_makes(folder, tmp_path, expected, count, capsys):
    out = tmp_path / "Mine"
    for index in range(count):
        assert run(folder, out, "--shard", f"{index}/{count}") == 0
        if index < min(count, 7) - 1:
            assert run(folder, out, "--merge") == 1
            assert "not extracted yet" in capsys.readouterr().err
    assert not (out / LOGMEL).exists()
    assert run(folder, out, "--merge") == 0
    assert_same(features(out / LOGMEL), expected)
    assert list(features(out / LOGMEL)) == list(features(out / MODULATION))


def test_shares_come_from_torchrun_and_slurm_too():
    assert find_shard(None, {}) is None
    assert find_shard("1/4", {"RANK": "0", "WORLD_SIZE": "2"}) == Shard(1, 4)
    assert find_shard(None, {"RANK": "1", "WORLD_SIZE": "2"}) == Shard(1, 2)
    assert find_shard(None, {"RANK": "0", "WORLD_SIZE": "1"}) is None
    slurm = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4"}
    slurm |= {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "2"}
    assert find_shard(None, slurm) == Shard(3, 4)
    items = list(range(10))
    assert sorted(item for i in range(3) for item in Shard(i, 3).of(items)) == items


@pytest.mark.parametrize("flag", ["4/4", "1", "a/b", "-1/2", "1/0", "1/2/3"])
def test_what_is_no_share_is_refused(flag):
    with pytest.raises(UsageError):
        find_shard(flag, {})


def test_features_of_another_extractor_are_not_mixed_in(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "Mine"
    run(folder, out, "--shard", "0/2", experts="logmel")
    monkeypatch.setattr(EXTRACTORS["logmel"], "version", 2)
    assert run(folder, out, experts="logmel") == 1
    error = capsys.readouterr().err
    assert "logmel version 1" in error
    assert "logmel version 2" in error
    monkeypatch.setattr(EXTRACTORS["logmel"], "version", 1)
    assert run(folder, out, experts="logmel") == 0
    monkeypatch.setattr(EXTRACTORS["logmel"], "version", 2)
    assert run(folder, out, experts="logmel") == 1


def test_features_without_a_record_are_left_alone(folder, tmp_path, capsys):
    out = tmp_path / "Mine"
    (out / LOGMEL).parent.mkdir(parents=True)
    write_hickle(out / LOGMEL, {"published": np.ones((2, 128), np.float32)})
    assert run(folder, out, experts="logmel") == 1
    assert str(out / LOGMEL) in capsys.readouterr().err
    assert list(features(out / LOGMEL)) == ["published"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--experts", "logmell"],
        ["--experts", ","],
        ["--experts", "logmel", "--weights", "vggish=x"],
        ["--experts", "logmel", "--weights", "logmel="],
        ["--experts", "logmel", "--device", "99"],
        ["--experts", "logmel", "--shard", "2/2"],
    ],
)
def test_wrong_flags_are_usage_errors(folder, tmp_path, flags):
    assert main(["--audio", str(folder), "--out", str(tmp_path / "Mine"), *flags]) == 2


def test_help_works_from_another_directory(tmp_path):
    command = [sys.executable, str(SCRIPT), "--help"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--shard" in found.stdout


SLOW = """
import sys, time
sys.path.insert(0, sys.argv.pop(1))
from audio import extraction
from audio.builtin import LogMel
from misc.extract_experts import main
call = LogMel.__call__
def slowly(self, waves):
    time.sleep(0.15)
    return call(self, waves)
LogMel.__call__ = slowly
extraction.BATCH_FILES, extraction.PART_SECONDS = 1, 0.0
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_process_loses_little_and_the_next_goes_on(tmp_path, monkeypatch):
    folder, out = tmp_path / "sounds", tmp_path / "Mine"
    for number in range(24):
        write_tone(folder / f"{number:02}.wav", 1.0, seed=number)
    flags = ["--audio", str(folder), "--experts", "logmel", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    parts = out / "extraction" / "logmel"
    killed = 0
    while killed < 2:
        before = len(list(parts.glob("[0-9]*.pkl")))
        child = subprocess.Popen(
            [sys.executable, "-c", SLOW, str(ROOT), *flags], env=environment, cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while len(list(parts.glob("[0-9]*.pkl"))) < before + 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        killed += 1
    done = len(list(parts.glob("[0-9]*.pkl")))
    assert 8 <= done < 24
    assert not (out / LOGMEL).exists()

    seen = watch(monkeypatch)
    assert main(flags) == 0
    assert len(seen) == 24 - done
    shutil.rmtree(tmp_path / "again", ignore_errors=True)
    assert main([*flags[:-1], str(tmp_path / "again")]) == 0
    assert_same(features(out / LOGMEL), features(tmp_path / "again" / LOGMEL))


def test_a_damaged_part_is_an_error_naming_it(folder, tmp_path, capsys):
    out = tmp_path / "Mine"
    run(folder, out, "--shard", "0/2", experts="logmel")
    part = next((out / "extraction" / "logmel").glob("*.pkl"))
    part.write_bytes(part.read_bytes()[:50])
    assert run(folder, out, experts="logmel") == 1
    assert part.name in capsys.readouterr().err
