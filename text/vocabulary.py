"""A vocabulary of word pieces made from captions: their words, and letters to spell others."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from text.wordpiece import BEGIN, CONTINUED, END, PADDING, UNKNOWN, split_words
from utils.files import write_text

MARKS = (".", "?", "!", ",", "'", "-")


def vocabulary_of(captions: Iterable[str], *, least: int = 1, most: int = 30_000) -> list[str]:
    """Return special tokens, letters alone and continued, then whole words, the commonest first.

    Only words that occur `least` times are whole; others are spelt by their letters.
    """
    counts = Counter(word for caption in captions for word in split_words(caption))
    letters = sorted({*MARKS, *(letter for word in counts for letter in word)})
    words = sorted(
        (word for word in counts if counts[word] >= least), key=lambda w: (-counts[w], w)
    )
    pieces = [PADDING, UNKNOWN, BEGIN, END, *letters, *(CONTINUED + letter for letter in letters)]
    known = set(pieces)
    return (pieces + [word for word in words if word not in known])[:most]


def write_vocabulary(path: Path, captions: Iterable[str], *, least: int = 1) -> int:
    """Write a vocabulary, one piece a line; return how many pieces it has."""
    pieces = vocabulary_of(captions, least=least)
    write_text(path, "".join(f"{piece}\n" for piece in pieces))
    return len(pieces)
