"""What a training leaves to read: metrics.jsonl and TensorBoard."""

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from model.metric import TASKS, heading_of
from trainer.progress import Record
from utils.files import restore_folder, write_text

logger = logging.getLogger(__name__)

WIDTHS = {"R1": 6, "R5": 6, "R10": 6, "MedR": 7}
"""Columns of the metrics that the line of an epoch shows."""


class MetricsFile:
    """metrics.jsonl in the log folder of a run: one line per finished epoch of every seed.

    A resumed seed starts from its restored history, so no epoch is there twice.
    """

    def __init__(self, log: Path) -> None:
        self.path = path = log / "metrics.jsonl"
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
        """The seconds that the epochs took."""
        return sum(float(line.get("seconds", 0)) for line in self._lines)

    def replace(self, seed: int, history: Sequence[Record]) -> None:
        """Write the history of a seed, leaving those of other seeds."""
        others = [line for line in self._lines if line.get("seed") != seed]
        self._lines = others + [{"seed": seed, **record} for record in history]
        restore_folder(self.path.parent)
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in self._lines))


@contextlib.contextmanager
def curves(folder: Path | None, first_epoch: int) -> Iterator[Callable[[Record], None]]:
    """Give what draws every number of an epoch's record by TensorBoard, where there is a folder.

    When its file cannot be written any more, it says so once: a run is worth more than its curves.
    """
    if folder is None:
        yield lambda _: None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer, works = SummaryWriter(str(folder), purge_step=first_epoch), True
    hook = threading.excepthook

    def draw(record: Record) -> None:
        nonlocal works
        if not works:
            return
        try:
            for name, value in record.items():
                if name != "epoch":
                    writer.add_scalar(name, value, record["epoch"])
            writer.flush()
        except OSError as error:
            logger.warning("TensorBoard's file is not written any more: %s", error)
            works = False

    def leave_out(failed: threading.ExceptHookArgs) -> None:
        """Keep the traceback of TensorBoard's thread off the terminal: `draw` hears of it too."""
        is_boards = type(failed.thread).__module__.startswith("tensorboard")
        if not (is_boards and isinstance(failed.exc_value, OSError)):
            hook(failed)

    threading.excepthook = leave_out
    try:
        yield draw
    finally:
        with contextlib.suppress(OSError):  # on disk is what `draw` flushed
            writer.close()
        threading.excepthook = hook


def doubts_about(history: Sequence[Record], best_epoch: int) -> str:
    """Return why a finished training seems not to have learnt, "" where nothing points to it."""
    if len(history) < 2:
        return ""
    began, ended = history[0]["loss"], history[-1]["loss"]
    if ended > began:
        return f"its loss ended at {ended:.4g}, above the {began:.4g} of its first epoch"
    if best_epoch == history[0]["epoch"]:
        return "its first epoch is its best one"
    return ""


def epoch_heading() -> str:
    """Return the heading of the lines of `describe_epoch`, in the words of the tables."""
    metrics = "".join(f"{heading_of(name):>{width}}" for name, width in WIDTHS.items())
    above = "".join(f"{title:>{len(metrics)}}" for title in TASKS.values())
    return f"{'':20}{above}\nseed   epoch    loss{metrics * len(TASKS)} seconds"


def describe_epoch(record: Record, *, seed: int, epochs: int, is_best: bool) -> str:
    """Return an epoch in one line, 80 columns as a rule, below `epoch_heading`."""
    epoch = f"{record['epoch']}/{epochs}"
    parts = [f"{seed:4} {epoch:>7} {record['loss']:7.4g}"]
    for task in TASKS:
        for name, width in WIDTHS.items():
            value = record.get(f"val_{task}_metrics_{name}")
            parts.append(f"{'-' if value is None else format(value, '.1f'):>{width}}")
    return "".join([*parts, f"{record['seconds']:8.1f}", " *" if is_best else ""])
