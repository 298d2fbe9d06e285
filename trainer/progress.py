"""Progress of a training as plain types, checked when it comes from a file."""

from dataclasses import dataclass, field
from typing import Any

from trainer.checkpoint import is_count
from utils.kinds import is_finite_number, shown

Record = dict[str, Any]
"""The figures of one epoch: epoch, loss, learning_rate, seconds, and those of the validation."""


@dataclass
class Progress:
    """Where a training is, as plain types.

    `epoch` counts finished epochs, `losses` are those of the batches of the next epoch that are
    done already, of `batches` in all; `stale` counts validations since the best one; `history`
    holds one record per finished epoch.
    """

    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    batches: int = 0
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0
    history: list[Record] = field(default_factory=list)

    def check(self) -> None:
        """Raise ValueError naming the first field with a value that no training leaves."""
        for name in ("epoch", "batches", "best_epoch", "stale"):
            self._expect(name, is_count(getattr(self, name)), "a whole number from 0 up")
        are_losses = isinstance(self.losses, list) and all(map(is_finite_number, self.losses))
        self._expect("losses", are_losses, "a list of finite numbers")
        fits = not self.losses or len(self.losses) <= self.batches
        self._expect("batches", fits, f"at least {len(self.losses)}, the batches done")
        self._expect("best", self.best is None or is_finite_number(self.best), "a finite number")
        self._expect("best_epoch", self.best_epoch <= self.epoch, "no epoch to come")
        are_records = isinstance(self.history, list) and all(map(_is_record, self.history))
        self._expect("history", are_records, "a list of records, one for each epoch")
        epochs = [0, *(record["epoch"] for record in self.history), self.epoch + 1]
        self._expect("history", epochs == sorted(set(epochs)), "finished epochs in their order")

    def _expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} is {shown(getattr(self, name))}, expected {expected}")


def _is_record(value: object) -> bool:
    """Say whether a value of a file is the record of an epoch."""
    return (
        isinstance(value, dict)
        and {"epoch", "loss", "learning_rate", "seconds"} <= value.keys()
        and is_count(value["epoch"])
        and all(isinstance(name, str) for name in value)
        and all(map(is_finite_number, value.values()))
    )
