"""The data set on disk: whole, repeatable to the byte, and read by the ordinary readers."""

import json
import os
import wave

import numpy as np
import pytest

from audio import signal_features as features
from data_loader.readers import read_captions, read_features, read_text_features
from misc import make_soundscenes as command
from soundscenes import write
from soundscenes.grammar import captions
from soundscenes.scene import plan, render
from text.ngrams import caption_vectors
from utils.errors import DataError, ProjectError
from utils.files import read_list

COUNTS = {"train": 6, "val": 2, "test": 3}
ARGS = ["--train", "6", "--val", "2", "--test", "3", "--workers", "1"]


def make(folder, seed=0, counts=COUNTS, **options):
    options.setdefault("workers", 1)
    return write.make_soundscenes(folder, seed=seed, counts=counts, quiet=True, **options)


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "SoundScenes"
    assert make(folder)
    return folder


def test_generating_twice_gives_the_same_bytes(made, tmp_path):
    make(tmp_path)
    assert content(tmp_path) == content(made)


def test_another_seed_gives_other_sounds_words_and_features(made, tmp_path):
    make(tmp_path, seed=1)
    before, after = content(made), content(tmp_path)
    assert before.keys() == after.keys()
    same = {name for name in before if before[name] == after[name]}
    assert same == {f"structured-symlinks/{split}_list.txt" for split in COUNTS}


def test_processes_do_not_change_a_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "_FEW", 2)
    make(tmp_path / "one", workers=1)
    make(tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_process_that_is_ended_is_reported_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "_FEW", 2)
    monkeypatch.setattr(write, "_leave_interrupts", leave)
    with pytest.raises(ProjectError, match="--workers 1"):
        make(tmp_path, workers=2)


def leave():
    """Stand in for the system that ends a process of too much memory."""
    os._exit(9)


def test_a_generation_that_was_cut_off_is_finished_by_asking_again(made, tmp_path, monkeypatch):
    rendered = []

    def stop_after_four(scene):
        if len(rendered) == 4:
            raise KeyboardInterrupt
        rendered.append(scene.name)
        return render(scene)

    monkeypatch.setattr(write, "render", stop_after_four)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    assert json.loads((tmp_path / write.RECORD).read_text())["complete"] is False
    again = []
    monkeypatch.setattr(write, "render", lambda scene: again.append(scene.name) or render(scene))
    assert make(tmp_path)
    assert len(again) == sum(COUNTS.values()) - 4
    assert content(tmp_path) == content(made)


def test_what_is_there_is_left_alone_and_what_is_missing_comes_back(tmp_path):
    make(tmp_path)
    before = content(tmp_path)
    assert not make(tmp_path)
    (tmp_path / "audio" / "train-0003.wav").unlink()
    assert make(tmp_path)
    assert content(tmp_path) == before


def test_other_scenes_are_not_written_over_unless_asked(tmp_path):
    make(tmp_path, seed=1)
    before = content(tmp_path)
    with pytest.raises(DataError, match="--refresh"):
        make(tmp_path, seed=2)
    with pytest.raises(DataError, match="--refresh"):
        make(tmp_path, seed=1, counts={**COUNTS, "train": 7})
    assert content(tmp_path) == before


def test_refresh_removes_earlier_sounds_and_nothing_of_the_users(tmp_path):
    make(tmp_path, seed=1, counts={**COUNTS, "train": 9})
    mine = tmp_path / "audio" / "my-recording.wav"
    mine.write_bytes(b"mine")
    make(tmp_path, seed=0, refresh=True)
    names = {path.name for path in (tmp_path / "audio").iterdir()}
    assert names == {f"{s}-{i:04d}.wav" for s, n in COUNTS.items() for i in range(n)} | {mine.name}
    assert mine.read_bytes() == b"mine"


def test_sounds_are_mono_wav_of_16_bit_at_16_khz(made):
    for scene in plan(0, COUNTS):
        path = made / "audio" / f"{scene.name}.wav"
        with wave.open(str(path)) as file:
            assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
            assert file.getframerate() == 16_000
        np.testing.assert_array_equal(write.read_wav(path), render(scene))


def test_the_ordinary_readers_read_lists_features_captions_and_vectors(made):
    root = made / "structured-symlinks"
    scenes = {scene.name: scene for scene in plan(0, COUNTS)}
    for split, count in COUNTS.items():
        names = read_list(root / f"{split}_list.txt")
        assert names == [name for name, scene in scenes.items() if scene.split == split]
        assert len(names) == count
    for expert, width in features.WIDTHS.items():
        found = dict(read_features(root / f"aggregated_{expert}" / f"{expert}-raw.hickle"))
        assert found.keys() == scenes.keys()
        for name, tokens in found.items():
            sound = write.read_wav(made / "audio" / f"{name}.wav")
            expected = features.extract((sound / 32_768).astype(np.float32))[expert]
            assert tokens.shape == (len(expected), width)
            np.testing.assert_array_equal(tokens, expected.astype(np.float16))
    said = read_captions(root / "raw-captions.pkl")
    assert said == {name: captions(scene) for name, scene in scenes.items()}
    for name, vectors in read_text_features(root / "text_embeddings" / "ngrams.pkl"):
        assert len(vectors) == 5
        for words, array in zip(said[name], vectors, strict=True):
            np.testing.assert_allclose(array, caption_vectors(words), atol=1e-3)


def test_a_damaged_sound_is_named(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(b"no sound")
    with pytest.raises(DataError, match=r"x\.wav"):
        write.read_wav(path)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
    with pytest.raises(DataError, match="expected mono"):
        write.read_wav(path)


def test_command_makes_says_where_and_says_when_it_is_there(tmp_path, capsys):
    args = ["--data_dir", str(tmp_path), *ARGS]
    assert command.main(args) == 0
    assert str(tmp_path / "SoundScenes") in capsys.readouterr().out
    assert command.main(args) == 0
    assert "already there" in capsys.readouterr().out
    assert command.main([*args, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert command.main([*args, "--seed", "5"]) == 1
    assert "--refresh" in capsys.readouterr().err
    assert command.main([*args, "--seed", "5", "--refresh"]) == 0


@pytest.mark.parametrize("wrong", [["--train", "0"], ["--test", "-1"], ["--seed", "-1"]])
def test_command_refuses_impossible_numbers(tmp_path, capsys, wrong):
    assert command.main(["--data_dir", str(tmp_path), *ARGS, *wrong]) == 2
    assert "at least" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
