"""The folders of a run: made without collisions, found again to be resumed."""

import contextlib
import fcntl
import logging
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TextIO

from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.keeper import BEST, LAST, exact_states
from utils.declared import read_file
from utils.errors import CheckpointError, DataError, UsageError
from utils.files import remove_leftovers, restore_folder, write_json
from utils.kinds import Kind, checked, is_finite_number
from utils.log import log_file

logger = logging.getLogger(__name__)

TIME = "%Y-%m-%d_%H-%M-%S"
TIME_NAME = re.compile(r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)(?:-(\d+))?")
SEED_NAME = re.compile(r"seed-(\d+)")
RUN = "run.json"
RESULT = "result.json"
LOCK = ".lock"


@dataclass(frozen=True)
class RunFile:
    """run.json."""

    seeds: Annotated[tuple[int, ...], "seeds of the run, in order"]
    mini_train: Annotated[bool, "trained on a few batches an epoch"] = False


def _metrics(value: object) -> object:
    fits = isinstance(value, dict) and bool(value) and all(map(is_finite_number, value.values()))
    return checked(value, fits)


METRICS = Kind("finite numbers, by the name of each metric", _metrics)


@dataclass(frozen=True)
class Reached:
    """The metrics of a finished seed, those its version had, and the best epoch."""

    best_epoch: Annotated[int, "epoch of the best weights"]
    t2v_metrics: Annotated[dict[str, float], METRICS, "text-to-audio"]
    v2t_metrics: Annotated[dict[str, float], METRICS, "audio-to-text"]


@dataclass(frozen=True)
class ResultFile:
    """result.json of a seed."""

    reached: Annotated[Reached, "metrics and best epoch"]
    epochs: Annotated[int | None, "epochs of the training"] = None


