"""Word vectors without a download: a word is the sum of its character n-grams.

Every n-gram (3 to 5 letters, the word's ends marked) has a random direction of its own, drawn from
its spelling; so "ring" and "ringing" are near, and any word, seen or not, has a vector. What words
mean is not in them: that "hound" is a dog is for the model to learn.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from text.encoder import TextEncoder, Vectors, WordlessTextError
from text.words import words_of

WIDTH = 300


class CharacterNgrams(TextEncoder):
    """One vector a word, from its spelling."""

    def __init__(self) -> None:
        self.width = WIDTH
        self.identity: dict[str, Any] = {"encoder": type(self).__name__, "version": 1}

    def encode(self, texts: Sequence[str]) -> list[Vectors]:
        """Return one vector a word, in lower case and without punctuation: (n_words, 300)."""
        vectors = []
        for text in texts:
            words = words_of(text.lower())
            if not words:
                raise WordlessTextError(text)
            vectors.append(caption_vectors(words))
        return vectors


def caption_vectors(words: list[str]) -> NDArray[np.float32]:
    """Return the vectors of a caption's words: (n_words, 300)."""
    return np.stack([word_vector(word) for word in words])


@functools.cache
def word_vector(word: str) -> NDArray[np.float32]:
    """Return the vector of one word: (300,), of unit length."""
    marked = f"<{word}>"
    grams = [marked]
    for size in (3, 4, 5):
        grams += [marked[i : i + size] for i in range(len(marked) - size + 1)]
    total = np.sum([_direction(gram) for gram in grams], axis=0)
    return (total / np.linalg.norm(total)).astype(np.float32)


@functools.cache
def _direction(gram: str) -> NDArray[np.float64]:
    """Draw 300 numbers, each -1 or 1, from the spelling: the same on every machine."""
    digest = hashlib.shake_128(gram.encode()).digest((WIDTH + 7) // 8)
    bits = np.unpackbits(np.frombuffer(digest, np.uint8))[:WIDTH]
    return bits.astype(np.float64) * 2 - 1
