"""Which text encoders there are, and how a configuration's entry becomes one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from text.encoder import TextEncoder
from text.hugging_face import HuggingFace
from text.ngrams import CharacterNgrams
from text.sentences import SentenceEncoder, TokenEncoder
from text.word_vectors import WordVectors
from utils.errors import ConfigError, nearest

ENCODERS: dict[str, type[TextEncoder]] = {
    "CharacterNgrams": CharacterNgrams,
    "HuggingFace": HuggingFace,
    "SentenceEncoder": SentenceEncoder,
    "TokenEncoder": TokenEncoder,
    "WordVectors": WordVectors,
}


def build_encoder(entry: Mapping[str, Any], place: str = "the text encoder") -> TextEncoder:
    """Build the encoder of an entry {"type": a name in ENCODERS, "args": its arguments}.

    Raises ConfigError naming what is unknown or missing.
    """
    kind, arguments = entry.get("type"), entry.get("args", {})
    if kind not in ENCODERS:
        raise ConfigError(
            f"{place}: there is no text encoder {kind!r}{nearest(str(kind), ENCODERS)} "
            f"(known: {', '.join(ENCODERS)})"
        )
    parameters = list(inspect.signature(ENCODERS[kind]).parameters)
    for name in arguments:
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise ConfigError(
                f"{place}: {kind} takes no {name!r}{nearest(name, parameters)} (known: {known})"
            )
    try:
        return ENCODERS[kind](**arguments)
    except TypeError as error:
        raise ConfigError(f"{place}: {kind}: {error}") from None
