"""Which extractor made a file of features: a record beside it, `<file>.json`.

Features of two extractions look alike and mean different things: a model trained on one answers
nonsense on the other. `refuse_mix` refuses that. A run keeps the records of its features beside
its checkpoints, in `extractors.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from utils.declared import read_table, read_values
from utils.errors import DataError
from utils.files import read_json, write_json

SUFFIX = ".json"
RUN_FILE = "extractors.json"


@dataclass(frozen=True)
class ExtractionRecord:
    """What features depend on besides the sound."""

    extractor: Annotated[str, "its name"]
    version: Annotated[int, "of the extractor"]
    weights_sha256: Annotated[str | None, "of the network's weights; null: it has none"] = None
    options: Annotated[Mapping[str, bool], "its switches"] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return one line for people."""
        weights = f", weights {self.weights_sha256[:12]}" if self.weights_sha256 else ""
        options = "".join(f", {name}" for name, is_on in self.options.items() if is_on)
        return f"{self.extractor} version {self.version}{weights}{options}"


def record_from(value: object, place: object) -> ExtractionRecord:
    """Return the record that plain values of `place` describe; DataError for others."""
    return read_values(ExtractionRecord, value, place, advice="remove it and extract again")


def record_path(features: Path) -> Path:
    """Return the path of the record of a file of features."""
    return features.with_name(features.name + SUFFIX)


def write_record(features: Path, record: ExtractionRecord) -> None:
    """Write the record beside a file of features, atomically."""
    write_json(record_path(features), asdict(record))


def read_record(features: Path) -> ExtractionRecord | None:
    """Return the record beside a file of features; None when there is none, as published."""
    path = record_path(features)
    return record_from(read_json(path), path) if path.exists() else None


def refuse_mix(
    first: Mapping[str, ExtractionRecord | None],
    second: Mapping[str, ExtractionRecord | None],
    *,
    places: tuple[object, object],
) -> None:
    """Raise DataError when an expert of both was made by different extractors, naming both.

    `places` says where each comes from, such as a checkpoint and a folder. What has no record is
    not known to differ, and passes.
    """
    wrong = [
        f"expert {name!r}: {places[0]} has features of {known}, {places[1]} of {found}"
        for name, known in first.items()
        if known is not None and (found := second.get(name)) is not None and found != known
    ]
    if wrong:
        raise DataError(
            "features of different extractors cannot be mixed; extract one of them again\n  "
            + "\n  ".join(wrong)
        )


def write_run_records(folder: Path, records: Mapping[str, ExtractionRecord | None]) -> None:
    """Write the records of the experts that a run is trained on, if any, beside its checkpoints."""
    known = {name: asdict(record) for name, record in records.items() if record is not None}
    if known:
        write_json(folder / RUN_FILE, known)


def refuse_other_features(
    checkpoint: Path, records: Mapping[str, ExtractionRecord | None], place: object
) -> None:
    """Raise DataError when a checkpoint was trained on features of other extractors.

    `records` are those of the features at `place`.
    """
    refuse_mix(read_run_records(checkpoint.parent), records, places=(checkpoint, place))


def read_run_records(folder: Path) -> dict[str, ExtractionRecord | None]:
    """Return the records beside a run's checkpoints; none for released and older runs."""
    path = folder / RUN_FILE
    if not path.exists():
        return {}
    return dict(read_table(ExtractionRecord, path))
