"""What is checked and timed on a GPU: each section runs in a process of its own.

A section yields (name, value) as soon as it knows something, so that what was found before a
failure or the end of its time is kept. Values are plain types.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from misc.benchmark import EXPERIMENTS, ROOT
from misc.benchmarking.made_up_clips import MadeUpClips
from misc.benchmarking.made_up_mmt import SIZES, Size, build, make_batch, without_dropout
from misc.benchmarking.processes import Finding
from misc.benchmarking.steps import Watch, timed
from misc.benchmarking.traces import summarise_trace
from model.loss import MaxMarginRankingLoss
from trainer.cuda_graphs import Gradients, gradients_of
from trainer.device import choose_device, describe, set_precision
from trainer.distributed import ALONE
from trainer.evaluator import evaluate
from trainer.job import Job, build_training
from trainer.loop import Batch, fit
from trainer.progress import Record
from trainer.ranking_step import CompiledStep, Precision, RankingStep
from trainer.runs import Run
from utils.batches import EvaluationData, Frames
from utils.config import Config, load_config
from utils.stop import StopSignals

COMPARED_STEPS = 20
ALLOWED = 1e-4
HELD_CLIPS = 4096
WARM_UP = 12
CPU = torch.device("cpu")
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
WAYS: dict[str, dict[str, object]] = {
    "fp32, graphs": {"precision": "fp32"},
    "tf32, graphs": {"precision": "tf32"},
    "tf32, compiled, graphs": {"precision": "tf32", "compile": True},
    "bf16, compiled, graphs": {"precision": "bf16", "compile": True},
    "bf16, graphs": {"precision": "bf16"},
    "fp32": {"precision": "fp32", "cuda_graphs": False},
}
"""Keys of the trainer; the last one is what torch does by itself."""

Section = Callable[["Bench"], Iterator[Finding]]


@dataclass(frozen=True)
class Bench:
    """Where and how much is measured."""

    device: torch.device
    quick: bool

    def config(self, trainer: Mapping[str, object] = {}, *, experts: int = 2) -> Config:
        """Return the configuration of an experiment with other keys of its trainer."""
        changes: dict[str, object] = {f"trainer.{key}": value for key, value in trainer.items()}
        if self.quick:
            changes |= {"experts.ce_shared_dim": 32, "data_loader.args.batch_size": 16}
        return load_config(str(ROOT / EXPERIMENTS[experts]), changes)

    def amount(self, full: int, quick: int) -> int:
        """Return how much of something there is."""
        return quick if self.quick else full

    def seconds(self, work: Callable[[], Any], *, times: int = 1) -> float:
        """Return the seconds that doing the work takes on the device, of `times` in a row."""
        return timed(work, self.device, times=times)


class Trained:
    """A model in training, one step at a time."""

    def __init__(
        self,
        bench: Bench,
        step: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterator[Batch],
        *,
        replay: bool,
    ) -> None:
        self.step = step.train()
        self.optimizer = optimizer
        self.batches = batches
        self.gradients: Gradients = gradients_of(
            step, optimizer, replay=replay, device=bench.device, alone=True
        )

    def take(self) -> torch.Tensor:
        """Take a step; return its loss on the device."""
        loss = self.gradients(next(self.batches)).clone()
        self.optimizer.step()
        return loss

    @property
    def is_replayed(self) -> bool:
        """Whether the steps are replayed as a graph by now."""
        return bool(getattr(self.gradients, "is_recorded", False))

    def how(self) -> dict[str, bool]:
        """Return whether the steps are replayed, and whether compiled where that was asked for."""
        compiled = {"compiled": self.step.works} if isinstance(self.step, CompiledStep) else {}
        return {"replayed": self.is_replayed, **compiled}


def train_on(bench: Bench, config: Config, data: MadeUpClips) -> Trained:
    """Return the configured model in training on made-up clips."""
    set_precision(config.trainer.precision)
    new = build_training(config, 0, bench.device)
    full = data.clips // config.data.batch_size
    batches = itertools.chain.from_iterable(
        itertools.islice(data.epoch(number, 0), full) for number in itertools.count(1)
    )
    replay = config.trainer.cuda_graphs
    return Trained(bench, new.step, new.optimizer, batches, replay=replay)


def machine(bench: Bench) -> Iterator[Finding]:
    """Name the card and the software."""
    yield "device", describe(bench.device)
    yield "torch", torch.__version__
    yield "python", platform.python_version()
    if bench.device.type == "cuda":
        card = torch.cuda.get_device_properties(bench.device)
        yield "memory_gb", round(card.total_memory / 1e9, 1)
        yield "multiprocessors", card.multi_processor_count
        yield "cuda", torch.version.cuda


def tests(bench: Bench) -> Iterator[Finding]:
    """Run the tests that need a GPU; on the CPU those of the graphs' file that need none."""
    import pytest

    marked = "pytest.mark.gpu"
    files = [
        str(path)
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        if marked in path.read_text(encoding="utf-8")
    ]
    if bench.device.type != "cuda":
        files = [file for file in files if "cuda_graphs" in file]
    where = ["-m", "gpu" if bench.device.type == "cuda" else "not gpu"]
    flags = ["--rootdir", str(ROOT), "-q", "-rfE", "-W", "default", "-p", "no:cacheprovider"]
    output = io.StringIO()
    os.chdir(ROOT)  # of this section's own process
    with contextlib.redirect_stdout(output):
        status = pytest.main([*flags, *where, *files])
    yield "status", int(status)
    yield "output", output.getvalue()[-8000 if status else -200 :]


