"""Kill a training at random moments, continue it, and compare its end with an undisturbed run's.

python misc/soak.py --config configs/soundscenes/train-only-logmel.json --kills 50
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
import torch._dynamo  # what a training imports late is imported once, not by every child
from tqdm import tqdm

import train
from trainer.checkpoint import load_checkpoint
from utils.config import load_config
from utils.errors import CheckpointError, DataError, ProjectError, run_main
from utils.files import write_json

DEFAULT_CONFIG = "configs/soundscenes/train-only-logmel.json"
OFTEN = 0.001  # minutes between states within an epoch, so that kills strike while one is written
CLOCKS = {"seconds", "wall_seconds"}  # what differs between any two runs
STATES = ("last.pth", "trained_model.pth")


@dataclass
class Figures:
    """What a soak counted."""

    kills: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    """Where the kills struck."""
    checked: int = 0
    """Checkpoints read after a kill, all whole."""
    unfinished: int = 0
    """Files that a kill left half-written, under a name that no one reads."""
    finished: int = 0
    differences: list[str] = field(default_factory=list)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", default=DEFAULT_CONFIG, help=f"default: {DEFAULT_CONFIG}")
    parser.add_argument("--kills", type=int, default=50, help="default: 50")
    parser.add_argument("--epochs", type=int, help="of each training; default: the config's")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    return parser.parse_args(argv)


def soak(config: str | Path, kills: int, *, epochs: int | None, seed: int, folder: Path) -> Figures:
    """Train once undisturbed, then under kills until there were enough; return what was seen.

    A training that ends before there were enough kills is compared, and the next one begins.
    Raises ProjectError when a training fails, or leaves a damaged checkpoint.
    """
    figures, moments = Figures(), random.Random(seed)
    whole = Training(config, folder / "undisturbed", epochs)
    whole.run()
    started = time.perf_counter()
    Training(config, folder / "again", epochs).run()  # now that everything is imported
    seconds = time.perf_counter() - started
    print(f"an undisturbed training takes {seconds:.1f} s", flush=True)
    while figures.kills < kills:
        training = Training(config, folder / f"killed-{figures.finished}", epochs)
        while training.run(kill_after=_moment(moments, seconds, enough=figures.kills >= kills)):
            figures.kills += 1
            figures.struck[training.where_it_stands()] += 1
            figures.checked += training.check_states()
            figures.unfinished += training.count_unfinished()
        figures.finished += 1
        figures.differences += training.differences(whole)
        print(f"training {figures.finished} ended after {figures.kills} kills in all", flush=True)
    return figures


def _moment(moments: random.Random, seconds: float, *, enough: bool) -> float | None:
    """Draw when to kill, None to let the training end."""
    return None if enough else moments.uniform(0, seconds / 3)


class Training:
    """One training in a folder, each time in a process of its own."""

    def __init__(self, config: str | Path, folder: Path, epochs: int | None) -> None:
        changes: dict[str, object] = {
            "trainer.save_dir": str(folder / "saved"),
            "trainer.save_every_minutes": OFTEN,
            "trainer.tensorboard": False,
        }
        if epochs is not None:
            changes |= {"trainer.epochs": epochs, "trainer.save_period": 1}
        self.folder = folder
        self.config = folder / "config.json"
        folder.mkdir()
        write_json(self.config, load_config(config, changes).raw)

    def run(self, kill_after: float | None = None) -> bool:
        """Train, from the newest state there is; say whether it was killed before its end."""
        command = ["--config", str(self.config), "--resume", "auto", "--quiet"]
        child = _children().Process(target=_train, args=(command, str(self.folder / "output")))
        child.start()
        child.join(timeout=kill_after)
        if child.exitcode is None:
            child.kill()
            child.join()
        if child.exitcode == -signal.SIGKILL:
            return True
        if child.exitcode != 0:
            raise ProjectError(f"a training failed:\n{(self.folder / 'output').read_text()}")
        return False

    def where_it_stands(self) -> str:
        """Say in words how far the newest run is."""
        for state in sorted(self.folder.glob("saved/models/*/*/last.pth"))[-1:]:
            progress = load_checkpoint(state).progress or {}
            return "within an epoch" if progress["losses"] else "between epochs"
        return "before the first save"

    def check_states(self) -> int:
        """Read all checkpoints there are; return how many."""
        count = 0
        for path in self.folder.glob("saved/models/*/*/*.pth"):
            try:
                load_checkpoint(path)
            except (CheckpointError, DataError) as error:
                raise ProjectError(f"a kill left a damaged checkpoint: {error}") from error
            count += 1
        return count

    def count_unfinished(self) -> int:
        """Count and remove half-written files, which the training itself removes when older."""
        found = list(self.folder.glob("saved/models/*/*/.*.part"))
        for path in found:
            path.unlink()
        return len(found)

    def differences(self, other: Training) -> list[str]:
        """Name everything in which the ends of two trainings differ, to the last bit."""
        mine, theirs = self._finished(), other._finished()
        found: list[str] = []
        for name in STATES:
            found += differences(content_of(mine / name), content_of(theirs / name), name)
        return found + differences(self._log("metrics.jsonl"), other._log("metrics.jsonl"), "log")

    def _finished(self) -> Path:
        (result,) = self.folder.glob("saved/models/*/*/result.json")
        return result.parent

    def _log(self, name: str) -> list[Any]:
        (path,) = (run / name for run in self.folder.glob("saved/log/*/*") if (run / name).exists())
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def content_of(path: Path) -> dict[str, Any]:
    """Return all that a checkpoint holds, but for places and the configuration."""
    return {**vars(load_checkpoint(path)), "path": None, "config": None}


def differences(first: object, second: object, name: str) -> list[str]:
    """Name what differs between two values, to the last bit, clocks aside."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        equal = first.dtype == second.dtype and torch.equal(first, second)
        return [] if equal else [name]
    if isinstance(first, dict) and isinstance(second, dict):
        if list(first) != list(second):
            return [f"{name}: {sorted(map(str, first.keys() ^ second.keys()))}"]
        pairs = [(key, first[key], second[key]) for key in first if key not in CLOCKS]
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            return [f"{name}: {len(first)} against {len(second)}"]
        pairs = [(i, one, other) for i, (one, other) in enumerate(zip(first, second, strict=True))]
    else:
        return [] if type(first) is type(second) and first == second else [name]
    return [found for key, a, b in pairs for found in differences(a, b, f"{name}/{key}")]


