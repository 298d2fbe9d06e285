"""The folders of a run: made without collisions, found again to be resumed."""

import fcntl
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint import Checkpoint, load_checkpoint, previous_of
from trainer.loop import BEST, LAST
from utils.errors import CheckpointError, DataError, UsageError
from utils.files import read_json, write_json

logger = logging.getLogger(__name__)

TIME = "%Y-%m-%d_%H-%M-%S"
TIME_NAME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(-\d+)?")
SEED_NAME = re.compile(r"seed-(\d+)")
RUN = "run.json"
RESULT = "result.json"


@dataclass(frozen=True)
class Run:
    """One call of train.py: its seeds, and where its checkpoints and its logs lie."""

    models: Path
    log: Path
    seeds: tuple[int, ...]

    def folder(self, seed: int) -> Path:
        """Return where the checkpoints of a seed lie."""
        return self.models if len(self.seeds) == 1 else self.models / f"seed-{seed}"

    def tensorboard(self, seed: int) -> Path:
        """Return where TensorBoard's files of a seed lie."""
        return self.log / f"seed-{seed}"

    def result(self, seed: int) -> dict | None:
        """Return what a finished seed reached, None for one that is not finished."""
        path = self.folder(seed) / RESULT
        return read_json(path) if path.is_file() else None

    def save_result(self, seed: int, result: dict) -> None:
        """Note that a seed is finished, and what it reached."""
        write_json(self.folder(seed) / RESULT, result)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run, so that no other process continues it meanwhile.

        Raises UsageError when another one holds it.
        """
        with (self.models / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"{self.models} is being trained by another process") from None
            yield


def new_run(save_dir: str | Path, name: str, seeds: Sequence[int], group: str | None = None) -> Run:
    """Make the folders of a new run; two calls in one second get two names."""
    base = Path(name) if group is None else Path(name) / group / f"seed-{seeds[0]}"
    parent = Path(save_dir) / "models" / base
    models = stamped_folder(parent)
    run = Run(models, Path(save_dir) / "log" / base / models.name, tuple(seeds))
    run.log.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        run.folder(seed).mkdir(exist_ok=True)
    write_json(run.models / RUN, {"seeds": list(seeds)})
    return run


def stamped_folder(parent: Path) -> Path:
    """Make a folder named by the time below `parent`; two calls in one second get two names."""
    parent.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime(TIME)
    for attempt in range(1000):
        folder = parent / (stamp if attempt == 0 else f"{stamp}-{attempt}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise UsageError(f"{parent} has a thousand folders of this second already; wait a moment")


def open_run(save_dir: str | Path, checkpoint: Path) -> tuple[Run, int | None]:
    """Return the run that a checkpoint belongs to, and the checkpoint's seed.

    The seed is None for a file in a folder that names none and holds no run.json.
    """
    folder = checkpoint.parent
    named = SEED_NAME.fullmatch(folder.name)
    if named and (folder.parent / RUN).is_file():
        return _opened(save_dir, folder.parent), int(named.group(1))
    if (folder / RUN).is_file():
        run = _opened(save_dir, folder)
        return run, run.seeds[0]
    named = SEED_NAME.fullmatch(folder.parent.name)  # <group>/seed-N/<time>, as released
    seed = int(named.group(1)) if named else None
    return Run(folder, _log_folder(save_dir, folder), (seed if named else 0,)), seed  # type: ignore[arg-type]


def newest_runs(save_dir: str | Path, name: str, seeds: Sequence[int] | None = None) -> list[Run]:
    """Return the runs of an experiment, the newest first; only those of `seeds` if given."""
    parent = Path(save_dir) / "models" / name
    folders = [
        path.parent
        for pattern in (f"*/{RUN}", f"*/seed-*/*/{RUN}")
        for path in parent.glob(pattern)
        if TIME_NAME.fullmatch(path.parent.name)
    ]
    folders.sort(key=lambda folder: folder.name, reverse=True)
    runs = [_opened(save_dir, folder) for folder in folders]
    return [run for run in runs if seeds is None or run.seeds == tuple(seeds)]


def finished_checkpoint(save_dir: str | Path, name: str, seed: int) -> Path | None:
    """Return the best checkpoint of the newest run of an experiment that finished this seed."""
    for run in newest_runs(save_dir, name):
        if seed in run.seeds and run.result(seed) is not None:
            return run.folder(seed) / BEST
    return None


def last_usable(
    run: Run, seed: int, check: Callable[[Path], Checkpoint] = load_checkpoint
) -> Checkpoint | None:
    """Return the newest readable state of a seed, None where nothing was saved yet.

    A damaged file is reported and the one before is taken.
    """
    last = run.folder(seed) / LAST
    for path in (last, previous_of(last)):
        if path.is_file():
            try:
                return check(path)
            except (CheckpointError, DataError) as error:
                logger.warning("%s; trying the one before", error)
    return None


def damaged_hint(path: Path) -> str:
    """Return how to go on when `path` cannot be read: the file before it, if there is one."""
    previous = previous_of(path)
    return f"\ncontinue from the state before: --resume {previous}" if previous.is_file() else ""


def purge_runs(save_dir: str | Path, name: str) -> int:
    """Remove the earlier run folders of an experiment, nothing else; return how many."""
    count = 0
    for kind in ("models", "log"):
        parent = Path(save_dir) / kind / name
        for folder in [*parent.glob("*"), *parent.glob("*/seed-*/*")]:
            is_run = TIME_NAME.fullmatch(folder.name) and folder.is_dir()
            if is_run and not folder.is_symlink():
                shutil.rmtree(folder)
                count += kind == "models"
    return count


def _opened(save_dir: str | Path, folder: Path) -> Run:
    seeds = read_json(folder / RUN).get("seeds")
    if not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise DataError(f"{folder / RUN}: found seeds {seeds!r}; expected a list of whole numbers")
    return Run(folder, _log_folder(save_dir, folder), tuple(seeds))


def _log_folder(save_dir: str | Path, folder: Path) -> Path:
    """Return the log folder that belongs to a run's folder of checkpoints."""
    models = (Path(save_dir) / "models").resolve()
    if folder.resolve().is_relative_to(models):
        return Path(save_dir) / "log" / folder.resolve().relative_to(models)
    return folder / "log"