def agreement(bench: Bench) -> Iterator[Finding]:
    """Compare the losses of the first steps with the CPU's, drawn alike."""
    kinds: dict[str, dict[str, object]] = {
        "fp32": {"precision": "fp32", "cuda_graphs": False},
        "fp32 graphs": {"precision": "fp32", "cuda_graphs": True},
        "tf32 graphs": {"precision": "tf32", "cuda_graphs": True},
        "bf16 graphs": {"precision": "bf16", "cuda_graphs": True},
        "fp32 compiled graphs": {"precision": "fp32", "compile": True},
    }
    if bench.device.type != "cuda":
        del kinds["fp32 compiled graphs"]  # it would need a C++ compiler
    else:
        yield "fp32 compiled: gradients furthest from the plain ones", _furthest_gradients(bench)
    expected, twin = _losses(bench, bench.config({"precision": "fp32"}), CPU)
    yield "losses on the CPU", expected
    for name, keys in kinds.items():
        found, model = _losses(bench, bench.config(keys), bench.device)
        apart = max(abs(one - other) for one, other in zip(found, expected, strict=True))
        yield f"{name}: largest difference of a loss", apart
        if name.startswith("fp32"):
            yield f"{name}: within {ALLOWED}", apart <= ALLOWED
        yield (
            f"{name}: largest difference of a weight",
            max(
                float((weight.detach().cpu() - other.detach()).abs().max())
                for weight, other in zip(model.parameters(), twin.parameters(), strict=True)
            ),
        )


def _furthest_gradients(bench: Bench) -> dict[str, float]:
    """Return the largest relative differences of compiled gradients, by their parameters.

    Those of biases before a batch norm are rounding alone: compared with the largest of all.
    """
    found: list[dict[str, torch.Tensor]] = []
    for compiled in (False, True):
        config = bench.config({"precision": "fp32", "compile": compiled, "cuda_graphs": False})
        data = MadeUpClips(config, config.data.batch_size, seed=1, device=bench.device, draw_on=CPU)
        trained = train_on(bench, config, data)
        trained.gradients(next(trained.batches))
        model = getattr(trained.step, "step", trained.step)
        named = model.named_parameters()
        found.append({name: one.grad.clone() for name, one in named if one.grad is not None})
    least = 1e-3 * max(float(one.abs().max()) for one in found[0].values())
    apart = {
        name: float((found[1][name] - one).abs().max() / one.abs().max().clamp(min=least))
        for name, one in found[0].items()
    }
    return dict(sorted(apart.items(), key=lambda item: -item[1])[:8])


def _losses(
    bench: Bench, config: Config, device: torch.device
) -> tuple[list[float], torch.nn.Module]:
    """Return the losses of the first steps on a device, and the model after them."""
    there = replace(bench, device=device)
    clips = bench.amount(COMPARED_STEPS * config.data.batch_size, 4 * config.data.batch_size)
    data = MadeUpClips(config, clips, seed=1, device=device, draw_on=CPU)
    trained = train_on(there, config, data)
    losses = torch.stack([trained.take() for _ in range(COMPARED_STEPS)]).tolist()
    if config.trainer.cuda_graphs and device.type == "cuda" and not trained.is_replayed:
        raise RuntimeError("the steps were not replayed as a graph; see the warning above")
    return losses, trained.step


def steps(bench: Bench) -> Iterator[Finding]:
    """Time steps each way, and the parts of one."""
    for experts in (2, 4):
        data = MadeUpClips(
            bench.config(experts=experts), bench.amount(HELD_CLIPS, 64), seed=1, device=bench.device
        )
        for way in _ways(bench):
            if experts == 4 and WAYS[way]["precision"] != "tf32":
                continue
            name = f"{experts} experts, {way}"
            with _kept_going() as problem:
                watch = Watch(bench.device)
                trained = train_on(bench, bench.config(WAYS[way], experts=experts), data)
                trained.take()
                first = round(watch.lap(), 2)
                figures = _time_steps(bench, trained)
                yield name, {**figures, "first step s": first, **trained.how()}
            if problem:
                yield name, {"failed": problem[0]}
        del data


