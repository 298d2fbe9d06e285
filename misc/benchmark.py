"""Measure how fast this machine packs, starts, trains, evaluates and ranks, and compare.

python misc/benchmark.py --reference            AudioCaps' size, on the CPU, with the opponent
python misc/benchmark.py --device 0             the same on a GPU
python misc/benchmark.py --quick                everything at a small size, in under a minute

Features are made up, in a temporary folder. Every stage runs in a process of its own. Needs Linux.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from misc.benchmarking import processes
from utils.config import load_config
from utils.errors import UsageError, run_main
from utils.files import write_json

EXPERIMENTS = {
    1: "configs/audiocaps/train-full-ce-only-audio.json",
    2: "configs/audiocaps/train-vggish-vggsound.json",
    3: "configs/audiocaps/train-full-ce-r2p1d-inst-vggish.json",
    4: "configs/audiocaps/train-full-ce-r2p1d-inst-vggish-vggsound.json",
    5: "configs/audiocaps/train-full-ce-scene-r2p1d-inst-vggish-vggsound.json",
}
"""A published experiment with so many experts."""
GROWTH = (5_000, 50_000, 500_000, 1_000_000)
FULL = {
    "val": 500,
    "test": 800,
    "rounds": 15,
    "steps": 4,
    "repeats": 5,
    "ranked_clips": 4000,
    "grown_steps": 30,
    "evaluated": (1_000, 4_000, 16_000),
}
QUICK = {
    "val": 24,
    "test": 16,
    "rounds": 1,
    "steps": 1,
    "repeats": 1,
    "ranked_clips": 100,
    "grown_steps": 2,
    "evaluated": (16, 32),
}
BYTES = ("peak", "private")

Figures = dict[str, list[float]]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, help="training clips; default 49000, AudioCaps' size")
    parser.add_argument("--experts", type=int, default=2, choices=EXPERIMENTS, help="default 2")
    parser.add_argument("--batch_size", type=int, help="default 128")
    parser.add_argument("--device", help="number of a GPU; the CPU without it")
    parser.add_argument("--reference", action="store_true", help="let the published way compete")
    parser.add_argument(
        "--growth", action="store_true", help="as data grow: start-up, steps, scores"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: does it all work?")
    parser.add_argument("--custom_args", default="", help="keys of the configuration, as train.py")
    parser.add_argument("--json", metavar="FILE", help="write all figures here too")
    parser.add_argument("--folder", help="where to make the data, instead of the system's place")
    args = parser.parse_args(argv)
    args.clips = args.clips or (200 if args.quick else 49_000)
    args.batch_size = args.batch_size or (32 if args.quick else 128)
    if args.clips < args.batch_size:
        raise UsageError(f"--clips {args.clips}: expected at least a batch of {args.batch_size}")
    return args


def write_config(folder: Path, args: argparse.Namespace) -> str:
    """Write the configuration of the measured training; return its path."""
    changes: dict[str, object] = {
        "data_loader.args.data_dir": folder / "AudioCaps",
        "data_loader.args.packed_dir": folder / "packed",
        "data_loader.args.batch_size": args.batch_size,
        "trainer.save_dir": folder / "saved",
    }
    if args.quick:
        changes["experts.ce_shared_dim"] = 64
    experiment = ROOT / EXPERIMENTS[args.experts]
    path = folder / "benchmark.json"
    write_json(path, load_config(experiment, changes, custom_args=args.custom_args).raw)
    return str(path)


def run_stage(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a stage."""
    print(f"measuring {name} ...", file=sys.stderr)
    return dict(processes.run_stage("misc.benchmarking.stages", name, settings))


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run every stage; return the report."""
    amount = QUICK if args.quick else FULL
    settings = {
        **amount,
        "config": write_config(folder, args),
        "folder": str(folder),
        "sizes": {"train": args.clips, "val": amount["val"], "test": amount["test"]},
        "device": args.device,
        "reference": args.reference,
        "sparse": False,
    }
    run_stage("data", settings)
    figures = run_stage("packing", settings)
    for _ in range(1 if args.quick else 3):
        for name, values in run_stage("start-up", settings).items():
            figures.setdefault(name, []).extend(values)
    growing = ("evaluation growth",) if args.growth else ()
    for stage in ("epoch", "steps", "evaluation", "ranks", *growing):
        for name, values in run_stage(stage, settings).items():
            figures[name] = figures.get(name, []) + values if isinstance(values, list) else values
    machine = figures.pop("machine")
    parameters, flops = figures.pop("parameters"), figures.pop("flops")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": {**machine, "cores": len(os.sched_getaffinity(0))},
        "size": {
            **settings["sizes"],
            "experts": args.experts,
            "batch": args.batch_size,
            "parameters": parameters,
            "step_gflop": round(flops / 1e9, 2),
            "ranked": [5 * settings["ranked_clips"], settings["ranked_clips"]],
        },
        "figures": summarise(figures),
        "growth": grow(args, folder, settings) if args.growth else [],
    }


def grow(
    args: argparse.Namespace, folder: Path, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Measure start-up, step and memory as the data set grows; features are holes of files."""
    rows = []
    for clips in (200, 400) if args.quick else GROWTH:
        place = folder / f"growth-{clips}"
        place.mkdir()
        own = {
            **settings,
            "config": write_config(place, args),
            "folder": str(place),
            "sizes": {**settings["sizes"], "train": clips},
            "sparse": True,
        }
        run_stage("data", own)
        runs = [run_stage("growth", own) for _ in range(1 if args.quick else 3)]
        row = {name: [value for run in runs for value in run[name]] for name in runs[0]}
        rows.append({"clips": clips, "figures": summarise(row)})
        shutil.rmtree(place)
    return rows


