"""BERT's tokenizer: text -> words without accents or capitals -> the longest known pieces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.errors import DataError
from utils.files import open_regular, sha256_of

LARGEST_VOCABULARY = 64 << 20  # bytes
LONGEST_WORD = 100  # letters; a longer word is unknown
PADDING, UNKNOWN, BEGIN, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
CONTINUED = "##"
"""Before a piece that is not the first one of its word."""

# Blocks of ideographs, each of which is a word of its own.
IDEOGRAPHS = re.compile(
    "([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f])"
)


class TokenIds(NamedTuple):
    """Token ids of S texts, int64 (S, L), zeros behind, and where a token is, bool (S, L)."""

    ids: NDArray[np.int64]
    exists: NDArray[np.bool_]


def split_words(text: str) -> list[str]:
    """Split text into lower-case words without accents, punctuation marks and ideographs."""
    visible = "".join(" " if _is_blank(c) else c for c in text if not _is_noise(c))
    spaced = IDEOGRAPHS.sub(r" \1 ", visible).lower()
    plain = "".join(
        c for c in unicodedata.normalize("NFD", spaced) if unicodedata.category(c) != "Mn"
    )
    return "".join(f" {c} " if _is_punctuation(c) else c for c in plain).split()


class WordPieces:
    """A vocabulary of word pieces."""

    def __init__(self, pieces: Iterable[str], source: str = "the vocabulary") -> None:
        """Number the pieces from 0 on; raises DataError when a special token is missing."""
        self.ids = {piece: number for number, piece in enumerate(pieces)}
        self.size = max(self.ids.values(), default=-1) + 1
        missing = [token for token in (PADDING, UNKNOWN, BEGIN, END) if token not in self.ids]
        if missing:
            raise DataError(
                f"{source}: has no {' or '.join(missing)}; expected a BERT vocabulary, one piece "
                "a line, such as vocab.txt of bert-base-cased"
            )
        self.sha256 = ""
        self._pieces: dict[str, list[str]] = {}

    @classmethod
    def read(cls, path: str | Path) -> WordPieces:
        """Read a vocabulary file: one piece a line, the line's number its id."""
        with open_regular(path) as file:
            content = file.read(LARGEST_VOCABULARY)
        try:
            lines = content.decode("utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: is not UTF-8 text ({error.reason}): no vocabulary") from None
        vocabulary = cls((line.removesuffix("\r") for line in lines), str(path))
        vocabulary.sha256 = sha256_of(path)
        return vocabulary

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of a text, the longest first; a word without pieces is [UNK]."""
        pieces: list[str] = []
        for word in split_words(text):
            if word not in self._pieces:
                self._pieces[word] = self._pieces_of_word(word)
            pieces += self._pieces[word]
        return pieces

    def sequence(self, text: str, limit: int) -> list[int]:
        """Return the ids of [CLS] pieces [SEP], at most `limit`; [SEP] is always the last."""
        tokens = [BEGIN, *self.pieces(text), END][:limit]
        tokens[-1] = END
        return [self.ids[token] for token in tokens]

    def _pieces_of_word(self, word: str) -> list[str]:
        if len(word) > LONGEST_WORD:
            return [UNKNOWN]
        pieces: list[str] = []
        start = 0
        while start < len(word):
            before = CONTINUED if pieces else ""
            for end in range(len(word), start, -1):
                if before + word[start:end] in self.ids:
                    pieces.append(before + word[start:end])
                    break
            else:
                return [UNKNOWN]
            start = end
        return pieces


def pad(sequences: Sequence[Sequence[int]], width: int | None = None) -> TokenIds:
    """Lay sequences of ids into one array of `width`, by default that of the longest."""
    width = max(map(len, sequences), default=0) if width is None else width
    ids = np.zeros((len(sequences), width), np.int64)
    exists = np.zeros((len(sequences), width), np.bool_)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = sequence
        exists[i, : len(sequence)] = True
    return TokenIds(ids, exists)


def _is_blank(character: str) -> bool:
    return character in " \t\n\r" or unicodedata.category(character) == "Zs"


def _is_noise(character: str) -> bool:
    """Say whether a character is dropped: control and format characters, and replacements."""
    if character in "\t\n\r":
        return False
    return character in "\0\ufffd" or unicodedata.category(character).startswith("C")


def _is_punctuation(character: str) -> bool:
    """Say whether a character is a word of its own: every ASCII sign counts, also $ and ^."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")
