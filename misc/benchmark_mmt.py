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
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from misc.benchmarking import mmt_reference, reference
from model import bert
from model.loss import MaxMarginRankingLoss
from model.mmt import MMT, ClipTransformer
from trainer.ranking_step import RankingStep
from utils.allocator import keep_memory
from utils.batches import Frames
from utils.errors import run_main

WIDTHS = {"audio": 128, "vggsound": 512}
FRAMES = {"audio": 10, "vggsound": 29}
"""Of a clip of ten seconds."""
WORDS = (7, 16)
"""Pieces of a caption, [CLS] and [SEP] among them."""
MARGIN, RATE, DROPOUT = 0.05, 5e-5, 0.1

Batch = tuple[torch.Tensor, dict[str, Frames], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Size:
    """The sizes of both transformers and of a batch."""

    text: bert.Size
    clips: bert.Size
    vocabulary: int
    batch: int
    places: int
    """Of the frames of an expert."""
    words: int


SIZES = {  # small: as wide as the models of the reference numbers
    "small": Size(
        bert.Size(40, 2, 4, 56, DROPOUT, DROPOUT),
        bert.Size(24, 2, 4, 40, DROPOUT, DROPOUT),
        vocabulary=164,
        batch=32,
        places=32,
        words=52,
    ),
    "published": Size(
        bert.Size(768, 12, 12, 3072, DROPOUT, DROPOUT),
        bert.Size(512, 4, 4, 3072, DROPOUT, DROPOUT),
        vocabulary=28996,
        batch=32,
        places=32,
        words=52,
    ),
}


def build(size: Size) -> MMT:
    """Return an MMT of a size, its weights drawn from seed 0."""
    torch.manual_seed(0)
    text = bert.Bert(size.text, vocabulary=size.vocabulary, positions=512)
    return MMT(WIDTHS, text, ClipTransformer(size.clips, positions=102, types=10)).train()


def make_batch(size: Size, *, filled: bool) -> Batch:
    """Return captions (B, 1, W, 2), frames and availabilities; `filled`: no place is empty."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, size.vocabulary, (size.batch, 1, size.words), generator=draw)
    lengths = torch.randint(*WORDS, (size.batch, 1, 1), generator=draw)
    used = torch.arange(size.words) < (size.words if filled else lengths)
    experts = {}
    for name, width in WIDTHS.items():
        count = size.places if filled else min(FRAMES[name], size.places)
        mask = (torch.arange(size.places) < count).long().expand(size.batch, -1)
        frames = torch.randn(size.batch, size.places, width, generator=draw) * mask[..., None]
        times = torch.arange(size.places).expand(size.batch, -1) + 0.5
        experts[name] = Frames(frames, times, mask, frames.amax(dim=1))
    available = {name: torch.ones(size.batch) for name in WIDTHS}
    return torch.stack([ids * used, used.expand_as(ids).long()], dim=3), experts, available


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