def summarise(figures: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Give each figure's median and spread, and its ratios to the limit and to the opponent.

    `of_limit` is in units of the machine's limit for a step; `speedup` the median over the rounds
    of the opponent's time by ours.
    """
    limit = statistics.median(figures["limit"]) if "limit" in figures else None
    report: dict[str, dict[str, Any]] = {}
    for name, values in figures.items():
        is_size = any(word in name for word in BYTES)
        row: dict[str, Any] = {
            "unit": "B" if is_size else "s",
            "median": statistics.median(values),
            "low": min(values),
            "high": max(values),
            "count": len(values),
        }
        if limit and not is_size:
            row["of_limit"] = row["median"] / limit
        theirs = figures.get(f"reference {name}")
        if theirs:
            row["speedup"] = statistics.median(t / o for t, o in zip(theirs, values, strict=True))
        report[name] = row
    return report


def table(report: Mapping[str, Any]) -> str:
    """Return the report as text."""
    machine, size = report["machine"], report["size"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores; {machine['device']}; torch "
        f"{machine['torch']}; {report['date'][:10]}",
        f"{size['train']} clips, {size['experts']} experts, {size['parameters']:,} parameters, "
        f"batch {size['batch']}, {size['step_gflop']} GFLOP of matrix products a step",
        "",
        _row("", "median", "lowest", "highest", "of limit", "speed-up"),
    ]
    lines += [_line(name, row) for name, row in report["figures"].items()]
    for row in report["growth"]:
        lines += ["", f"{row['clips']:,} training clips"]
        lines += [_line(name, figure) for name, figure in row["figures"].items()]
    return "\n".join(lines)


def _line(name: str, row: Mapping[str, Any]) -> str:
    scale, unit = (1e6, "MB") if row["unit"] == "B" else (1e-3, "ms")
    if unit == "ms" and row["median"] >= 10:
        scale, unit = 1.0, "s"
    cells = [f"{row[key] / scale:.1f} {unit}" for key in ("median", "low", "high")]
    ratio = f"{row['of_limit']:.2f}" if "of_limit" in row else ""
    speedup = f"{row['speedup']:.2f}x" if "speedup" in row else ""
    return _row(name, *cells, ratio, speedup)


def _row(name: str, *cells: str) -> str:
    return f"{name:36}" + "".join(f"{cell:>12}" for cell in cells).rstrip()


def run(argv: Sequence[str] | None) -> int:
    """Measure, print the table, write the JSON."""
    args = parse_arguments(argv)
    if sys.platform != "linux":
        raise UsageError(f"memory is read from /proc, which {sys.platform} lacks; needs Linux")
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=args.folder) as folder:
        report = measure(args, Path(folder))
    print(table(report))
    if args.json:
        write_json(Path(args.json), report)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_main(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
