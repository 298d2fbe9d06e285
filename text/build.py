"""Which text encoders there are, and how a configuration's entry becomes one."""

from collections.abc import Mapping
from typing import Any

from text.encoder import TextEncoder
from text.hugging_face import HuggingFace
from text.ngrams import CharacterNgrams
from text.sentences import SentenceEncoder, TokenEncoder
from text.word_vectors import WordVectors
from utils.declared import OneOf, Reader
from utils.problems import Problems

ENCODERS: dict[str, type[TextEncoder]] = {
    "CharacterNgrams": CharacterNgrams,
    "HuggingFace": HuggingFace,
    "SentenceEncoder": SentenceEncoder,
    "TokenEncoder": TokenEncoder,
    "WordVectors": WordVectors,
}


def build_encoder(entry: Mapping[str, Any], place: str = "the text encoder") -> TextEncoder:
    """Build the encoder of an entry {"type": a name in ENCODERS, "args": its arguments}.

    Raises ConfigError with every mistake in it; `place` is the entry's name in messages.
    """
    problems = Problems(place)
    part = OneOf(lambda: ENCODERS).read(entry, (), Reader(problems))
    problems.raise_if_any()
    return ENCODERS[part.type](**part.args)
