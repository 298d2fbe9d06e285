"""Threads wait asleep, unless the environment says otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.threads import SPINS, wait_asleep

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, SPINS),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
    ],
)
def test_the_environment_decides_first(monkeypatch, given, expected):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", {**os.environ, **given})
    wait_asleep()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize(
    ("script", "flags"),
    [("train", ["--config", "nowhere.json"]), ("eval", ["--resume", "nowhere.pth"])],
)
def test_it_is_said_before_torch_is_imported(script, flags):
    probe = (
        "import importlib, os, sys\n"
        f"script = importlib.import_module({script!r})\n"
        "seen = []\n"
        "def note(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'torch':\n"
        "        seen.append(os.environ.get('GOMP_SPINCOUNT'))\n"
        "sys.addaudithook(note)\n"
        f"script.main({flags!r})\n"
        "print(seen[0])\n"
    )
    chosen = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {k: v for k, v in os.environ.items() if k not in chosen}
    done = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{SPINS}\n"
