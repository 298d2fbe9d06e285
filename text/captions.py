"""Captions of a data set become text features, with a record of the encoder beside them.

    text_embeddings/<name>.pkl        clip -> a list of (n_words, width) float32, one per caption
    text_embeddings/<name>.pkl.json   the encoder's entry and identity, and how many words it knew

The record is what makes queries be encoded as the captions were: a run keeps a copy of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from text.build import build_encoder
from text.encoder import TextEncoder, Vectors, WordlessTextError, require_equal
from utils.errors import DataError
from utils.files import read_json, write_json
from utils.reading.pickles import dump_plain

SUFFIX = ".json"
AT_ONCE = 1024


@dataclass(frozen=True)
class TextRecord:
    """The encoder of a file of text features."""

    encoder: dict[str, Any]
    """Its entry, {"type": ..., "args": ...}."""
    identity: dict[str, Any]
    words: int
    dropped: int
    """Words that the encoder did not know, of all `words`."""

    def open(self, place: str) -> TextEncoder:
        """Build the encoder anew; DataError naming `place` when its files have changed."""
        encoder = build_encoder(self.encoder, place)
        require_equal(encoder.identity, self.identity, place)
        return encoder


def encode_captions(
    captions: Mapping[str, Sequence[Sequence[str]]], encoder: TextEncoder
) -> dict[str, list[Vectors]]:
    """Encode captions {clip: lists of words}; DataError naming a clip without a known word."""
    texts = [(clip, " ".join(words)) for clip, each in captions.items() for words in each]
    encoded: dict[str, list[Vectors]] = {clip: [] for clip in captions}
    for first in range(0, len(texts), AT_ONCE):
        batch = texts[first : first + AT_ONCE]
        try:
            vectors = encoder.encode([text for _, text in batch])
        except WordlessTextError as error:
            raise DataError(f"{_owner(batch, encoder)}: {error}") from None
        for (clip, _), of_text in zip(batch, vectors, strict=True):
            encoded[clip].append(of_text)
    return encoded


def write_text_features(
    path: Path, captions: Mapping[str, Sequence[Sequence[str]]], entry: Mapping[str, Any]
) -> TextRecord:
    """Encode captions into `path` by the encoder of an entry, and write the record beside it."""
    encoder = build_encoder(entry)
    texts = [" ".join(words) for each in captions.values() for words in each]
    dropped, words = encoder.dropped(texts)
    record = TextRecord(dict(entry), encoder.identity, words, dropped)
    features = encode_captions(captions, encoder)
    path.parent.mkdir(parents=True, exist_ok=True)
    record_path(path).unlink(missing_ok=True)  # never beside features of another encoder
    dump_plain(features, path)
    write_json(record_path(path), asdict(record))
    return record


def record_path(features: Path) -> Path:
    """Return the place of the record of a file of text features."""
    return features.with_name(features.name + SUFFIX)


def read_record(path: Path) -> TextRecord:
    """Read a record; DataError when it is missing or is none."""
    content = read_json(path)
    keys = TextRecord.__dataclass_fields__.keys()
    if not isinstance(content, dict) or content.keys() != keys:
        raise DataError(f"{path}: expected the record of a text encoder, with {', '.join(keys)}")
    if not isinstance(content["encoder"], dict) or not isinstance(content["identity"], dict):
        raise DataError(f"{path}: expected an encoder and its identity, each with keys")
    return TextRecord(**content)


def entry_of(feature: str, table: Path) -> dict[str, Any] | None:
    """Return the encoder's entry of a text feature in a table, None where it names none."""
    content = read_json(table)
    found = content.get(feature) if isinstance(content, dict) else None
    entry = found.get("encoder") if isinstance(found, dict) else None
    return entry if isinstance(entry, dict) else None


def _owner(batch: Sequence[tuple[str, str]], encoder: TextEncoder) -> str:
    """Return the first clip with a caption that cannot be encoded."""
    for clip, text in batch:
        try:
            encoder.encode([text])
        except WordlessTextError:
            return f"a caption of clip {clip[:200]!r}"
    return "a caption"
