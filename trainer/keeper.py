"""The keeper of checkpoints: the last state of a training, its best one, periodic ones."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.checkpoint import Checkpoint, previous_of, share_file
from utils.config import TrainerConfig
from utils.files import restore_folder

if TYPE_CHECKING:
    from trainer.training import Training

logger = logging.getLogger(__name__)

LAST = "last.pth"
BEST = "trained_model.pth"
PERIODIC_KEPT = 3


def exact_states(folder: Path) -> list[Path]:
    """Return the files of a seed that serve to continue it alone, without periodic checkpoints."""
    last = folder / LAST
    return [path for path in (last, previous_of(last)) if path.is_file()]


@dataclass
class Keeper:
    """Save the checkpoints of one training: the last state, the best one, periodic ones.

    The best state is always written before or together with a last state that is newer, so a
    kill between two writes only means that work is repeated, with the same outcome.
    """

    training: Training
    folder: Path
    settings: TrainerConfig
    config: Mapping[str, Any]
    writes: bool

    def __post_init__(self) -> None:
        self._waiting: Checkpoint | None = None  # a best state not yet on disk
        self._note_save()

    def is_due(self) -> bool:
        """Return whether a save within the epoch is due."""
        minutes = self.settings.save_every_minutes
        return minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes

    def end_of_epoch(self, *, improved: bool) -> None:
        """Save the checkpoints that the settings ask for after an epoch."""
        epoch, settings = self.training.progress.epoch, self.settings
        periodic = (
            not settings.save_only_best
            and epoch % settings.save_period == 0
            and epoch >= settings.skip_first_n_saves
        )
        paused = time.monotonic() - self._saved_at >= settings.save_pause
        now = periodic or (epoch % settings.save_every_epochs == 0 and paused)
        if improved and self.writes:
            best = self.training.snapshot(
                self.config, with_optimizer=settings.include_optim_in_ckpts
            )
            self._waiting = best if now else copy.deepcopy(best)
        if now:
            self.save(periodic=periodic)

    def save(self, *, periodic: bool = False) -> None:
        """Write the best state that is waiting, then the last one, if they are not on disk yet."""
        if self.writes and (self._waiting is not None or self._saved != self._place()):
            self._write(periodic=periodic)
        self._note_save()

    def _note_save(self) -> None:
        self._saved, self._saved_at = self._place(), time.monotonic()

    def _place(self) -> tuple[int, int]:
        """Return epoch and batch."""
        return self.training.progress.epoch, len(self.training.progress.losses)

    def _write(self, *, periodic: bool) -> None:
        """Write the best state, the periodic one and the last one, in this order.

        States of the same moment share one file.
        """
        vanished = restore_folder(self.folder)
        now = self.training.snapshot(self.config)
        best, self._waiting = self._waiting, None
        names = [f"checkpoint-epoch{now.epoch}.pth", LAST] if periodic else [LAST]
        if best is None and vanished:
            names.insert(0, BEST)
            logger.warning("%s is now the state after epoch %d", self.folder / BEST, now.epoch)
        elif best is not None and best.optimizer and (best.epoch, 0) == self._place():
            names.insert(0, BEST)
        elif best is not None:
            best.write(self.folder / BEST)
        written = None
        for path in (self.folder / name for name in names):
            if written is None:
                now.write(path, keep_previous=path.name == LAST)
            else:
                share_file(written, path, keep_previous=path.name == LAST)
            written = path
        if periodic:
            kept = sorted(self.folder.glob("checkpoint-epoch*.pth"), key=_epoch_in_name)
            for path in kept[:-PERIODIC_KEPT]:
                path.unlink()


def _epoch_in_name(path: Path) -> int:
    digits = path.stem.removeprefix("checkpoint-epoch")
    return int(digits) if digits.isdecimal() else -1
