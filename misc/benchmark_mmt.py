"""Time a training step of MMT on the CPU, and the same step as its formulas are printed.

python misc/benchmark_mmt.py                a small and the published size, a minute on two cores
python misc/benchmark_mmt.py --size small   one of the sizes

Processor time of one thread. Weights, captions and frames are made up; clips fill as many of the
places of a batch as those of AudioCaps do, or all of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from misc.benchmarking import mmt_reference, reference
from misc.benchmarking.made_up_mmt import SIZES, Batch, Size, build, make_batch
from model.loss import MaxMarginRankingLoss
from model.mmt import MMT
from trainer.ranking_step import RankingStep
from utils.allocator import keep_memory
from utils.errors import run_main

MARGIN, RATE = 0.05, 5e-5


def own_loss(model: MMT) -> Callable[..., torch.Tensor]:
    """Return our step of a model."""
    return RankingStep(model, MaxMarginRankingLoss(MARGIN))


def printed_loss(model: MMT) -> Callable[..., torch.Tensor]:
    """Return the step as printed."""
    return lambda *batch: reference.ranking_loss(mmt_reference.similarities(model, *batch), MARGIN)


WAYS = {"ours": own_loss, "as printed": printed_loss}


def time_steps(size: Size, batch: Batch, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a step each way, in turn; the first round is not counted."""
    models = {name: build(size) for name in WAYS}
    losses = {name: way(models[name]) for name, way in WAYS.items()}
    optimizers = {name: torch.optim.Adam(models[name].parameters(), RATE) for name in WAYS}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for round_ in range(-1, rounds):
        for name, loss in losses.items():
            started = time.thread_time()
            optimizers[name].zero_grad()
            loss(*batch).backward()
            optimizers[name].step()
            if round_ >= 0:
                seconds[name].append(time.thread_time() - started)
    return seconds


def run(argv: Sequence[str] | None) -> int:
    """Time each size, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    args = parser.parse_args(argv)
    keep_memory()
    torch.set_num_threads(1)
    print(f"{'':24}" + "".join(f"{name:>14}" for name in (*WAYS, "ratio")))
    for name in args.size or SIZES:
        for filled in (False, True):
            seconds = time_steps(SIZES[name], make_batch(SIZES[name], filled=filled), args.rounds)
            ours, printed = (statistics.median(seconds[way]) for way in WAYS)
            title = f"{name}, {'all places' if filled else 'AudioCaps'}"
            print(f"{title:24}{ours:>12.3f} s{printed:>12.3f} s{printed / ours:>13.2f}x")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_main(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
