"""Progress of a training as plain types, checked when it comes from a file."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

from utils.declared import Mistakes
from utils.kinds import Kind, Range, checked, is_finite_number, is_whole

Record = dict[str, Any]
"""The figures of one epoch: epoch, loss, learning_rate, seconds, and those of the validation."""


def _is_record(value: object) -> bool:
    return (
        isinstance(value, dict)
        and {"epoch", "loss", "learning_rate", "seconds"} <= value.keys()
        and all(isinstance(name, str) for name in value)
        and all(map(is_finite_number, value.values()))
        and is_whole(value["epoch"])
    )


LOSSES = Kind(
    "a list of finite numbers",
    lambda value: checked(value, isinstance(value, list) and all(map(is_finite_number, value))),
)
HISTORY = Kind(
    "a list of records, one for each epoch",
    lambda value: checked(value, isinstance(value, list) and all(map(_is_record, value))),
)


@dataclass
class Progress:
    """The place of a training between its beginning and its end, as plain types."""

    epoch: Annotated[int, "finished epochs"] = 0
    losses: Annotated[list[float], LOSSES, "of the next epoch's batches that are done"] = field(
        default_factory=list
    )
    batches: Annotated[int, "of the next epoch, in all"] = 0
    best: Annotated[float | None, Range(-math.inf), "the best validation's figure"] = None
    best_epoch: Annotated[int, "its epoch"] = 0
    stale: Annotated[int, "validations since"] = 0
    history: Annotated[list[Record], HISTORY, "one record per finished epoch"] = field(
        default_factory=list
    )

    @staticmethod
    def check(
        *,
        epoch: int,
        losses: list[float],
        batches: int,
        best_epoch: int,
        history: list[Record],
        **_: object,
    ) -> Mistakes:
        """Yield the key and the problem of values that no training leaves."""
        if losses and batches < len(losses):
            yield "batches", f"found {batches}, expected at least {len(losses)}, the batches done"
        if best_epoch > epoch:
            yield "best_epoch", f"found {best_epoch}, expected no epoch to come"
        epochs = [0, *(record["epoch"] for record in history), epoch + 1]
        if epochs != sorted(set(epochs)):
            yield "history", f"found epochs {epochs[1:-1]}, expected finished ones in their order"
