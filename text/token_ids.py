"""Captions as ids of word pieces, in the form that MMT reads (Koepke et al., 2022).

W places of a caption, words and pieces alike; n captions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from text.encoder import WordlessTextError
from text.wordpiece import WordPieces, pad

SENTENCE_ENDS = (".", "?", "!")


class CaptionIds:
    """Turn captions into ids; `places` is W."""

    def __init__(self, vocabulary: WordPieces, places: int) -> None:
        self.vocabulary = vocabulary
        self.places = places

    def encode(self, captions: Sequence[Sequence[str]]) -> NDArray[np.int64]:
        """Return ids and where there is one, of captions given as words: (n, W, 2).

        Raises WordlessTextError for a caption without words.
        """
        sequences = [
            self.vocabulary.sequence(sentence(words, self.places), self.places)
            for words in captions
        ]
        ids, exists = pad(sequences, self.places)
        return np.stack([ids, exists], axis=2)


def sentence(words: Sequence[str], most: int) -> str:
    """Return the first `most` words as the published system writes them: "A dog barks."."""
    text = " ".join(words[:most]).strip()
    if not text:
        raise WordlessTextError(text)
    ending = "" if text.endswith(SENTENCE_ENDS) else "."
    return (text + ending).capitalize()