def _children() -> ForkServerContext:
    """Return how child processes are made: forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "train"])
    os.environ["PYTHONPATH"] = str(ROOT)
    return context


def _train(command: list[str], output: str) -> None:
    """Train in a child process, its lines in a file."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own one outlives a kill, with a warning
    with Path(output).open("w") as file, _redirected(file.fileno()):
        status = train.main(command)
    sys.exit(status)


@contextlib.contextmanager
def _redirected(target: int) -> Iterator[None]:
    """Send standard output and error elsewhere, also what is written below Python."""
    os.dup2(target, 1)
    os.dup2(target, 2)
    yield
    sys.stdout.flush()


def run(argv: Sequence[str] | None) -> int:
    """Do what the command line asks for."""
    args = parse_arguments(argv)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        figures = soak(
            args.config, args.kills, epochs=args.epochs, seed=args.seed, folder=Path(folder)
        )
    places = ", ".join(f"{count} {place}" for place, count in figures.struck.most_common())
    print(f"kills (SIGKILL):       {figures.kills} ({places})")
    print(f"half-written files:    {figures.unfinished}, none under a checkpoint's name")
    print(f"checkpoints read:      {figures.checked}, none damaged")
    print(f"trainings finished:    {figures.finished}")
    print(f"differences:           {len(figures.differences)}")
    print(f"wall seconds:          {time.perf_counter() - started:.0f}")
    if figures.differences:
        listed = "\n".join(figures.differences[:20])
        raise ProjectError(f"the killed trainings ended differently:\n{listed}")
    print("The killed trainings and the undisturbed one are equal to the last bit.")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 when anything differs, 2 for wrong usage."""
    return run_main(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
