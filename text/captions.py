"""Captions of a data set become text features, with a record of the encoder beside them.

    text_embeddings/<name>.pkl        clip -> a list of (n_words, width) float32, one per caption
    text_embeddings/<name>.pkl.json   the encoder's entry and identity, and how many words it knew

The record is what makes queries be encoded as the captions were: a run keeps a copy of it, in
`text_encoder.json` beside its checkpoints.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from text.build import build_encoder
from text.encoder import TextEncoder, Vectors, WordlessTextError, require_equal
from utils.config import read_text_features
from utils.declared import read_file
from utils.errors import DataError, ProjectError
from utils.files import write_json
from utils.kinds import MAPPING
from utils.reading.pickles import dump_plain

logger = logging.getLogger(__name__)

SUFFIX = ".json"
RUN_FILE = "text_encoder.json"
"""In a run's folder: the record of the encoder of its captions."""
AT_ONCE = 1024


@dataclass(frozen=True)
class TextRecord:
    """The encoder of a file of text features."""

    encoder: Annotated[dict[str, Any], MAPPING, 'its entry, {"type": ..., "args": ...}']
    identity: Annotated[dict[str, Any], MAPPING, "the encoder's files and settings"]
    words: Annotated[int, "of all captions"]
    dropped: Annotated[int, "words that the encoder did not know"]

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
            owner = next(clip for clip, text in batch if text == error.text)
            raise DataError(f"a caption of clip {owner[:200]!r}: {error}") from None
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
    return read_file(TextRecord, path)


def record_of(features: Path | None, entry: Mapping[str, Any] | None) -> TextRecord | None:
    """Return the record of the encoder of text features: theirs, or one made of an entry.

    None where no record exists, as for published features.
    """
    if features is not None and record_path(features).is_file():
        return read_record(record_path(features))
    if entry is None:
        return None
    try:
        identity = build_encoder(entry, "experts.text_encoder").identity
    except ProjectError as error:  # a training needs no encoder, its captions are encoded
        logger.warning("%s; queries of this run will need --word_vectors", error)
        return None
    return TextRecord(dict(entry), identity, 0, 0)


def record_of_run(folder: Path) -> TextRecord | None:
    """Return the record in a run's folder, None where it has none."""
    path = folder / RUN_FILE
    return read_record(path) if path.is_file() else None


def refuse_other_encoder(folder: Path, record: TextRecord | None, place: object) -> None:
    """Raise DataError when the run in `folder` was trained on captions of another encoder.

    `record` is that of the captions at `place`; without one, or without that of the run, nothing
    is known to differ.
    """
    trained_on = record_of_run(folder)
    if trained_on is not None and record is not None:
        what = f"the captions of {place}, for the run {folder}"
        require_equal(record.identity, trained_on.identity, what)


def entry_of(feature: str, table: Path) -> dict[str, Any] | None:
    """Return the encoder's entry of a text feature in a table, None where it names none."""
    features = read_text_features(table)
    return features[feature].encoder if feature in features else None