@dataclass(frozen=True)
class Run:
    """One call of train.py: its seeds, and the folders of its checkpoints and logs."""

    models: Path
    log: Path
    seeds: tuple[int, ...]
    mini: bool = False
    """Trained on a few batches an epoch, to try things out: never taken for a real one."""

    def folder(self, seed: int) -> Path:
        """Return the folder of the checkpoints of a seed."""
        return self.models if len(self.seeds) == 1 else self.models / f"seed-{seed}"

    def log_of(self, seed: int) -> Path:
        """Return the folder of TensorBoard's files and the ranks of a seed."""
        return self.log / f"seed-{seed}"

    def result(self, seed: int, epochs: int | None = None) -> dict | None:
        """Return what a finished seed reached, None for one that is not finished.

        With `epochs` only when it was trained for that many, or stopped early on the way there.
        """
        path = self.folder(seed) / RESULT
        if not path.is_file():
            return None
        try:
            stored = read_file(ResultFile, path)
        except DataError as error:
            logger.warning("%s is damaged and left aside: %s", path, error)
            return None
        return vars(stored.reached) if epochs in (None, stored.epochs) else None

    def save_result(self, seed: int, reached: dict, epochs: int) -> None:
        """Note that a seed is finished after so many epochs, and what it reached."""
        restore_folder(self.folder(seed))
        write_json(self.folder(seed) / RESULT, {"epochs": epochs, "reached": reached})

    def prepare(self, seed: int) -> None:
        """Clear away what does not hold any more when a seed is trained (on) in the run held."""
        (self.folder(seed) / RESULT).unlink(missing_ok=True)
        for folder in {self.folder(seed), self.models, self.log}:
            remove_leftovers(folder, age=0.0)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run, so that no other process continues it meanwhile.

        Raises UsageError when another one holds it.
        """
        with (self.models / LOCK).open("a") as lock:
            if not _takes(lock):
                raise UsageError(f"{self.models} is being trained by another process")
            yield


@contextmanager
def logged(run: Run) -> Iterator[None]:
    """Hold a run and keep its log, in which a failure is noted too."""
    with run.locked(), log_file(run.log / "info.log"):
        yield


def new_run(
    save_dir: str | Path,
    name: str,
    seeds: Sequence[int],
    group: str | None = None,
    *,
    mini: bool = False,
) -> Run:
    """Make the folders of a new run; two calls in one second get two names."""
    base = Path(name) if group is None else Path(name) / group / f"seed-{seeds[0]}"
    parent = Path(save_dir) / "models" / base
    models = stamped_folder(parent)
    run = Run(models, Path(save_dir) / "log" / base / models.name, tuple(seeds), mini)
    run.log.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        run.folder(seed).mkdir(exist_ok=True)
    write_json(run.models / RUN, {"seeds": list(seeds), "mini_train": mini})
    return run


def stamped_folder(parent: Path) -> Path:
    """Make a folder named by the time below `parent`; two calls in one second get two names.

    It is newer than all that are there, though the clock went back (summer time, a correction).
    """
    parent.mkdir(parents=True, exist_ok=True)
    there = [_age(folder) for folder in parent.iterdir() if TIME_NAME.fullmatch(folder.name)]
    newest, number = max(there, default=("", 0))
    stamp, first = max((time.strftime(TIME), 0), (newest, number + 1))
    for attempt in range(first, first + 1000):
        folder = parent / (f"{stamp}-{attempt}" if attempt else stamp)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise UsageError(f"{parent} has a thousand folders of this second already; wait a moment")


def open_run(save_dir: str | Path, checkpoint: Path, default_seed: int) -> tuple[Run, int]:
    """Return the run that a checkpoint belongs to, and the checkpoint's seed.

    A file in a folder that names no seed and holds no run.json is a run of `default_seed`.
    """
    folder = checkpoint.parent
    if SEED_NAME.fullmatch(folder.name) and (folder.parent / RUN).is_file():
        folder = folder.parent
    seed = seed_of(checkpoint)
    if (folder / RUN).is_file():
        run = _opened(save_dir, folder)
        return run, run.seeds[0] if seed is None else seed
    seed = default_seed if seed is None else seed
    return Run(folder, _log_folder(save_dir, folder), (seed,)), seed


def seed_of(checkpoint: Path) -> int | None:
    """Return the seed in the name or record of a checkpoint's folder, None where it has none.

    <run>/seed-N/, <group>/seed-N/<time>/ as released, or a run of one seed.
    """
    folder = checkpoint.absolute().parent
    for place in (folder.name, folder.parent.name):
        named = SEED_NAME.fullmatch(place)
        if named:
            return int(named.group(1))
    seeds: tuple[int, ...] = ()
    if (folder / RUN).is_file():
        seeds = read_file(RunFile, folder / RUN).seeds
    return seeds[0] if len(seeds) == 1 else None


def newest_runs(
    save_dir: str | Path,
    name: str,
    seeds: Sequence[int] | None = None,
    group: str | None = None,
    *,
    mini: bool = False,
) -> list[Run]:
    """Return the runs of an experiment, the newest first; only those of `seeds` and `group`."""
    groups = (f"{group}/seed-*/*",) if group is not None else ("*", "*/seed-*/*")
    runs = []
    for folder in _run_folders(Path(save_dir) / "models" / name, *groups):
        try:
            run = _opened(save_dir, folder)
        except DataError as error:
            logger.warning("%s; this run is left aside", error)
            continue
        if run.mini == mini and (seeds is None or run.seeds == tuple(seeds)):
            runs.append(run)
    return runs


def finished_checkpoint(save_dir: str | Path, name: str, seed: int) -> Path | None:
    """Return the best checkpoint of the newest run of an experiment that finished this seed."""
    for run in newest_runs(save_dir, name):
        if seed in run.seeds and run.result(seed) is not None:
            return run.folder(seed) / BEST
    return None


def last_usable(run: Run, seed: int) -> Checkpoint | None:
    """Return the newest readable state of a seed, None where there is none.

    A damaged file is reported and the one before is taken, at last the best one.
    """
    for path in _states(run.folder(seed)):
        try:
            checkpoint = load_checkpoint(path)
        except (CheckpointError, DataError) as error:
            logger.warning("%s; trying the state before", error)
            continue
        if checkpoint.optimizer is not None and checkpoint.progress is not None:
            return checkpoint
    return None


def set_damaged_aside(folder: Path) -> None:
    """Rename the last state of a seed if it cannot be read.

    Otherwise the next one saved would keep it in the place of the readable state before it.
    """
    last = folder / LAST
    if not last.is_file():
        return
    try:
        load_checkpoint(last)
    except (CheckpointError, DataError) as error:
        aside = last.with_name(f"{last.stem}.damaged{last.suffix}")
        last.replace(aside)
        logger.warning("%s; it is kept as %s", error, aside)


def damaged_hint(path: Path) -> str:
    """Return how to go on when `path` cannot be read: the state of its seed before it."""
    states = _states(path.parent)
    before = states[states.index(path) + 1 :] if path in states else states
    return f"\ncontinue from the state before: --resume {before[0]}" if before else ""


def newest_state(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run's folder, or of its first seed that has one."""
    seeds = [path for path in folder.glob("seed-*") if SEED_NAME.fullmatch(path.name)]
    seeds.sort(key=lambda path: int(path.name.removeprefix("seed-")))
    return next((states[0] for place in (folder, *seeds) if (states := _states(place))), None)


