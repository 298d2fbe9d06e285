"""Word vectors from files: the formats, how a word is found, and files that are damaged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text import build_encoder
from text.encoder import WordlessTextError, require_equal
from text.word_vectors import WordVectors
from text.words import lemmas, misspellings, words_of
from utils.errors import ConfigError, DataError

WORDS = ["the", "dog", "run", "Paris", "soak", "rain", "barking", "bark", "drive", "cry", "child"]
VECTORS = np.random.default_rng(0).normal(size=(len(WORDS), 5)).astype(np.float32)


def binary(path, *, newline=b"", words=WORDS, vectors=VECTORS, head=None):
    head = f"{len(words)} {vectors.shape[1]}\n".encode() if head is None else head
    rows = (w.encode() + b" " + v.tobytes() + newline for w, v in zip(words, vectors, strict=True))
    path.write_bytes(head + b"".join(rows))
    return path


def text(path, *, head):
    lines = [
        f"{w} {' '.join(map(repr, map(float, v)))}" for w, v in zip(WORDS, VECTORS, strict=True)
    ]
    path.write_text("\n".join(([f"{len(WORDS)} 5"] if head else []) + lines) + "\n")
    return path


@pytest.fixture(params=["binary", "binary with newlines", "word2vec text", "GloVe"])
def file(request, tmp_path):
    path = tmp_path / "vectors"
    if request.param.startswith("binary"):
        return binary(path, newline=b"\n" if "newlines" in request.param else b"")
    return text(path, head=request.param == "word2vec text")


def test_every_format_gives_the_same_vectors(file):
    encoder = WordVectors(str(file))
    assert encoder.width == 5
    first, second = encoder.encode(["the dog", "rain"])
    assert first.dtype == np.float32
    np.testing.assert_allclose(first, VECTORS[:2], rtol=1e-6)
    np.testing.assert_allclose(second, VECTORS[[5]], rtol=1e-6)


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("Paris", ["Paris"]),
        ("DOG", ["dog"]),
        ("barking", ["barking"]),
        ("barks", ["bark"]),
        ("dog's", ["dog"]),
        ("running", ["run"]),
        ("ran", ["run"]),
        ("driving", ["drive"]),
        ("cried", ["cry"]),
        ("children", ["child"]),
        ("rain-soaked", ["rain", "soak"]),
        ("rani", ["rain"]),
        ("barkng", ["barking"]),
        ("dgo", []),  # too short to be a misspelling
        ("xylophone", []),
        ("paris", []),
    ],
)
def test_how_a_word_is_found(tmp_path, word, found):
    assert WordVectors(str(binary(tmp_path / "v"))).find(word) == found


def test_unknown_words_are_dropped_and_counted(tmp_path):
    encoder = WordVectors(str(binary(tmp_path / "v")))
    (vectors,) = encoder.encode(["The xylophone, dog!"])
    np.testing.assert_array_equal(vectors, VECTORS[:2])
    assert encoder.dropped(["The xylophone, dog!", "qqqq dog"]) == (2, 5)
    for wordless in ("xylophone qqqq", "", "?!"):
        with pytest.raises(WordlessTextError):
            encoder.encode(["dog", wordless])


def test_the_first_of_two_equal_words_counts(tmp_path):
    path = binary(tmp_path / "v", words=["dog", "dog"], vectors=VECTORS[:2])
    np.testing.assert_array_equal(WordVectors(str(path)).encode(["dog"])[0], VECTORS[:1])


def damaged(path, kind):
    if kind == "missing":
        return path
    binary(path)
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "cut short": content[:-3],
            "a head alone": content[:5],
            "prose": b"The quick brown fox\njumps over\n",
            "no words": b"0 5\n",
        }[kind]
    )
    return path


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "cut short", "a head alone", "prose", "no words"]
)
def test_a_damaged_file_is_named(tmp_path, kind):
    with pytest.raises(DataError, match="vectors"):
        WordVectors(str(damaged(tmp_path / "vectors", kind)))


def test_a_vector_of_no_number_is_refused(tmp_path):
    vectors = VECTORS.copy()
    vectors[1, 2] = np.nan
    encoder = WordVectors(str(binary(tmp_path / "v", vectors=vectors)))
    assert len(encoder.encode(["the"])[0]) == 1
    with pytest.raises(DataError, match="dog"):
        encoder.encode(["dog"])


def test_captions_and_queries_need_equal_encoders(tmp_path):
    one, other = (
        WordVectors(str(binary(tmp_path / n, vectors=VECTORS + i))) for i, n in enumerate("ab")
    )
    require_equal(one.identity, dict(one.identity), "RUN")
    with pytest.raises(DataError, match="vectors"):
        require_equal(one.identity, other.identity, "RUN")


def test_an_entry_becomes_an_encoder(tmp_path):
    path = binary(tmp_path / "v")
    encoder = build_encoder({"type": "WordVectors", "args": {"file": str(path)}})
    assert encoder.width == 5
    assert build_encoder({"type": "CharacterNgrams"}).width == 300
    for entry, named in (
        ({"type": "WordVector"}, "WordVectors"),
        ({"type": "WordVectors", "args": {"fil": "x"}}, "file"),
        ({"type": "WordVectors"}, "file"),
        ({}, "CharacterNgrams"),
    ):
        with pytest.raises(ConfigError, match=named):
            build_encoder(entry)


def test_words_stand_without_punctuation():
    assert words_of("“A dog's” rain-soaked, 3.5 m_s—then: naïve?!") == [
        *("A", "dog's", "rain-soaked", "3.5", "m", "s", "then", "naïve")
    ]


def is_one_slip(word, other):
    """Whether one deletion, insertion, change or swap of neighbours makes the other word."""
    while word and other and word[0] == other[0]:
        word, other = word[1:], other[1:]
    swapped = word[1::-1] + word[2:]
    return other in (word[1:], swapped) or other[1:] in (word, word[1:])


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8))
def test_misspellings_are_one_slip_away(word):
    found = set(misspellings(word)) - {word}
    assert all(is_one_slip(word, other) for other in found)
    n = len(word)
    assert len(found) <= n + (n - 1) + 25 * n + 26 * (n + 1)
    assert all(len(lemma) < len(word) + 2 for lemma in lemmas(word))
