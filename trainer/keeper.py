"""The keeper of checkpoints: the last state of a training, its best one, periodic ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.checkpoint import Snapshot, previous_of, share_file
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


class Keeper:
    """Save the checkpoints of one training: the last state, the best one, periodic ones.

    The best state is always written before or together with a last state that is newer, so a
    kill between two writes only means that work is repeated, with the same outcome.
    """

    def __init__(
        self,
        training: Training,
        folder: Path,
        settings: TrainerConfig,
        config: Mapping[str, Any],
        *,
        writes: bool,
    ) -> None:
        self.training = training
        self.folder = folder
        self.settings = settings
        self.config = config
        self.writes = writes
        self._waiting: Snapshot | None = None  # a best state not yet on disk
        self._saved: tuple[int, int] | None = None  # epoch and batch of the last state on disk
        self._behind = False  # whether an epoch has ended since
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Say whether a save within the epoch is due."""
        minutes = self.settings.save_every_minutes
        return minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes

    def end_of_epoch(self, *, improved: bool) -> None:
        """Save the checkpoints that the settings ask for after an epoch."""
        progress, settings = self.training.progress, self.settings
        periodic = (
            not settings.save_only_best
            and progress.epoch % settings.save_period == 0
            and progress.epoch >= settings.skip_first_n_saves
        )
        paused = time.monotonic() - self._saved_at >= settings.save_pause
        due = progress.epoch % settings.save_every_epochs == 0 and paused
        if not due and not periodic:
            self._behind = True
            if improved and self.writes:
                self._waiting = self._best_snapshot().copied()
            return
        if improved:
            self._waiting = self._best_snapshot()
        self.save_now(periodic=periodic)

    def save_now(self, *, periodic: bool = False) -> None:
        """Write the best state that is waiting, then the last one, if they are not on disk yet."""
        progress = self.training.progress
        here = (progress.epoch, len(progress.losses))
        if self.writes and (self._waiting is not None or self._saved != here):
            self._write(periodic=periodic)
        self._saved = here
        self._behind = False
        self._saved_at = time.monotonic()

    def finish(self) -> None:
        """Make sure that the end of the training is on disk."""
        if self._waiting is not None or self._behind:
            self.save_now()

    def _write(self, *, periodic: bool) -> None:
        """Write the best state, the periodic one and the last one, in this order.

        States of the same moment share one file.
        """
        vanished = restore_folder(self.folder)
        last, written = self.folder / LAST, None
        now = self.training.snapshot(self.config)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.write(self.folder / BEST)
            is_now = waiting.epoch == now.epoch and not self.training.progress.losses
            if is_now and waiting.optimizer is not None:
                written = self.folder / BEST
        if periodic:
            named = self.folder / f"checkpoint-epoch{now.epoch}.pth"
            if written is None:
                now.write(named)
            else:
                share_file(written, named)
            written = named
        if written is None:
            now.write(last, keep_previous=True)
        else:
            share_file(written, last, keep_previous=True)
        if vanished and waiting is None and not (self.folder / BEST).exists():
            share_file(last, self.folder / BEST)
            logger.warning("%s is now the state after epoch %d", self.folder / BEST, now.epoch)
        if periodic:
            kept = sorted(self.folder.glob("checkpoint-epoch*.pth"), key=_epoch_in_name)
            for path in kept[:-PERIODIC_KEPT]:
                path.unlink()

    def _best_snapshot(self) -> Snapshot:
        return self.training.snapshot(
            self.config, with_optimizer=self.settings.include_optim_in_ckpts
        )


def _epoch_in_name(path: Path) -> int:
    digits = path.stem.removeprefix("checkpoint-epoch")
    return int(digits) if digits.isdecimal() else -1
