"""Kill a training at random moments, continue it, and compare its end with an undisturbed run's.

python misc/soak.py --config configs/soundscenes/train-only-logmel.json --kills 50
"""

from __future__ import annotations

import argparse
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
from collections.abc import Sequence
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
        self.folder, self.config = folder, folder / "config.json"
        folder.mkdir()
        write_json(self.config, load_config(config, changes).raw)

    def run(self, kill_after: float | None = None) -> bool:
        """Train, from the newest state there is; return whether it was killed before its end."""
        children = multiprocessing.get_context("forkserver")
        children.set_forkserver_preload(["torch._dynamo", "train"])
        os.environ["PYTHONPATH"] = str(ROOT)
        child = children.Process(target=_train, args=(self.config, self.folder / "output"))
        child.start()
        child.join(timeout=kill_after)
        if child.exitcode is None:
            child.kill()
            child.join()
        if child.exitcode not in (0, -signal.SIGKILL):
            raise ProjectError(f"a training failed:\n{(self.folder / 'output').read_text()}")
        return child.exitcode != 0

    def reached(self) -> str:
        """Return how far the newest run is, in words."""
        for state in sorted(self.folder.glob("saved/models/*/*/last.pth"))[-1:]:
            progress = load_checkpoint(state).progress or {}
            return "within an epoch" if progress["losses"] else "between epochs"
        return "before the first save"

    def check_states(self) -> int:
        """Read all checkpoints there are, and return how many; ProjectError for a damaged one."""
        paths = list(self.folder.glob("saved/models/*/*/*.pth"))
        for path in paths:
            try:
                load_checkpoint(path)
            except (CheckpointError, DataError) as error:
                raise ProjectError(f"a kill left a damaged checkpoint: {error}") from error
        return len(paths)

    def end(self) -> dict[str, Any]:
        """Return all that a finished training left behind."""
        (models,) = (result.parent for result in self.folder.glob("saved/models/*/*/result.json"))
        (log,) = self.folder.glob("saved/log/*/*/metrics.jsonl")
        states = {name: content_of(models / name) for name in ("last.pth", "trained_model.pth")}
        lines = log.read_text(encoding="utf-8").splitlines()
        return states | {"log": [json.loads(line) for line in lines]}


def _train(config: Path, output: Path) -> None:
    """Train in a child process, all its lines in a file."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own one outlives a kill, with a warning
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = train.main(["--config", str(config), "--resume", "auto", "--quiet"])
    sys.stdout.flush()
    sys.exit(status)


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


def soak(args: argparse.Namespace, folder: Path) -> int:
    """Train undisturbed, then under kills until there were enough; print what was seen.

    A training that ends before there were enough kills is compared, and the next one begins.
    Raises ProjectError when a training fails, ends otherwise, or leaves a damaged checkpoint.
    """
    began, moments = time.perf_counter(), random.Random(args.seed)
    whole = Training(args.config, folder / "undisturbed", args.epochs)
    whole.run()
    started = time.perf_counter()
    Training(args.config, folder / "again", args.epochs).run()  # now that everything is imported
    seconds = time.perf_counter() - started
    struck, checked, finished, found = Counter[str](), 0, 0, list[str]()
    while struck.total() < args.kills:
        training = Training(args.config, folder / f"killed-{finished}", args.epochs)
        while training.run(
            moments.uniform(0, seconds / 3) if struck.total() < args.kills else None
        ):
            struck[training.reached()] += 1
            checked += training.check_states()
        finished += 1
        found += differences(training.end(), whole.end(), "")
        print(f"training {finished} ended after {struck.total()} kills in all", flush=True)
    places = ", ".join(f"{count} {place}" for place, count in struck.most_common())
    print(f"kills (SIGKILL):       {struck.total()} ({places})")
    print(f"checkpoints read:      {checked}, none damaged")
    print(f"differences:           {len(found)}")
    print(f"wall seconds:          {time.perf_counter() - began:.0f}")
    if found:
        raise ProjectError("\n".join(["the killed trainings ended differently:", *found[:20]]))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 when anything differs, 2 for wrong usage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", default=DEFAULT_CONFIG, help=f"default: {DEFAULT_CONFIG}")
    parser.add_argument("--kills", type=int, default=50, help="default: 50")
    parser.add_argument("--epochs", type=int, help="of each training; default: the config's")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")

    def run() -> int:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            return soak(parser.parse_args(argv), Path(folder))

    return run_main(run)


if __name__ == "__main__":
    sys.exit(main())
