"""The stages of the benchmark: each runs in a fresh process and returns seconds or bytes.

A figure is a list of measurements; summaries are made of them later.
"""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import json
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import train
from data_loader import BaseDataset, build_dataset
from misc.benchmarking import reference
from misc.benchmarking.limit import Limit
from misc.benchmarking.made_up_data import write_data_set, write_sparse_data_set
from model import build_model, count_parameters
from model.loss import build_loss
from model.metric import t2v_ranks, v2t_ranks
from model.retrieval_model import RetrievalModel
from trainer.device import choose_device, describe, set_precision
from trainer.evaluator import evaluate
from trainer.optimizer import build_optimizer
from trainer.ranking_step import build_step
from utils.allocator import SETTLED, keep_memory, set_thresholds
from utils.batches import EvaluationData
from utils.config import Config, load_config
from utils.errors import ProjectError

Figures = dict[str, Any]
LOOK_AT_MEMORY_EVERY = 0.01  # seconds
ROUNDS_UNCOUNTED = 2
RANKED_CAPTIONS = 5
REFERENCE_CLIPS = 512


class Memory:
    """Watch this process: the most it had in memory, and the most that was its own.

    Private memory is anonymous memory; mapped features, which any process may share and the
    system may take back at any time, are not in it.
    """

    def __enter__(self) -> Memory:
        gc.collect()
        self._begin = self._now()
        self._peak = self._begin
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def figures(self) -> Figures:
        """Return the peaks in bytes."""
        return {"peak resident": [self._peak[0]], "peak private": [self._peak[1]]}

    @property
    def added(self) -> int:
        """Private bytes beyond those at the beginning."""
        return self._peak[1] - self._begin[1]

    def _watch(self) -> None:
        while not self._done.wait(LOOK_AT_MEMORY_EVERY):
            resident, private = self._now()
            self._peak = max(self._peak[0], resident), max(self._peak[1], private)

    @staticmethod
    def _now() -> tuple[int, int]:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        sizes = [int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon")]
        return sizes[0], sizes[1]


def write_data(settings: Mapping[str, Any]) -> Figures:
    """Write the sources; nothing about it is reported."""
    write = write_sparse_data_set if settings["sparse"] else write_data_set
    write(_config(settings), settings["sizes"])
    return {}


def pack(settings: Mapping[str, Any]) -> Figures:
    """Open the data set for the first time."""
    config = _config(settings)
    started = time.perf_counter()
    with Memory() as memory:
        train.load_splits(config)
    return {"packing": [time.perf_counter() - started], **_prefixed("packing", memory)}


def first_step(settings: Mapping[str, Any]) -> Figures:
    """Start the training command on packed data and note when its first step is done."""
    return {"start-up": _run_training(settings, "--mini_train")["start-up"]}


def epoch(settings: Mapping[str, Any]) -> Figures:
    """Train one epoch by the training command, with validation, test and saving."""
    with Memory() as memory:
        figures = _run_training(settings)
    return {**figures, **_prefixed("training", memory)}


def growth(settings: Mapping[str, Any]) -> Figures:
    """Start the training command, then take steps beyond its first ones."""
    with Memory() as memory:
        figures = {"start-up": _run_training(settings, "--mini_train")["start-up"]}
    config, device = _config_and_device(settings)
    data = build_dataset(config, "train").to(device)
    ours = _own_steps(config, _seeded_model(config, device), data, device)
    ours.take()
    figures["step"] = [_timed(ours.take, device) for _ in range(settings["grown_steps"])]
    return {**figures, **_prefixed("training", memory)}


def _run_training(settings: Mapping[str, Any], *flags: str) -> Figures:
    """Run `train.py` for an epoch in this process, which began at settings["began"]."""
    steps: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(time.time()))
    device = ["--device", settings["device"]] if settings["device"] else []
    started = time.time()
    with contextlib.redirect_stdout(io.StringIO()):
        arguments = ["--config", settings["config"], "--train_single_epoch", "--quiet"]
        status = train.main([*arguments, *device, *flags])
    hook.remove()
    if status:
        raise ProjectError(f"the training command failed with status {status}")
    written = Path(settings["folder"]).rglob("metrics.jsonl")
    newest = max(written, key=lambda path: path.stat().st_mtime)
    record = json.loads(newest.read_text(encoding="utf-8").splitlines()[-1])
    return {
        "start-up": [steps[0] - settings["began"] - settings["importing_torch"]],
        "step in the loop": np.diff(steps).tolist(),
        "epoch": [record["seconds"]],
        "whole run": [time.time() - started],
    }


