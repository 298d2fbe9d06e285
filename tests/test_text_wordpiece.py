"""BERT's tokenizer: worked by hand on a small vocabulary, and on what people type."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text.wordpiece import WordPieces, pad, split_words
from utils.errors import DataError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
PIECES = [*SPECIAL, "a", "dog", "bark", "##s", "##ing", "b", "##ark", "cafe", ".", ",", "雷"]


@pytest.fixture
def vocabulary():
    return WordPieces(PIECES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A Dog  barks.", ["a", "dog", "barks", "."]),
        ("Café naïve Zürich", ["cafe", "naive", "zurich"]),
        ("isn't it?!", ["isn", "'", "t", "it", "?", "!"]),
        ("$5 ^ a_b", ["$", "5", "^", "a", "_", "b"]),
        ("海の音", ["海", "の", "音"]),
        ("tab\there\u00a0no\u200bbreak\u00ad", ["tab", "here", "nobreak"]),
        ("“quoted” – so…", ["“", "quoted", "”", "–", "so", "…"]),
        ("\u0000\ufffd \n", []),
    ],
)
def test_words_are_lower_case_without_accents_and_marks_are_alone(text, words):
    assert split_words(text) == words


def test_the_longest_pieces_come_first(vocabulary):
    assert vocabulary.pieces("A dog barks, barking 雷") == [
        *("a", "dog", "bark", "##s", ",", "bark", "##ing", "雷")
    ]


@pytest.mark.parametrize("word", ["cat", "barkx", "雨", "a" * 101])
def test_a_word_without_pieces_is_unknown_as_a_whole(vocabulary, word):
    assert vocabulary.pieces(f"a {word}") == ["a", "[UNK]"]


def test_the_end_replaces_what_is_cut_off(vocabulary):
    assert vocabulary.sequence("a dog barks", 10) == [2, 4, 5, 6, 7, 3]
    assert vocabulary.sequence("a dog barks", 4) == [2, 4, 5, 3]
    assert vocabulary.sequence("", 4) == [2, 3]


def test_padding_is_zeros_behind():
    ids, exists = pad([[2, 3], [2, 4, 5, 3]], 5)
    np.testing.assert_array_equal(ids, [[2, 3, 0, 0, 0], [2, 4, 5, 3, 0]])
    np.testing.assert_array_equal(exists, ids > 0)
    assert pad([[2, 3], [2, 4, 3]]).ids.shape == (2, 3)


def test_a_vocabulary_is_one_piece_a_line(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join(PIECES).encode() + b"\r\n")
    read = WordPieces.read(path)
    assert read.ids == {piece: i for i, piece in enumerate(PIECES)}
    assert read.size == len(PIECES)
    assert len(read.sha256) == 64


@pytest.mark.parametrize("content", [b"a\nb\n", b"", b"\xff\xfe[PAD]\n"])
def test_what_is_no_vocabulary_is_refused(tmp_path, content):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"vocab\.txt"):
        WordPieces.read(path)


@given(st.text(max_size=50), st.integers(2, 20))
def test_any_text_becomes_ids_of_the_vocabulary(text, limit):
    sequence = WordPieces(PIECES).sequence(text, limit)
    assert 2 <= len(sequence) <= limit
    assert (sequence[0], sequence[-1]) == (2, 3)
    assert all(0 <= i < len(PIECES) for i in sequence)
