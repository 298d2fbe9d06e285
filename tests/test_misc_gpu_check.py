"""The check on a GPU: sections that fail or hang, and what is made of a trace."""

import json

import pytest
import torch

from misc import gpu_check
from misc.benchmarking import gpu_sections
from misc.benchmarking.made_up_clips import MadeUpClips
from misc.benchmarking.traces import summarise_trace
from utils.batches import gathered
from utils.config import load_config
from utils.errors import UsageError

CPU = torch.device("cpu")


def kernel(name, begin, length, cat="kernel"):
    return {"cat": cat, "name": name, "ts": begin, "dur": length}


def test_a_trace_by_hand():
    events = [
        kernel("add", 100.0, 10.0),
        kernel("mul", 105.0, 10.0),  # beside the first: busy from 100 to 115
        kernel("add", 130.0, 5.0),
        kernel("copy", 140.0, 10.0, cat="gpu_memcpy"),
        kernel("launch", 0.0, 500.0, cat="cuda_runtime"),
        {"cat": "kernel", "name": "no length", "ts": 1.0},
    ]
    found = summarise_trace(events, {"kernel", "gpu_memcpy"}, 2, 60e-6)
    assert found["kernels a step"] == 2.0
    assert found["busy ms a step"] == 0.015
    assert found["idle"] == 0.75  # 15 of 60 microseconds
    assert found["idle, profiled"] == 0.4  # 30 of 50
    assert found["longest"][0] == {"kernel": "add", "a step": 1.0, "us a step": 7.5}


def test_a_trace_without_kernels():
    assert "failed" in summarise_trace([kernel("launch", 0, 1, "cpu_op")], {"kernel"}, 1, 1.0)


def test_sections_keep_their_order():
    known = ["machine", "tests", "steps"]
    assert gpu_check.choose_sections(None, known) == known
    assert gpu_check.choose_sections("steps,machine", known) == ["machine", "steps"]
    with pytest.raises(UsageError, match="stepts"):
        gpu_check.choose_sections("stepts", known)


def test_findings_in_a_line():
    assert gpu_check.shown({"step": 0.12345, "longest": [1], "replayed": True}) == (
        "step 0.1235, replayed True"
    )
    assert gpu_check.shown([1.0] * 6) == "1 1 1 1 1 ..."


def test_what_is_found_is_written(tmp_path, capsys):
    file = tmp_path / "found.json"
    status = gpu_check.main(["--device", "cpu", "--quick", "--only", "machine", "--out", str(file)])
    report = json.loads(file.read_text())
    assert status == 0
    assert report["sections"]["machine"]["findings"]["torch"] == torch.__version__
    assert "failed sections: none" in capsys.readouterr().out


def test_a_section_that_takes_too_long_is_stopped(capsys):
    report = gpu_check.run_section("machine", {"device": "cpu", "quick": True}, 0.01)
    assert "stopped" in report["failure"]
    assert report["findings"] == {}


def test_a_section_that_fails_is_reported(capsys):
    report = gpu_check.run_section("machine", {"device": "no such", "quick": True}, 60)
    assert "no such" in report["failure"]


def test_made_up_clips_can_be_learned_from():
    config = load_config(gpu_sections.ROOT / gpu_sections.EXPERIMENTS[2], {})
    clips = MadeUpClips(config, 130, seed=1, device=CPU)
    again = MadeUpClips(config, 130, seed=1, device=CPU)
    assert clips.batches_per_epoch == 2
    for one, other in zip(clips.epoch(1, 0), again.epoch(1, 0), strict=True):
        first, second = gathered(one), gathered(other)
        assert torch.equal(first[0], second[0])
        assert first[1]["vggsound"].shape[0] == first[0].shape[0]
    split = MadeUpClips(config, 6, seed=2, device=CPU, captions=3).evaluation()
    assert split.text.shape[:2] == (6, 3)
    heard = split.experts["vggsound"].mean(dim=1)
    other = MadeUpClips(config, 6, seed=3, device=CPU, captions=3).evaluation()
    assert not torch.equal(heard, other.experts["vggsound"].mean(dim=1))


def test_every_section_works_on_the_cpu():
    bench = gpu_sections.Bench(CPU, quick=True)
    for name in ("agreement", "training"):
        findings = dict(gpu_sections.SECTIONS[name][0](bench))
        assert findings
        assert not [key for key, value in findings.items() if "failed" in str(value)]