def steps(settings: Mapping[str, Any]) -> Figures:
    """Take training steps, the limit's products and the opponent's steps in turn."""
    config, device = _config_and_device(settings)
    data = build_dataset(config, "train").to(device)
    model = _seeded_model(config, device)
    ours = _own_steps(config, model, data, device)
    parameters = count_parameters(model)
    batch = ours.batch()
    limit = Limit(lambda: ours.loss(*batch), parameters)
    contestants: dict[str, _Steps] = {"step": ours}
    if settings["reference"]:
        contestants["reference step"] = _reference_steps(config, data, device)
    figures: dict[str, list[float]] = {}
    times = settings["steps"]
    for round_ in range(-ROUNDS_UNCOUNTED, settings["rounds"]):
        # The first of each in a round is not counted: the others have used the caches.
        found = []
        for name, steps_of in contestants.items():
            steps_of.take()
            found.append((name, _timed(steps_of.take, device, times=times)))
            found += [(f"{name}: {part}", lap) for part, lap in steps_of.take_apart()]
        limit.run()
        found.append(("limit", _timed(limit.run, device, times=times)))
        for name, seconds in found if round_ >= 0 else ():
            figures.setdefault(name, []).append(seconds)
    machine = {
        "processor": _processor(),
        "device": describe(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return {**figures, "machine": machine, "parameters": parameters, "flops": limit.flops}


def evaluation(settings: Mapping[str, Any]) -> Figures:
    """Validate (one caption a clip) and test (five); the opponent takes each split at once."""
    config, device = _config_and_device(settings)
    model = _seeded_model(config, device)
    plain = reference.with_plain_layers(model).eval()
    figures: Figures = {}
    for name, of in (("validation", config), ("test", config.for_evaluation())):
        split = of.data.split_name
        data = build_dataset(of, split).to(device).evaluation()

        def ours(data: EvaluationData = data) -> None:
            evaluate(model, data, device=device)

        def theirs(data: EvaluationData = data) -> None:
            experts = {n: one for n, one in data.experts.items() if isinstance(one, torch.Tensor)}
            sims = reference.evaluate(plain, data.text, experts, data.available)
            reference.t2v_ranks_by_sorting(sims)
            reference.v2t_ranks_by_sorting(sims)

        figures |= _in_turn(name, ours, theirs, settings, device)
    return figures


def ranks(settings: Mapping[str, Any]) -> Figures:
    """Rank a matrix of made-up similarities, both ways."""
    clips = settings["ranked_clips"]
    draw = np.random.default_rng(0)
    sims = draw.standard_normal((clips * RANKED_CAPTIONS, clips), dtype=np.float32)
    figures: Figures = {}
    for name, ours, theirs in (
        ("ranks t2v", t2v_ranks, reference.t2v_ranks_by_sorting),
        ("ranks v2t", v2t_ranks, reference.v2t_ranks_by_sorting),
    ):
        with Memory() as memory:
            found = ours(sims)
        figures[f"{name}: private beyond the matrix"] = [memory.added]
        if settings["reference"] and not np.allclose(found, theirs(sims)):
            raise ProjectError(f"{name} differ from those by sorting")
        cpu = torch.device("cpu")
        figures |= _in_turn(name, lambda: ours(sims), lambda: theirs(sims), settings, cpu)  # noqa: B023
    return figures


STAGES: dict[str, Callable[[Mapping[str, Any]], Figures]] = {
    "data": write_data,
    "packing": pack,
    "start-up": first_step,
    "epoch": epoch,
    "steps": steps,
    "evaluation": evaluation,
    "ranks": ranks,
    "growth": growth,
}


@dataclass
class _Steps:
    """Training steps whose parts can be timed."""

    device: torch.device
    optimizer: Any
    batch: Callable[[], Any]
    loss: Callable[..., torch.Tensor]

    def take(self) -> None:
        """Take a whole step."""
        batch = self.batch()
        self.optimizer.zero_grad()
        self.loss(*batch).backward()
        self.optimizer.step()

    def take_apart(self) -> Iterator[tuple[str, float]]:
        """Take a step and yield its parts with their seconds."""
        watch = _Watch(self.device)
        batch = self.batch()
        yield "batch", watch.lap()
        self.optimizer.zero_grad()
        loss = self.loss(*batch)
        yield "forward", watch.lap()
        loss.backward()
        yield "backward", watch.lap()
        self.optimizer.step()
        yield "optimiser", watch.lap()


def _own_steps(
    config: Config, model: RetrievalModel, data: BaseDataset, device: torch.device
) -> _Steps:
    """Return training steps on the data set's own batches."""
    batches = _endless(data, device)

    def batch() -> Any:  # noqa: ANN401
        keep_memory()
        return next(batches)

    step = build_step(config, model.train(), build_loss(config.loss).to(device))
    optimizer = build_optimizer(config.optimizer, model.parameters())
    return _Steps(device, optimizer, batch, step)


def _reference_steps(config: Config, data: BaseDataset, device: torch.device) -> _Steps:
    """Return the opponent's training steps, on clips that it holds in memory one by one."""
    model = reference.with_plain_layers(_seeded_model(config, device).train())
    args = config.optimizer.args
    held = min(REFERENCE_CLIPS, len(data))
    text, experts, _ = data.batch(range(held), [0] * held)
    clips: list[reference.Clip] = [
        ([_without_padding(text[i, 0])], {n: _without_padding(f[i]) for n, f in experts.items()})
        for i in range(held)
    ]
    places = {expert.name: expert.max_tokens for expert in config.experts}
    size = min(config.data.batch_size, held)
    draw = np.random.default_rng(0)

    def batch() -> Any:  # noqa: ANN401
        set_thresholds(*SETTLED)  # glibc's own, where nothing is set
        chosen = [clips[i] for i in draw.choice(held, size, replace=False)]
        text, *features = reference.collate(chosen, places, config.text.max_tokens, [0] * size)
        moved = ({name: one.to(device) for name, one in of.items()} for of in features)
        return text.to(device), *moved

    def loss(*batch: Any) -> torch.Tensor:  # noqa: ANN401
        return reference.ranking_loss(
            reference.similarities(model, *batch), config.loss.args["margin"]
        )

    optimizer = reference.Ranger(model.parameters(), args["lr"], args["weight_decay"])
    return _Steps(device, optimizer, batch, loss)


class _Watch:
    """A stopwatch that waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = self._now()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        last, self._last = self._last, self._now()
        return self._last - last

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _timed(work: Callable[[], Any], device: torch.device, *, times: int = 1) -> float:
    """Return the seconds that doing the work takes, of `times` in a row without a pause."""
    watch = _Watch(device)
    for _ in range(times):
        work()
    return watch.lap() / times


def _in_turn(
    name: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    settings: Mapping[str, Any],
    device: torch.device,
) -> Figures:
    """Time both in turn, the first time uncounted."""
    contestants = {name: ours}
    if settings["reference"]:
        contestants[f"reference {name}"] = theirs
    figures: Figures = {key: [] for key in contestants}
    for round_ in range(-1, settings["repeats"]):
        for key, work in contestants.items():
            seconds = _timed(work, device)
            if round_ >= 0:
                figures[key].append(seconds)
    return figures


def _config(settings: Mapping[str, Any]) -> Config:
    return load_config(settings["config"])


def _config_and_device(settings: Mapping[str, Any]) -> tuple[Config, torch.device]:
    """Return both, with products as precise as the configuration wants them."""
    config = _config(settings)
    set_precision(config.trainer.precision)
    return config, choose_device(settings["device"])


def _seeded_model(config: Config, device: torch.device) -> RetrievalModel:
    torch.manual_seed(0)
    return build_model(config).to(device)


def _endless(data: BaseDataset, device: torch.device) -> Iterator[Any]:
    """Yield full batches, epoch after epoch."""
    full = len(data) // data.settings.batch_size
    for number in itertools.count(1):
        yield from itertools.islice(data.epoch(number, 0, device=device), full)


def _without_padding(rows: torch.Tensor) -> np.ndarray:
    values = rows.cpu().numpy()
    return values[values.any(axis=1)] if values.ndim == 2 else values


def _prefixed(what: str, memory: Memory) -> Figures:
    return {f"{what}: {name}": sizes for name, sizes in memory.figures().items()}


def _processor() -> str:
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def run(name: str, settings: Mapping[str, Any]) -> Figures:
    """Run a stage by its name."""
    return STAGES[name](settings)