def best_of(place: Path) -> Path:
    """Return a checkpoint, or the best one in the folder of a run, a seed or a group.

    Raises UsageError for a folder without one, or with several.
    """
    first, *others = every_best(place)
    if others:
        listed = "\n  ".join(map(str, [first, *others][:8]))
        raise UsageError(f"{place} holds several checkpoints; choose one:\n  {listed}")
    return first


def every_best(place: Path, key: str = "") -> list[Path]:
    """Return a checkpoint, or the best one in a folder, else those of all seeds below it.

    Raises UsageError for a folder without any, beginning with the `key` that names it.
    """
    if not place.is_dir():
        return [place]
    own = place / BEST
    found = [own] if own.is_file() else sorted(place.rglob(BEST))
    if not found:
        expected = "expected the folder of a run that was trained"
        raise UsageError(f"{key}{place} holds no {BEST}; {expected}")
    return found


def newest_best(save_dir: Path, name: str | None) -> Path:
    """Return the best checkpoint of the newest run (of experiment `name`) that has one.

    Of several seeds it is that of the first. Raises UsageError when there is no such run.
    """
    models = save_dir / "models"
    for folder in _run_folders(models, f"{name or '*'}/**"):
        for path in (folder / BEST, *sorted(folder.glob(f"seed-*/{BEST}"))):
            if path.is_file():
                return path
    raise UsageError(f"{models} holds no trained run{f' of {name}' if name else ''}; name one")


def _run_folders(parent: Path, *patterns: str) -> list[Path]:
    """Return the folders below `parent` that hold a run, the newest first."""
    found = {path.parent for pattern in patterns for path in parent.glob(f"{pattern}/{RUN}")}
    timed = (folder for folder in found if TIME_NAME.fullmatch(folder.name))
    return sorted(timed, key=_age, reverse=True)


def _states(folder: Path) -> list[Path]:
    """Return the states of a seed that are there, the newest first."""
    best = folder / BEST
    return [*exact_states(folder), *([best] if best.is_file() else [])]


def purge_runs(save_dir: str | Path, name: str) -> None:
    """Remove the earlier run folders of an experiment, nothing else.

    Checkpoints that were fetched and runs that another process is training stay.
    """
    models, log = (Path(save_dir) / kind / name for kind in ("models", "log"))
    count = 0
    members = _run_folders(models, "*/seed-*/*")
    for run in filter(_is_run_folder, [*models.glob("*"), *members]):
        if _is_held(run):
            logger.warning("%s is being trained by another process and stays", run)
            continue
        shutil.rmtree(run)
        _remove_empty(run.parent, models)
        count += 1
    for folder in [*log.glob("*"), *log.glob("*/seed-*/*")]:
        if _is_run_folder(folder) and not (models / folder.relative_to(log)).exists():
            shutil.rmtree(folder)
            _remove_empty(folder.parent, log)
    logger.info("removed %d earlier runs of %s", count, name)


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and those above it below `top` that hold nothing: of a group and seed."""
    with contextlib.suppress(OSError):  # not empty
        while folder != top:
            folder.rmdir()
            folder = folder.parent


def _is_run_folder(folder: Path) -> bool:
    named = TIME_NAME.fullmatch(folder.name)
    return bool(named) and folder.is_dir() and not folder.is_symlink()


def _is_held(folder: Path) -> bool:
    try:
        with (folder / LOCK).open("r+") as lock:
            return not _takes(lock)
    except OSError:
        return False


def _takes(lock: TextIO) -> bool:
    """Take the lock of a run; False when another process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        logger.debug("%s: no locks here", lock.name)
    return True


def _age(folder: Path) -> tuple[str, int]:
    """Return the time in a run folder's name and its number among those of this second."""
    named = TIME_NAME.fullmatch(folder.name)
    stamp, number = named.groups() if named else ("", None)
    return stamp, int(number or 0)


def _opened(save_dir: str | Path, folder: Path) -> Run:
    content = read_file(RunFile, folder / RUN)
    return Run(folder, _log_folder(save_dir, folder), content.seeds, content.mini_train)


def _log_folder(save_dir: str | Path, folder: Path) -> Path:
    """Return the log folder that belongs to a run's folder of checkpoints."""
    models = (Path(save_dir) / "models").resolve()
    if folder.resolve().is_relative_to(models):
        return Path(save_dir) / "log" / folder.resolve().relative_to(models)
    return folder / "log"
