"""Check and time this project on a GPU, within eight minutes and without installing anything.

python misc/gpu_check.py                         everything, on GPU 0
python misc/gpu_check.py --only steps,profile    some sections
python misc/gpu_check.py --device cpu --quick    does the script itself work?

Each section runs in a process of its own and has its time; one that fails or takes too long is
reported, and the others go on. Figures are printed as they come, and written as JSON after each
section: to --out, or into the folder that the variable OUT names.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from misc.benchmarking.processes import run_stage
from utils.errors import ProjectError, UsageError, nearest, run_main
from utils.files import write_json

LIMIT = 400  # seconds, of the eight minutes: starting a machine takes some


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="0", help="number of a GPU, or cpu; default 0")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--only", metavar="A,B", help="sections to run, instead of all")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for all of it")
    parser.add_argument("--out", metavar="FILE", help="write all figures here")
    return parser.parse_args(argv)


def run_section(name: str, settings: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Run a section for at most so many seconds; return what it found."""
    report: dict[str, Any] = {"findings": {}}
    started = time.monotonic()
    try:
        module = "misc.benchmarking.gpu_sections"
        for key, value in run_stage(module, name, settings, max(0, seconds)):
            report["findings"][key] = value
            print(f"  {key}: {shown(value)}", flush=True)
    except ProjectError as error:
        print(f"  FAILED: {error}", flush=True)
        report["failure"] = str(error)
    return {**report, "seconds": round(time.monotonic() - started, 1)}


def shown(value: object) -> str:
    """Return a finding in one line, long lists cut."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {shown(part)}" for key, part in value.items() if not isinstance(part, list)
        )
    if isinstance(value, list):
        return " ".join(shown(part) for part in value[:5]) + (" ..." if len(value) > 5 else "")
    return str(value)


def choose_sections(only: str | None, known: Sequence[str]) -> list[str]:
    """Return the sections that are asked for, in their order; raises UsageError."""
    wanted = known if only is None else only.split(",")
    for name in wanted:
        if name not in known:
            raise UsageError(f"--only {name}: no such section{nearest(name, known)}")
    return [name for name in known if name in wanted]


def run(argv: Sequence[str] | None) -> int:
    """Run the sections; return 0 when none failed."""
    args = parse_arguments(argv)
    from misc.benchmarking.gpu_sections import SECTIONS

    names = choose_sections(args.only, list(SECTIONS))
    folder = os.environ.get("OUT")
    file = args.out or (str(Path(folder) / "gpu_check.json") if folder else None)
    settings = {"device": args.device, "quick": args.quick}
    started = time.monotonic()
    now = datetime.datetime.now(datetime.timezone.utc)
    report: dict[str, Any] = {"date": now.isoformat(timespec="seconds"), "sections": {}}
    for name in names:
        left = args.limit - (time.monotonic() - started)
        print(f"{name} (at {time.monotonic() - started:.0f} s)", flush=True)
        report["sections"][name] = run_section(name, settings, min(left, SECTIONS[name][1]))
        if file:
            write_json(Path(file), report)
    report["seconds"] = round(time.monotonic() - started, 1)
    failed = [name for name, section in report["sections"].items() if "failure" in section]
    print(f"{report['seconds']} seconds; failed sections: {', '.join(failed) or 'none'}")
    if file:
        write_json(Path(file), report)
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_main(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