def _ways(bench: Bench) -> list[str]:
    """Return the names of WAYS; on the CPU those that need no compiler of C++."""
    return [way for way in WAYS if bench.device.type == "cuda" or "compile" not in WAYS[way]]


def _time_steps(bench: Bench, trained: Trained) -> dict[str, float]:
    """Return milliseconds: of a step, of the host alone for it, and of each part waited for."""
    for _ in range(bench.amount(WARM_UP, 5)):
        trained.take()
    count = bench.amount(100 if trained.is_replayed else 20, 3)
    rounds = [bench.seconds(trained.take, times=count) for _ in range(3)]
    few = 10  # not so many that the device's queue is full and the host waits for room in it
    started = time.perf_counter()
    for _ in range(few):
        trained.take()
    host = (time.perf_counter() - started) / few
    parts: dict[str, list[float]] = {"batch": [], "gradients": [], "optimiser": []}
    for _ in range(bench.amount(20, 3)):
        watch = Watch(bench.device)
        batch = next(trained.batches)
        parts["batch"].append(watch.lap())
        trained.gradients(batch)
        parts["gradients"].append(watch.lap())
        trained.optimizer.step()
        parts["optimiser"].append(watch.lap())
    medians = {name: statistics.median(values) for name, values in parts.items()}
    figures = {"step": min(rounds), "step, slowest round": max(rounds), "host": host, **medians}
    return {f"{name} ms": round(1e3 * value, 4) for name, value in figures.items()}


def mmt(bench: Bench) -> Iterator[Finding]:
    """Time steps of the multi-modal transformer at its published size, without dropout."""
    size = without_dropout(SIZES["small" if bench.quick else "published"])
    batch = _mmt_batch(size, bench.device)
    for precision, graphs in (("fp32", False), *itertools.product(PRECISIONS, (True,))):
        name = f"{precision}{', graphs' if graphs else ''}"
        with _kept_going() as problem:
            set_precision(precision)
            made = build(size).to(bench.device)
            step = RankingStep(made, MaxMarginRankingLoss(0.05), precision=precision)
            optimizer = torch.optim.Adam(made.parameters(), lr=5e-5)
            trained = Trained(bench, step, optimizer, itertools.repeat(batch), replay=graphs)
            yield name, {**_time_steps(bench, trained), "replayed": trained.is_replayed}
            if bench.device.type == "cuda":
                yield f"{name}: profile", _profiled(bench, trained, 5)
        if problem:
            yield name, {"failed": problem[0]}


def _mmt_batch(size: Size, device: torch.device) -> Batch:
    """Return captions, experts, availabilities and numbers of clips, no place empty."""
    text, experts, available = make_batch(size, filled=True)
    moved = {name: Frames(*(part.to(device) for part in of)) for name, of in experts.items()}
    there = {name: one.to(device) for name, one in available.items()}
    return text.to(device), moved, there, torch.arange(len(text), device=device)


def profile(bench: Bench) -> Iterator[Finding]:
    """Count the kernels of a step and find how long the device has nothing to do."""
    data = MadeUpClips(bench.config(), bench.amount(HELD_CLIPS, 64), seed=1, device=bench.device)
    for name in _ways(bench):
        if name in ("fp32", "bf16, graphs"):
            continue  # for time: as many kernels as with graphs, no gain over tf32
        config = bench.config(WAYS[name])
        with _kept_going() as problem:
            trained = train_on(bench, config, data)
            for _ in range(bench.amount(WARM_UP, 5)):
                trained.take()
            yield name, _profiled(bench, trained, bench.amount(20, 2))
        if problem:
            yield name, {"failed": problem[0]}


def _profiled(bench: Bench, trained: Trained, count: int) -> dict[str, Any]:
    """Profile `count` steps: kernels a step, their time, the idle share, and the longest."""
    activity = torch.profiler.ProfilerActivity
    on_gpu = bench.device.type == "cuda"
    unprofiled = bench.seconds(trained.take, times=count)
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as found:
        bench.seconds(trained.take, times=count)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        found.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    kinds = {"kernel", "gpu_memcpy", "gpu_memset"} if on_gpu else {"cpu_op"}
    return summarise_trace(events, kinds, count, unprofiled)


