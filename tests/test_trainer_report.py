"""What a training leaves to read: metrics.jsonl, TensorBoard, a line an epoch."""

import json
import resource
import shutil

import pytest

from model.metric import TASKS, heading_of
from surroundings import limited
from trainer.report import MetricsFile, curves, describe_epoch, doubts_about, epoch_heading


def test_metrics_of_a_seed_replace_its_own_lines_only(tmp_path):
    file = MetricsFile(tmp_path)
    file.replace(0, [{"epoch": 1, "loss": 0.5}])
    file.replace(1, [{"epoch": 1, "loss": 0.25}])
    again = MetricsFile(tmp_path)
    again.replace(1, [{"epoch": 1, "loss": 0.125}, {"epoch": 2, "loss": 0.0625}])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"seed": 0, "epoch": 1, "loss": 0.5},
        {"seed": 1, "epoch": 1, "loss": 0.125},
        {"seed": 1, "epoch": 2, "loss": 0.0625},
    ]


@pytest.mark.parametrize(
    "damaged", ['{"seed": 0, "epo', "5", '{"seed": 1}\n[]', "null", "[" * 10**5, "\xff\xfe"]
)
def test_damaged_metrics_are_written_anew(tmp_path, caplog, damaged):
    path = tmp_path / "metrics.jsonl"
    path.write_text(damaged, encoding="latin-1")
    MetricsFile(tmp_path).replace(0, [{"epoch": 1}])
    assert path.read_text() == '{"seed": 0, "epoch": 1}\n'
    assert "damaged" in caplog.text


def test_an_epoch_in_a_line():
    record = {"epoch": 3, "loss": 0.12345, "learning_rate": 0.0095, "seconds": 1.25}
    line = describe_epoch(record, seed=2, epochs=20, is_best=False)
    assert line.split() == ["2", "3/20", "0.1235", *"--------", "1.2"]
    for task in ("t2v", "v2t"):
        values = {"R1": 5.0, "R5": 50.0, "R10": 100.0, "MedR": 1234.5}
        record |= {f"val_{task}_metrics_{name}": value for name, value in values.items()}
    line = describe_epoch(record, seed=2, epochs=20, is_best=True)
    shown = ["5.0", "50.0", "100.0", "1234.5"]
    assert line.split() == ["2", "3/20", "0.1235", *shown, *shown, "1.2", "*"]
    above, heading = epoch_heading().splitlines()
    assert heading.split()[3:7] == [heading_of(name) for name in values]
    assert all(title in above for title in TASKS.values())
    assert max(len(above), len(heading), len(line)) <= 80
    assert len(heading) == len(line.removesuffix(" *"))
    for word, value in zip(heading.split()[3:7], shown, strict=True):
        end = heading.index(word) + len(word)
        assert line[:end].endswith(value)


@pytest.mark.parametrize(
    ("losses", "best", "word"),
    [
        ([0.2, 0.1], 2, ""),
        ([0.2, 0.1], 1, "best"),
        ([0.2, 0.1, 0.3], 2, "loss"),
        ([0.2], 1, ""),
        ([0.2, 0.2], 2, ""),
        ([], 0, ""),
    ],
)
def test_trainings_to_doubt(losses, best, word):
    history = [{"epoch": n, "loss": loss} for n, loss in enumerate(losses, start=1)]
    doubts = doubts_about(history, best)
    assert word in doubts
    assert bool(doubts) == bool(word)


def test_curves(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with curves(tmp_path, 1) as draw:
        draw({"epoch": 1, "loss": 0.5})
        draw({"epoch": 2, "loss": 0.25})
    with curves(tmp_path, 2) as draw:  # continued: what came after is drawn anew
        draw({"epoch": 2, "loss": 0.125})
    events = reading.EventAccumulator(str(tmp_path))
    events.Reload()
    drawn = [(event.step, event.value) for event in events.Scalars("loss")]
    assert drawn == [(1, 0.5), (2, 0.125)]


def test_curves_that_cannot_be_written_any_more(tmp_path, caplog, capsys):
    with curves(tmp_path, 1) as draw:
        draw({"epoch": 1, "loss": 0.5})
        with limited(resource.RLIMIT_FSIZE, 10):
            for epoch in range(2, 5):
                draw({"epoch": epoch, "loss": 0.5})
    assert caplog.text.count("not written any more: [Errno 27]") == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_of_metrics_that_vanishes_is_made_again(tmp_path, caplog):
    file = MetricsFile(tmp_path / "log")
    file.replace(0, [])
    shutil.rmtree(tmp_path / "log")
    file.replace(0, [{"epoch": 1, "loss": 1.0}])
    assert len(file.path.read_text().splitlines()) == 1
    assert str(tmp_path / "log") in caplog.text
