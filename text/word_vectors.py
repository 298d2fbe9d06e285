r"""Word vectors from a word2vec or GloVe file, mapped: only those that are used are read.

binary word2vec   "<words> <width>\n", then for each word: the word, a blank, float32 numbers
text word2vec     the same head, then a line for each word: the word and its numbers
GloVe             these lines without the head
"""

import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from text.encoder import TextEncoder, Vectors, WordlessTextError
from text.words import SHORTEST_MISSPELT, lemmas, misspellings, words_of
from utils.errors import DataError
from utils.files import map_file, open_regular, sha256_of

HEAD = re.compile(rb"(\d{1,9}) (\d{1,6}) ?\r?\n")
DIGITS = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
LONGEST_WORD = 4096  # bytes
SAMPLE = 400  # bytes


class WordVectors(TextEncoder):
    """One vector a word that the file knows; other words are dropped.

    A word is looked up as it is written, then in lower case, then by its parts between hyphens,
    then as a form of another word, then as a misspelling of one, the most frequent first.
    """

    def __init__(
        self, file: Annotated[str, "word vectors, in word2vec's binary or text format, or GloVe's"]
    ) -> None:
        """Find the words of a file; DataError when it is missing, damaged or of no format."""
        self.file = Path(file)
        self._vectors = open_word_vectors(self.file)
        self._places = self._vectors.places
        self.width = self._vectors.width
        self.identity: dict[str, Any] = {
            "encoder": type(self).__name__,
            "vectors": sha256_of(self.file),
        }
        self._found: dict[str, list[str]] = {}

    def __contains__(self, word: str) -> bool:
        return word in self._places

    def encode(self, texts: Sequence[str]) -> list[Vectors]:
        """Return one vector a known word: (n_words, width)."""
        encoded = []
        for text in texts:
            words = words_of(text)
            known = [entry for word in words for entry in self.find(word)]
            if not known:
                problem = f"has no word that {self.file} knows; say it otherwise"
                raise WordlessTextError(text, problem)
            encoded.append(self._vectors.take(known))
        return encoded

    def dropped(self, texts: Sequence[str]) -> tuple[int, int]:
        """Count the words that the file does not know in any form, and all words."""
        words = [word for text in texts for word in words_of(text)]
        return sum(not self.find(word) for word in words), len(words)

    def find(self, word: str) -> list[str]:
        """Return the entry that is used for a word: one, several for its parts, or none."""
        if word not in self._found:
            self._found[word] = self._look_up(word)
        return self._found[word]

    def _look_up(self, word: str) -> list[str]:
        lower = word.lower()
        for same in (word, lower, lower.replace("’", "'"), lower.replace("-", "")):
            if same in self._places:
                return [same]
        parts = re.split(r"[-.]", lower)
        if len(parts) > 1:
            return [entry for part in parts if part for entry in self.find(part)]
        lemma = next((lemma for lemma in lemmas(lower) if lemma in self._places), None)
        if lemma is not None:
            return [lemma]
        if len(lower) < SHORTEST_MISSPELT or any(map(str.isdigit, lower)):
            return []
        near = {spelling for spelling in misspellings(lower) if spelling in self._places}
        return [min(near, key=self._places.__getitem__)] if near else []


@dataclass(frozen=True)
class VectorFile:
    """A file of word vectors, mapped: where the vector of each word begins and ends.

    `places` numbers the words in the order of the file, which is that of frequency; of two equal
    words the first one counts.
    """

    content: mmap.mmap
    places: Mapping[str, int]
    spans: NDArray[np.int64]
    width: int
    binary: bool

    def take(self, words: Sequence[str]) -> Vectors:
        """Return the vectors of words (n,) in the file: (n, width)."""
        vectors = np.empty((len(words), self.width), np.float32)
        for row, word in enumerate(words):
            start, end = self.spans[self.places[word]]
            numbers = self.content[start:end]
            if self.binary:
                vectors[row] = np.frombuffer(numbers, "<f4")
            else:
                try:
                    vectors[row] = [float(number) for number in numbers.split()[-self.width :]]
                except ValueError as error:
                    raise DataError(f"the vector of {word!r} is damaged: {error}") from None
            if not np.isfinite(vectors[row]).all():
                raise DataError(f"the vector of {word!r} holds NaN or infinite values")
        return vectors


def open_word_vectors(path: Path) -> VectorFile:
    """Find the words of a file; raises DataError when it is of another format or cut short."""
    with open_regular(path) as file:
        if not file.seek(0, 2):
            raise DataError(f"{path}: is empty; expected word vectors")
        content = map_file(file)
    head = HEAD.match(content)
    try:
        if head is None:
            return _find_lines(content, 0)
        words, width = int(head[1]), int(head[2])
        if width < 1 or words < 1:
            raise ValueError(f"announces {words} words of width {width}")
        if _is_text(content, head.end()):
            return _find_lines(content, head.end())
        return _find_binary(content, head.end(), words, width)
    except ValueError as error:
        raise DataError(
            f"{path}: {error}; expected word vectors in word2vec's binary or text format or GloVe's"
        ) from None


def _is_text(content: mmap.mmap, start: int) -> bool:
    """Say whether a word and numbers in digits come next."""
    sample = content[start : start + SAMPLE].split(b"\n")[0].split(b" ")[1:4]
    return bool(sample) and all(DIGITS.fullmatch(number) for number in sample)


def _find_binary(content: mmap.mmap, at: int, words: int, width: int) -> VectorFile:
    places: dict[str, int] = {}
    spans = np.empty((words, 2), np.int64)
    for i in range(words):
        space = content.find(b" ", at, at + LONGEST_WORD)
        end = space + 1 + 4 * width
        if space < 0 or end > len(content):
            raise ValueError(f"ends or is damaged at word {i + 1} of {words}")
        word = content[at:space].lstrip(b"\n").decode("utf-8", errors="replace")
        places.setdefault(word, i)
        spans[i] = space + 1, end
        at = end
    return VectorFile(content, places, spans, width, binary=True)


def _find_lines(content: mmap.mmap, at: int) -> VectorFile:
    end = content.find(b"\n", at)
    first = content[at : len(content) if end < 0 else end].split()
    width = len(first) - 1
    if width < 2 or not all(DIGITS.fullmatch(number) for number in first[1:]):
        raise ValueError("holds no line of a word and its numbers")
    places: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    while at < len(content):
        end = content.find(b"\n", at)
        end = len(content) if end < 0 else end
        space = content.find(b" ", at, end)
        if space > at:
            places.setdefault(content[at:space].decode("utf-8", errors="replace"), len(spans))
            spans.append((space + 1, end))
        at = end + 1
    return VectorFile(content, places, np.array(spans, np.int64), width, binary=False)
