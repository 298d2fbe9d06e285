"""A table and a folder become a data set that trains, with its config."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import eval as evaluation
import train
from data_loader import build_dataset
from data_loader.readers import read_captions
from misc.make_dataset import main
from misc.own_data.captions import read_captioned, split_clips
from sounds import write_tone
from utils.config import load_config
from utils.errors import DataError
from utils.extraction_record import ExtractionRecord, write_record
from utils.files import read_list
from utils.reading.hickle import write_hickle

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "misc" / "make_dataset.py"
NAMES = [f"{n:02}.wav" for n in range(10)] + ["deep/ä 音.flac", "deep/b.ogg"]


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(NAMES):
        write_tone(tmp_path / "sounds" / name, 0.4 + 0.3 * number, seed=number)
    return tmp_path / "sounds"


def table(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    return path


@pytest.fixture
def csv(tmp_path):
    """As a spreadsheet writes it: byte order mark, CRLF, quotes, empty fields, columns of notes."""
    splits = ["train"] * 8 + ["Validation"] * 2 + ["test"] * 2
    rows = [
        f'{name},"Nr. {n}, ""quoted"" ä",{"another one" if n % 2 else ""},note,{split}'
        for n, (name, split) in enumerate(zip(NAMES, splits, strict=True))
    ]
    head = "File,Caption 1,Caption 2,remark,Split"
    return table(tmp_path, "\ufeff" + "\r\n".join([head, *rows]) + "\r\n")


def make(folder, tmp_path, *flags):
    out, config = tmp_path / "Mine", tmp_path / "mine.json"
    return main(["--audio", str(folder), "--out", str(out), "--config", str(config), *flags])


def opened(tmp_path, split="train"):
    config = load_config(tmp_path / "mine.json", data_dir=None)
    config = config if split != "test" else config.for_evaluation()
    return build_dataset(config, split)


def test_a_table_and_a_folder_become_a_data_set_that_opens(folder, csv, tmp_path, capsys):
    assert make(folder, tmp_path, "--csv", str(csv)) == 0
    root = tmp_path / "Mine" / "structured-symlinks"
    assert read_list(root / "train_list.txt") == NAMES[:8]
    assert read_list(root / "val_list.txt") == NAMES[8:10]
    captions = read_captions(root / "raw-captions.pkl")
    assert captions["01.wav"] == [["Nr.", "1,", '"quoted"', "ä"], ["another", "one"]]
    assert captions["02.wav"] == [["Nr.", "2,", '"quoted"', "ä"]]
    assert "python train.py --config" in capsys.readouterr().out
    content = json.loads((tmp_path / "mine.json").read_text())
    content["data_loader"]["args"]["packed_dir"] = str(tmp_path / "packed")
    (tmp_path / "mine.json").write_text(json.dumps(content))
    dataset = opened(tmp_path)
    assert len(dataset) == 8
    assert dataset.captions("01.wav")[1] == "another one"
    text, experts, available = dataset.batch([0, 3, 7])
    assert text.shape[0] == 3
    assert set(experts) == {"logmel", "modulation"}
    assert all(bool(mask.all()) for mask in available.values())
    assert len(opened(tmp_path, "test")) == 2


def test_the_features_record_reaches_the_data_sets_identity(folder, csv, tmp_path):
    make(folder, tmp_path, "--csv", str(csv), "--experts", "logmel")
    content = json.loads((tmp_path / "mine.json").read_text())
    content["data_loader"]["args"]["packed_dir"] = str(tmp_path / "packed")
    (tmp_path / "mine.json").write_text(json.dumps(content))
    features = opened(tmp_path).identity["features"]
    entry = features["aggregated_logmel/logmel-raw.hickle"]
    assert entry["extractor"]["extractor"] == "logmel"
    assert "extractor" not in features["text_embeddings/ngrams.pkl"]


def test_unreadable_files_are_left_out_of_the_lists(folder, csv, tmp_path, capsys):
    (folder / "03.wav").write_bytes(b"")
    (folder / "04.wav").unlink()
    assert make(folder, tmp_path, "--csv", str(csv)) == 3
    kept = [name for name in NAMES[:8] if name not in ("03.wav", "04.wav")]
    assert read_list(tmp_path / "Mine/structured-symlinks/train_list.txt") == kept
    error = capsys.readouterr().err
    assert "03.wav" in error
    assert "04.wav" in error


def test_imported_experts_may_lack_clips(folder, csv, tmp_path):
    place = tmp_path / "Mine/structured-symlinks/aggregated_clap/clap-raw.hickle"
    place.parent.mkdir(parents=True)
    values = {name: np.ones(6, np.float32) for name in NAMES[1:]}
    write_hickle(place, values)
    assert make(folder, tmp_path, "--csv", str(csv), "--experts", "logmel,clap") == 0
    entry = load_config(tmp_path / "mine.json").experts[0]
    assert (entry.name, entry.width, entry.tokens, entry.flaky) == ("clap", 6, False, True)


def test_without_captions_there_are_features_to_search(folder, tmp_path):
    assert make(folder, tmp_path, "--experts", "logmel") == 0
    assert (tmp_path / "Mine/structured-symlinks/aggregated_logmel/logmel-raw.hickle").exists()
    assert not (tmp_path / "mine.json").exists()


def test_a_caption_in_each_row_and_columns_by_name(tmp_path):
    path = table(tmp_path, "file,phrase\na.wav,one\na.wav,two  words\na.wav,one\nb.wav,three\n")
    found = read_captioned(path, ["Phrase"])
    assert found.captions == {"a.wav": ["one", "two words"], "b.wav": ["three"]}
    assert found.splits == {}


@pytest.mark.parametrize(
    "text",
    [
        "file,text\na.wav,x\n",
        "name,caption\na.wav,x\n",
        "file,caption\na.wav,\n",
        "file,caption\n",
        "file,caption,split\na.wav,x,later\n",
        "file,caption,split\na.wav,x,train\na.wav,y,test\n",
        "file,caption\n,x\n",
        "file,caption\nback\\slash.wav,x\n",
    ],
)
def test_a_table_that_cannot_be_meant_is_an_error_naming_it(tmp_path, text):
    with pytest.raises(DataError, match=r"t\.csv"):
        read_captioned(table(tmp_path, text))


def test_drawn_splits_share_no_caption_and_repeat(tmp_path):
    rows = "".join(f"{n}.wav,phrase {n // 3},{n}\n" for n in range(120))
    captioned = read_captioned(table(tmp_path, "file,caption,n\n" + rows))
    clips = list(captioned.captions)
    splits = split_clips(captioned, clips)
    assert sorted(clip for names in splits.values() for clip in names) == sorted(clips)
    assert {name: len(found) for name, found in splits.items()} == {
        "train": 96,
        "val": 12,
        "test": 12,
    }
    phrases = [{captioned.captions[c][0] for c in found} for found in splits.values()]
    assert not phrases[0] & phrases[1] | phrases[0] & phrases[2] | phrases[1] & phrases[2]
    assert split_clips(captioned, clips) == splits
    assert split_clips(captioned, clips, seed=1) != splits


def test_too_few_clips_to_split_is_an_error(tmp_path):
    captioned = read_captioned(table(tmp_path, "file,caption\na.wav,x\nb.wav,x\nc.wav,x\n"))
    with pytest.raises(DataError, match="split"):
        split_clips(captioned, list(captioned.captions))


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (["--experts", ","], 2),
        (["--experts", "clap"], 1),
        (["--text", "ngram"], 2),
        (["--text", "w2v"], 2),
        (["--word_vectors", "missing.bin"], 1),
    ],
)
def test_wrong_flags_say_what_is_wrong(folder, csv, tmp_path, flags, status):
    assert make(folder, tmp_path, "--csv", str(csv), *flags) == status


def test_the_wrong_folder_is_noticed_before_any_work(csv, tmp_path, capsys):
    write_tone(tmp_path / "other" / "x.wav", 0.5)
    assert make(tmp_path / "other", tmp_path, "--csv", str(csv)) == 1
    assert "00.wav" in capsys.readouterr().err
    assert not (tmp_path / "Mine").exists()


def test_help_works_from_another_directory(tmp_path):
    command = [sys.executable, str(SCRIPT), "--help"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--csv" in found.stdout


def test_a_run_refuses_features_of_another_extractor(folder, csv, tmp_path, monkeypatch, capsys):
    make(folder, tmp_path, "--csv", str(csv), "--experts", "logmel")
    content = json.loads((tmp_path / "mine.json").read_text())
    content["data_loader"]["args"]["packed_dir"] = str(tmp_path / "packed")
    content["trainer"] = {"epochs": 1, "save_dir": str(tmp_path / "saved"), "tensorboard": False}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    assert train.main(["--config", str(tmp_path / "mine.json"), "--quiet"]) == 0
    (checkpoint,) = tmp_path.glob("saved/models/**/trained_model.pth")
    flags = ["--resume", str(checkpoint), "--quiet", "--out", str(tmp_path / "scores")]
    assert evaluation.main(flags) == 0
    features = tmp_path / "Mine/structured-symlinks/aggregated_logmel/logmel-raw.hickle"
    write_record(features, ExtractionRecord("logmel", 2))
    capsys.readouterr()
    assert evaluation.main(flags) == 1
    error = capsys.readouterr().err
    assert "logmel version 1" in error
    assert "logmel version 2" in error
    again = ["--config", str(tmp_path / "mine.json"), "--quiet", "--finetune"]
    assert train.main([*again, "--resume", str(checkpoint)]) == 1
    assert "logmel version 1" in capsys.readouterr().err


def test_clips_that_share_captions_by_way_of_others_stay_together(tmp_path):
    rows = ["a.wav,one,", "b.wav,two,", "c.wav,one,two", *(f"{n}.wav,text {n}," for n in range(30))]
    path = table(tmp_path, "\n".join(["file,caption 1,caption 2", *rows]))
    for seed in range(20):
        splits = split_clips(captioned := read_captioned(path), list(captioned.captions), seed)
        together = {"a.wav", "b.wav", "c.wav"}
        assert sorted(len(together & set(clips)) for clips in splits.values()) == [0, 0, 3]


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.wav", "x/../../a.wav"])
def test_files_outside_the_folder_are_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"t\.csv: line 2: .* leads out of the folder"):
        read_captioned(table(tmp_path, f"file,caption\n{name},a dog barks\n"))


def test_one_file_under_two_names_is_one_clip(tmp_path):
    path = table(tmp_path, "file,caption\na.wav,one\n./a.wav,two\nb//c.wav,three\n")
    assert read_captioned(path).captions == {"a.wav": ["one", "two"], "b/c.wav": ["three"]}


def test_the_seed_draws_the_splits(folder, tmp_path):
    path = table(tmp_path, "\n".join(["file,caption", *(f"{name},a {name}" for name in NAMES)]))
    lists = []
    for seed in ("0", "0", "1"):
        assert make(folder, tmp_path, "--csv", str(path), "--seed", seed, "--quiet") == 0
        lists.append(read_list(tmp_path / "Mine" / "structured-symlinks" / "train_list.txt"))
    assert lists[0] == lists[1] != lists[2]


def test_every_caption_of_the_test_clips_is_asked(folder, tmp_path):
    splits = ["train"] * 10 + ["val", "test"]
    rows = [f"{name},a {name},,{split}" for name, split in zip(NAMES, splits, strict=True)]
    rows[-1] = rows[-1].replace(",,", f",b {NAMES[-1]},")
    path = table(tmp_path, "\n".join(["file,caption 1,caption 2,split", *rows]))
    assert make(folder, tmp_path, "--csv", str(path), "--quiet") == 0
    config = load_config(tmp_path / "mine.json").for_evaluation()
    assert config.data.num_test_captions == 2
