"""Audit a configuration's data set: leaks between splits, ambiguous captions, damaged features.

python misc/audit_dataset.py --config configs/clotho/train-vggish-vggsound.json

Exit status 0: nothing was found; 1: something was, or could not be read; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from results.audit import CHECKS, Audit, audit
from results.material import gather
from utils.config import load_config
from utils.errors import run_main


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog="checks: " + "; ".join(f"{name}: {text}" for name, (_, text) in CHECKS.items()),
    )
    parser.add_argument("--config", help="configuration whose data set is audited", required=True)
    parser.add_argument("--data_dir", help="takes the place of data everywhere")
    parser.add_argument(
        "--accept",
        nargs="*",
        default=[],
        choices=list(CHECKS),
        metavar="CHECK",
        help="known findings: shown, but no reason for exit status 1",
    )
    parser.add_argument("--format", choices=["text", "json"], default="text")
    args = parser.parse_args(argv)
    return run_main(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Audit, print, and return the exit status."""
    found = audit(gather(load_config(args.config, data_dir=args.data_dir)))
    print(as_json(found) if args.format == "json" else as_text(found, args.accept))
    return int(any(finding.check not in args.accept for finding in found.findings))


def as_text(found: Audit, accepted: Sequence[str]) -> str:
    """Return facts, findings, and the checks that found nothing, each with its threshold."""
    lines = ["Facts", *(f"  {fact}" for fact in found.facts), "", "Findings"]
    for finding in found.findings:
        known = " (accepted)" if finding.check in accepted else ""
        lines.append(f"  {finding.check}{known}: {finding.message}")
        lines += [f"    {example}" for example in finding.examples]
    if not found.findings:
        lines.append("  none")
    at_fault = {finding.check for finding in found.findings}
    lines += ["", "Checks"]
    for name, (_, text) in CHECKS.items():
        lines.append(f"  {'found' if name in at_fault else 'clean'}  {name}: {text}")
    return "\n".join(lines)


def as_json(found: Audit) -> str:
    """Return the same for programs."""
    findings = [vars(finding) for finding in found.findings]
    checks = {name: text for name, (_, text) in CHECKS.items()}
    return json.dumps({"facts": found.facts, "findings": findings, "checks": checks}, indent=1)


if __name__ == "__main__":
    sys.exit(main())
