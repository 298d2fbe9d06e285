"""What a text encoder is: a list of strings in, one array of word vectors a string out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from utils.errors import DataError, UsageError

Vectors = NDArray[np.float32]


class WordlessTextError(UsageError):
    """A text of which an encoder knows no word."""

    def __init__(self, text: str, problem: str = "holds no word; expected some text") -> None:
        super().__init__(f"{text[:200]!r} {problem}")
        self.text = text


class TextEncoder(ABC):
    """Encode texts; captions and queries of one model must go through equal encoders.

    `identity` describes the encoder in plain JSON types, with the sha256 of every file that
    decides the vectors. Encoders of equal identity give equal vectors.
    """

    requirements: ClassVar[str] = ""
    """The requirements file of the libraries that the encoder needs besides; "" for none."""
    width: int
    identity: dict[str, Any]

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[Vectors]:
        """Return the vectors of the words of each text: (n_words, width) float32, n_words >= 1.

        Raises WordlessTextError for a text without any word that the encoder knows.
        """

    def dropped(self, texts: Sequence[str]) -> tuple[int, int]:
        """Count the words of texts that `encode` leaves out, and all of them."""
        return 0, sum(len(text.split()) for text in texts)


def require_equal(found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    """Raise DataError naming both encoders when captions and queries would not be encoded alike."""
    if found != expected:
        differing = sorted(
            key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)
        )
        raise DataError(
            f"{what}: encoded by {found}, expected {expected} (they differ in "
            f"{', '.join(differing)}); encode the captions anew, or use the model's own encoder"
        )
