"""From recordings and a table of captions to answers: data set, training, search; one encoder."""

import json
import shutil
from pathlib import Path

import pytest

import eval as evaluation
import train
from misc import make_dataset, search
from sounds import write_tone
from surroundings import working_in

ROOT = Path(__file__).resolve().parent.parent
SOUNDS = ("a dog barks", "rain falls on a roof", "somebody walks", "a bell rings")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with recordings, a data set made of them, and a run trained on it."""
    folder = tmp_path_factory.mktemp("own")
    rows = ["file,caption,split"]
    for n in range(16):
        write_tone(folder / "sounds" / f"{n}.wav", 1 + 0.1 * n, frequency=200 + 90 * n, seed=n)
        split = "train" if n < 12 else "val" if n < 14 else "test"
        rows.append(f"{n}.wav,{SOUNDS[n % 4]} number {n},{split}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    flags = ["--audio", "sounds", "--csv", "table.csv", "--out", "data/Own", "--config", "own.json"]
    with working_in(folder):
        assert make_dataset.main([*flags, "--quiet"]) == 0
        once = ["--config", "own.json", "--mini_train", "--train_single_epoch", "--quiet"]
        assert train.main(once) == 0
    return folder


@pytest.fixture(scope="module")
def run(place):
    (checkpoint,) = place.glob("data/saved/models/**/trained_model.pth")
    return checkpoint.parent


def ask(place, run, *flags):
    with working_in(place):
        return search.main(
            ["--run", str(run), "--audio", "sounds", "a dog barks", "--json", *flags]
        )


def test_a_question_finds_recordings(place, run, capsys):
    assert ask(place, run, "-k", "3") == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["query"] == "a dog barks"
    assert len(answer["results"]) == 3
    for result in answer["results"]:
        assert (place / "sounds" / result["file"]).is_file()
        assert set(result["experts"]) == {"logmel", "modulation"}


def test_config_and_run_name_the_encoder_of_the_captions(place, run):
    config = json.loads((place / "own.json").read_text())
    record = json.loads((run / "text_encoder.json").read_text())
    assert config["experts"]["text_encoder"] == {"type": "CharacterNgrams"} == record["encoder"]
    assert record["words"] > 16


def test_a_run_answers_far_from_its_data_set(place, run, tmp_path, capsys):
    """As after copying the run's folder to another machine."""
    alone = tmp_path / "run"
    shutil.copytree(run, alone)
    assert ask(place, run) == 0
    expected = capsys.readouterr().out
    content = json.loads((alone / "config.json").read_text())
    content["data_loader"]["args"]["data_dir"] = str(tmp_path / "absent" / "Own")
    content["experts"].pop("text_encoder")
    content["experts"]["text_feat"] = "w2v"  # of which no table names the encoder
    (alone / "config.json").write_text(json.dumps(content))
    assert ask(place, alone, "--index", str(tmp_path / "index")) == 0
    assert capsys.readouterr().out == expected
    (alone / "text_encoder.json").unlink()
    assert ask(place, alone, "--index", str(tmp_path / "index")) == 2
    assert "--word_vectors" in capsys.readouterr().err


def test_captions_of_another_encoder_are_refused(place, run, tmp_path, capsys):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    record = json.loads((other / "text_encoder.json").read_text())
    record["identity"]["encoder"] = "another"
    (other / "text_encoder.json").write_text(json.dumps(record))
    checkpoint = str(other / "trained_model.pth")
    with working_in(place):
        assert evaluation.main(["--resume", checkpoint, "--quiet"]) == 1
        assert "another" in capsys.readouterr().err
        flags = ["--config", "own.json", "--resume", checkpoint, "--mini_train", "--quiet"]
        assert train.main(flags) == 1
        assert "another" in capsys.readouterr().err
    vectors = tmp_path / "vectors.txt"
    words = ("a", "dog", "barks")
    vectors.write_text("".join(f"{word} " + "0.5 " * 300 + "\n" for word in words))
    assert ask(place, run, "--word_vectors", str(vectors)) == 1
    assert "--word_vectors" in capsys.readouterr().err
