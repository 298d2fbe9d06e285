"""The stages of the benchmark: each runs in a fresh process and returns seconds or bytes.

A figure is a list of measurements; summaries are made of them later.
"""

from __future__ import annotations

import contextlib
import io
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import train
from data_loader import build_dataset
from misc.benchmarking import reference
from misc.benchmarking.limit import Limit
from misc.benchmarking.made_up_clips import MadeUpClips
from misc.benchmarking.made_up_data import write_data_set, write_sparse_data_set
from misc.benchmarking.memory import Memory
from misc.benchmarking.steps import Steps, own_steps, reference_steps, seeded_model, timed
from model import count_parameters
from model.metric import t2v_ranks, v2t_ranks
from trainer.device import choose_device, describe, set_precision
from trainer.evaluator import evaluate
from utils.batches import EvaluationData
from utils.config import Config, load_config
from utils.errors import ProjectError

Figures = dict[str, Any]
ROUNDS_UNCOUNTED = 2
RANKED_CAPTIONS = 5


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
    ours = own_steps(config, seeded_model(config, device), data, device)
    ours.take()
    figures["step"] = [timed(ours.take, device) for _ in range(settings["grown_steps"])]
    return {**figures, **_prefixed("training", memory)}


def evaluation_growth(settings: Mapping[str, Any]) -> Figures:
    """Evaluate larger and larger splits with a caption a clip; the features are there already."""
    config, device = _config_and_device(settings)
    model = seeded_model(config, device)
    figures: Figures = {}
    for clips in settings["evaluated"]:
        data = MadeUpClips(config, clips, seed=0, device=device).evaluation()
        name = f"evaluation of {clips:,} clips"
        with Memory() as memory:
            figures[name] = [timed(lambda: evaluate(model, data, device=device), device)]  # noqa: B023
        figures[f"{name}: private beyond the data"] = [memory.added]
    return figures


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
    model = seeded_model(config, device)
    ours = own_steps(config, model, data, device)
    parameters = count_parameters(model)
    batch = ours.batch()
    limit = Limit(lambda: ours.loss(*batch), parameters)
    contestants: dict[str, Steps] = {"step": ours}
    if settings["reference"]:
        contestants["reference step"] = reference_steps(config, data, device)
    figures: dict[str, list[float]] = {}
    times = settings["steps"]
    for round_ in range(-ROUNDS_UNCOUNTED, settings["rounds"]):
        # The first of each in a round is not counted: the others have used the caches.
        found = []
        for name, steps_of in contestants.items():
            steps_of.take()
            found.append((name, timed(steps_of.take, device, times=times)))
            found += [(f"{name}: {part}", lap) for part, lap in steps_of.take_apart()]
        limit.run()
        found.append(("limit", timed(limit.run, device, times=times)))
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
    model = seeded_model(config, device)
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
    "evaluation growth": evaluation_growth,
}


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
            seconds = timed(work, device)
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


def _prefixed(what: str, memory: Memory) -> Figures:
    return {f"{what}: {name}": sizes for name, sizes in memory.figures().items()}


def _processor() -> str:
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def run(name: str, settings: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Run a stage by its name; return its figures."""
    return STAGES[name](settings).items()
