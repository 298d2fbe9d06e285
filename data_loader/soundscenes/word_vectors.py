"""Word vectors without a download: a word is the sum of its character n-grams.

Every n-gram (3 to 5 letters, the word's ends marked) has a random direction of its own, drawn from
its spelling; so "ring" and "ringing" are near, and any word, seen or not, has a vector. What words
mean is not in them: that "hound" is a dog is for the model to learn.
"""

import functools
import hashlib

import numpy as np
from numpy.typing import NDArray

WIDTH = 300


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
