"""A run that the version before this interface stopped is continued to the end it would have had.

tests/data/earlier_version holds its last.pth, stopped after two batches of the second epoch, and
the metrics of the same training never stopped. Other processors round otherwise: nearly equal.
"""

import json
import shutil
from pathlib import Path

import pytest

import train
from small_runs import Place, make_data
from trainer.checkpoint import load_checkpoint

STORED = Path(__file__).resolve().parent / "data" / "earlier_version"


@pytest.mark.parametrize("by", ["checkpoint", "folder", "auto"])
def test_it_goes_on(tmp_path, by):
    place = Place(tmp_path, make_data(tmp_path / "made"))
    folder = tmp_path / "data/saved/models/clotho-tiny/2026-01-01_00-00-00"
    folder.mkdir(parents=True)
    for name in ("last.pth", "config.json", "run.json"):
        shutil.copy(STORED / name, folder)
    checkpoint = load_checkpoint(folder / "last.pth")
    assert (checkpoint.epoch, len(checkpoint.progress["losses"])) == (1, 2)
    flags = {
        "checkpoint": ["--resume", folder / "last.pth"],
        "folder": ["--resume", folder],
        "auto": ["--config", folder / "config.json", "--resume", "auto"],
    }[by]
    assert place.call(train.main, *flags) == 0
    run = place.newest()
    assert run.models == folder
    lines = (STORED / "expected_metrics.jsonl").read_text(encoding="utf-8").splitlines()
    expected = [{**json.loads(line), "seconds": 0} for line in lines]
    found = [{**line, "seconds": 0} for line in run.metrics]
    assert [line["epoch"] for line in found] == [1, 2, 3]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