def training(bench: Bench) -> Iterator[Finding]:
    """Train at AudioCaps' size, with validation, saving and the final test."""
    clips, epochs = bench.amount(49_291, 96), bench.amount(20, 2)
    config = bench.config()
    watch = Watch(bench.device)
    data = MadeUpClips(config, clips, seed=1, device=bench.device)
    validation = MadeUpClips(
        config, bench.amount(494, 12), seed=2, device=bench.device
    ).evaluation()
    test = MadeUpClips(
        config, bench.amount(816, 12), seed=3, device=bench.device, captions=5
    ).evaluation()
    yield "seconds of making the clips", watch.lap()
    for name in _ways(bench):
        if "cuda_graphs" in WAYS[name]:
            continue  # minutes
        with _kept_going() as problem:
            own = bench.config({"epochs": epochs, "save_period": epochs, **WAYS[name]})
            yield name, _train(bench, own, data, validation, test)
        if problem:
            yield name, {"failed": problem[0]}


def _train(
    bench: Bench,
    config: Config,
    data: MadeUpClips,
    validation: EvaluationData,
    test: EvaluationData,
) -> dict[str, Any]:
    """Run a whole training; return its seconds, in all and by part, and what it reached."""
    set_precision(config.trainer.precision)
    records: list[Record] = []
    started = time.perf_counter()
    trained = build_training(config, 0, bench.device)
    with tempfile.TemporaryDirectory() as folder, StopSignals() as stop:
        job = Job(
            config=replace(config, trainer=replace(config.trainer, verbosity=0)),
            run=Run(Path(folder), Path(folder), seeds=(0,)),
            train=data,
            validation=validation,
            test=test,
            device=bench.device,
            processes=ALONE,
            stop=stop,
        )
        fit(trained, job, 0, records.append)
        trained_for = time.perf_counter() - started
        tested = evaluate(trained.model, test, device=bench.device)
    whole = time.perf_counter() - started
    first, *others = [record["seconds"] for record in records]
    return {
        "seconds": round(whole, 2),
        "in steps": round(sum(record["seconds"] for record in records), 2),
        "validation and saving": round(
            trained_for - sum(record["seconds"] for record in records), 2
        ),
        "first epoch": first,
        "later epochs": statistics.median(others or [first]),
        "final test": round(whole - trained_for, 3),
        "last loss": records[-1]["loss"],
        **({"compiled": trained.step.works} if isinstance(trained.step, CompiledStep) else {}),
        "test R@10 t2a": tested.metrics["t2v_metrics"]["R10"],
    }


def evaluation(bench: Bench) -> Iterator[Finding]:
    """Evaluate on the device and on the CPU: time, agreement, and growth of the split."""
    config = bench.config()
    set_precision("fp32")
    model = build_training(config, 0, CPU).model
    small = MadeUpClips(config, bench.amount(816, 12), seed=3, device=CPU, captions=5)
    expected = evaluate(model, small.evaluation(), device=CPU)
    model.to(bench.device)
    there = MadeUpClips(
        config, bench.amount(816, 12), seed=3, device=bench.device, draw_on=CPU, captions=5
    ).evaluation()
    found = evaluate(model, there, device=bench.device)
    yield (
        "largest difference of a similarity",
        float(abs(found.similarities - expected.similarities).max()),
    )
    yield (
        "metrics agree",
        all(
            abs(value - found.metrics[task][name]) < 0.2
            for task, metrics in expected.metrics.items()
            for name, value in metrics.items()
            if name.startswith("R")
        ),
    )
    for clips, captions in ((494, 1), (816, 5), (1024, 5), (4096, 5), (16384, 1), (16384, 5)):
        if bench.quick and clips > 1000:
            break
        data = MadeUpClips(config, clips, seed=3, device=bench.device, captions=captions)
        split = data.evaluation()
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(bench.device)
        seconds = [
            bench.seconds(lambda: evaluate(model, split, device=bench.device))  # noqa: B023
            for _ in range(3)
        ]
        on_gpu = bench.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(bench.device) if on_gpu else 0
        name = f"{clips} clips x {captions} captions"
        yield name, {"seconds": round(min(seconds), 4), "peak_gb": round(peak / 1e9, 2)}


@contextlib.contextmanager
def _kept_going() -> Iterator[list[str]]:
    """Go on after a failure of one measurement, which is left in the list."""
    problem: list[str] = []
    try:
        yield problem
    except Exception as error:
        problem.append(f"{type(error).__name__}: {error}"[:600])


SECTIONS: Mapping[str, tuple[Section, int]] = {
    "machine": (machine, 30),
    "tests": (tests, 80),
    "agreement": (agreement, 50),
    "training": (training, 140),
    "steps": (steps, 75),
    "evaluation": (evaluation, 30),
    "mmt": (mmt, 40),
    "profile": (profile, 30),
}
"""Each section with the seconds it may take."""


def run(name: str, settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Run a section by its name."""
    bench = Bench(choose_device(settings["device"]), settings["quick"])
    if bench.device.type == "cuda":
        torch.cuda.set_device(bench.device)
    return SECTIONS[name][0](bench)
