"""From the name of a run to what embeds with it: configuration, weights, text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.bert_files import read_weights
from search.embedder import Embedder
from text import TextEncoder, build_encoder
from text.captions import RUN_FILE, entry_of, read_record, record_of_run, record_path
from text.encoder import require_equal
from trainer.checkpoint import Checkpoint, config_of, load_checkpoint, load_model
from trainer.keeper import BEST
from trainer.runs import best_of
from utils.config import Config
from utils.errors import UsageError
from utils.extraction_record import read_run_records

SHIPPED = "trained_model.safetensors"
"""A file of weights alone, where a run has no checkpoint."""
DEFAULT = Path(__file__).resolve().parent / "default"
"""The folder of the model that answers without a run; its README.md is the model card."""
TABLE = Path(__file__).resolve().parent.parent / "model" / "text_embedding_models.json"


def checkpoint_of(run: str | Path | None) -> Path:
    """Return the checkpoint of a run's folder, a checkpoint itself, or without one the default.

    Raises UsageError when there is none, or the folder holds several.
    """
    place = DEFAULT if run is None else Path(run)
    if not place.exists():
        raise UsageError(
            f"{place} is missing; name a trained run with --run, such as "
            "data/saved/models/NAME/TIME"
        )
    shipped = place / SHIPPED
    return shipped if shipped.is_file() and not (place / BEST).is_file() else best_of(place)


def load_embedder(
    checkpoint: Path,
    text: Mapping[str, Any] | None = None,
    weights: Mapping[str, Path] | None = None,
) -> Embedder:
    """Load the model of a checkpoint with its text encoder and the extractors of its experts.

    `text` is the entry of another encoder, for runs that do not record theirs.
    """
    loaded = read_checkpoint(checkpoint)
    config = config_of(loaded).for_evaluation()
    encoder = open_encoder(config, checkpoint.parent, text)
    model = load_model(config, loaded)
    trained_on = read_run_records(checkpoint.parent)
    return Embedder(config, model.eval(), encoder, weights, trained_on)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, or a file of weights alone (.safetensors), under published names."""
    if path.suffix != ".safetensors":
        return load_checkpoint(path)
    return Checkpoint(epoch=0, config=None, state_dict=read_weights(path), path=path)


def open_encoder(config: Config, run: Path, text: Mapping[str, Any] | None) -> TextEncoder:
    """Return the encoder of a run's captions: `text`, or that of records, config or table.

    Raises UsageError when no record names the encoder of the captions, DataError when `text` or
    the encoder's files are not what they were encoded by.
    """
    if text is not None:
        encoder, trained_on = build_encoder(text, "--word_vectors"), record_of_run(run)
        if trained_on is not None:
            require_equal(encoder.identity, trained_on.identity, "--word_vectors")
        return encoder
    feature = config.text.feature
    features = config.data.root / "text_embeddings"
    for record in (run / RUN_FILE, record_path(features / f"{feature}.pkl")):
        if record.is_file():
            return read_record(record).open(str(record))
    if config.text.encoder is not None:
        return build_encoder(config.text.encoder, f"{config.path}: experts.text_encoder")
    entry = entry_of(feature, TABLE)
    if entry is None:
        raise UsageError(
            f"{run}: its captions were encoded as {feature!r}, and nothing says by what (there is "
            f"no {RUN_FILE} in the run); name the file of the word vectors with --word_vectors FILE"
        )
    return build_encoder(entry, f"{TABLE.name}: {feature}")
