"""Captions of a data set, encoded once; and the record that encodes queries alike."""

import numpy as np
import pytest

from misc.encode_captions import main
from test_text_word_vectors import VECTORS, WORDS, binary
from text.captions import (
    encode_captions,
    entry_of,
    read_record,
    record_path,
    write_text_features,
)
from text.ngrams import CharacterNgrams
from utils.errors import DataError
from utils.reading.pickles import dump_plain, load_plain

CAPTIONS = {"a": [["the", "dog"], ["rain"]], "b": [["the", "xylophone", "dog"]]}


def entry(tmp_path, **changes):
    path = tmp_path / "vectors.bin"
    binary(path, **changes)
    return {"type": "WordVectors", "args": {"file": str(path)}}


def test_features_are_lists_of_captions_by_clip(tmp_path):
    path = tmp_path / "text_embeddings" / "w2v.pkl"
    record = write_text_features(path, CAPTIONS, entry(tmp_path))
    features = load_plain(path)
    assert list(features) == ["a", "b"]
    np.testing.assert_array_equal(features["a"][0], VECTORS[:2])
    np.testing.assert_array_equal(features["a"][1], VECTORS[[WORDS.index("rain")]])
    np.testing.assert_array_equal(features["b"][0], VECTORS[:2])
    assert (record.words, record.dropped) == (6, 1)


def test_the_record_encodes_queries_as_the_captions_were(tmp_path):
    path = tmp_path / "w2v.pkl"
    written = write_text_features(path, CAPTIONS, entry(tmp_path))
    record = read_record(record_path(path))
    assert record == written
    (query,) = record.open("RUN").encode(["The dog"])
    np.testing.assert_array_equal(query, load_plain(path)["a"][0])
    entry(tmp_path, vectors=VECTORS + 1)  # the file of vectors is another one now
    with pytest.raises(DataError, match="RUN"):
        record.open("RUN")


def test_a_clip_without_a_known_word_is_named(tmp_path):
    with pytest.raises(DataError, match="'c'"):
        write_text_features(tmp_path / "x.pkl", {**CAPTIONS, "c": [["xylophone"]]}, entry(tmp_path))
    assert not (tmp_path / "x.pkl").exists()


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"encoder": 1, "identity": {}, "words": 1, "dropped": 0}']
)
def test_what_is_no_record_is_refused(tmp_path, content):
    path = tmp_path / "w2v.pkl.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"w2v\.pkl"):
        read_record(path)
    with pytest.raises(DataError):
        read_record(tmp_path / "none.json")


def test_many_captions_keep_their_clips():
    captions = {f"clip{n}": [[f"word{n}"], [f"other{n}"]] for n in range(1500)}
    encoded = encode_captions(captions, CharacterNgrams())
    for n in (0, 700, 1499):
        (alone,) = CharacterNgrams().encode([f"other{n}"])
        np.testing.assert_array_equal(encoded[f"clip{n}"][1], alone)


def test_the_command_writes_beside_the_captions(tmp_path, capsys):
    root = tmp_path / "structured-symlinks"
    (root / "structured-symlinks").mkdir(parents=True)
    dump_plain(CAPTIONS, root / "structured-symlinks" / "raw-captions.pkl")
    assert main(["--captions", str(root), "--feature", "ngrams"]) == 0
    assert load_plain(root / "text_embeddings" / "ngrams.pkl")["b"][0].shape == (3, 300)
    binary(tmp_path / "v.bin")
    file = f"file={tmp_path / 'v.bin'}"
    words = ["--feature", "mine", "--encoder", "WordVectors", "--args", file]
    assert main(["--captions", str(root), *words]) == 0
    assert "16.7 %" in capsys.readouterr().out
    assert main(["--captions", str(root), "--feature", "w2v"]) == 2
    assert main(["--captions", str(root), *words[:-1], "file"]) == 2


def test_features_of_the_table_name_their_encoders():
    from misc.encode_captions import TABLE

    assert entry_of("minilm-tokens", TABLE) == {"type": "TokenEncoder"}
    assert entry_of("w2v", TABLE) is None
    assert entry_of("none", TABLE) is None
