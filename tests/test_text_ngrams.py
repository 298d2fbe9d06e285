"""Word vectors come from spelling alone: any word has one, and like spellings are near."""

import hashlib

import numpy as np
import pytest

from text.encoder import WordlessTextError
from text.ngrams import WIDTH, CharacterNgrams, caption_vectors, word_vector


@pytest.mark.parametrize("word", ["bell", "a", "tick-tocks", "über", "鐘", "x" * 60, ""])
def test_any_word_has_a_vector_of_unit_length(word):
    vector = word_vector(word)
    assert vector.shape == (WIDTH,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_like_spellings_are_near_and_others_are_not():
    assert word_vector("ring") @ word_vector("ringing") > 0.3
    assert word_vector("cricket") @ word_vector("crickets") > 0.6
    assert abs(word_vector("ring") @ word_vector("dog")) < 0.25
    assert not np.allclose(word_vector("saw"), word_vector("was"))


def test_a_vector_is_the_sum_over_the_n_grams_worked_by_hand():
    def direction(gram):
        digest = hashlib.shake_128(gram.encode()).digest(38)
        bits = [(byte >> (7 - i)) & 1 for byte in digest for i in range(8)][:300]
        return np.array([1.0 if bit else -1.0 for bit in bits])

    grams = ["<as>", "<as", "as>", "<as>"]  # the word whole; then 3 letters, 4 letters, no 5
    total = sum(direction(gram) for gram in grams)
    np.testing.assert_allclose(word_vector("as"), total / np.linalg.norm(total), atol=1e-6)


def test_the_encoder_gives_queries_the_vectors_of_captions():
    (vectors,) = CharacterNgrams().encode(["A bell, rings!"])
    np.testing.assert_array_equal(vectors, caption_vectors(["a", "bell", "rings"]))
    with pytest.raises(WordlessTextError):
        CharacterNgrams().encode(["?!"])
