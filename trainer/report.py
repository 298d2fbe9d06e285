"""What a training leaves to read: metrics.jsonl and TensorBoard."""

import contextlib
import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from trainer.progress import Record
from utils.files import restore_folder, write_text

logger = logging.getLogger(__name__)


class MetricsFile:
    """metrics.jsonl: one line per finished epoch of every seed.

    A resumed seed starts from its restored history, so no epoch stands there twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[dict[str, Any]] = []
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
                lines = [json.loads(line) for line in text.splitlines()]
                if not all(isinstance(line, dict) for line in lines):
                    raise ValueError("a line holds something else than a record")
                self._lines = lines
            except (ValueError, RecursionError) as error:
                logger.warning("%s is damaged and written anew: %s", path, error)

    @property
    def seconds(self) -> float:
        """What the epochs that stand here took."""
        return sum(float(line.get("seconds", 0)) for line in self._lines)

    def replace(self, seed: int, history: Sequence[Record]) -> None:
        """Write the history of a seed, leaving those of other seeds."""
        others = [line for line in self._lines if line.get("seed") != seed]
        self._lines = others + [{"seed": seed, **record} for record in history]
        restore_folder(self.path.parent)
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in self._lines))


class Board:
    """TensorBoard's file of one seed; does nothing when there is to be none.

    When it cannot be written any more, it says so once: a run is worth more than its curves.
    """

    def __init__(self, folder: Path | None, first_epoch: int) -> None:
        self._writer = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=first_epoch)
        self._threads_hook = threading.excepthook

    def __enter__(self) -> "Board":
        threading.excepthook = self._leave_out
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._writer is not None:
                with contextlib.suppress(OSError):  # on disk is what `add` flushed
                    self._writer.close()
        finally:
            threading.excepthook = self._threads_hook

    def add(self, record: Record) -> None:
        """Draw every number of an epoch's record."""
        if self._writer is None:
            return
        try:
            for name, value in record.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, record["epoch"])
            self._writer.flush()
        except OSError as error:
            logger.warning("TensorBoard's file is not written any more: %s", error)
            self._writer = None

    def _leave_out(self, told: threading.ExceptHookArgs) -> None:
        """Keep the traceback of TensorBoard's thread off the terminal: `add` hears of it too."""
        is_boards = type(told.thread).__module__.startswith("tensorboard")
        if not (is_boards and isinstance(told.exc_value, OSError)):
            self._threads_hook(told)


def describe_epoch(record: Record, *, seed: int, epochs: int, is_best: bool) -> str:
    """Return an epoch in one readable line."""
    parts = [
        f"seed {seed} epoch {record['epoch']:{len(str(epochs))}}/{epochs}",
        f"loss {record['loss']:.4f}",
        f"lr {record['learning_rate']:<7.3g}",
    ]
    for task, label in (("t2v", "t2a"), ("v2t", "a2t")):
        if f"val_{task}_metrics_R1" in record:
            recalls = " ".join(f"{record[f'val_{task}_metrics_R{k}']:4.1f}" for k in (1, 5, 10))
            parts.append(f"{label} {recalls} MdR {record[f'val_{task}_metrics_MedR']:4.1f}")
    parts.append(f"{record['seconds']:.1f}s")
    return " | ".join(parts) + (" *" if is_best else "")
