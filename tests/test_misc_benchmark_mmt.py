"""The benchmark of MMT: the step as printed is our step, and the table has a row per size."""

from dataclasses import replace

import pytest
import torch

from misc import benchmark_mmt
from misc.benchmarking.made_up_mmt import SIZES, build, make_batch, without_dropout

TINY = replace(without_dropout(SIZES["small"]), batch=5, places=12, words=17)


@pytest.mark.parametrize("filled", [False, True])
def test_the_printed_step_is_ours(filled):
    text, experts, available = make_batch(TINY, filled=filled)
    available["audio"][2] = 0
    gradients = []
    for way in benchmark_mmt.WAYS.values():
        model = build(TINY)
        loss = way(model)(text, experts, available)
        loss.backward()
        parts = [one.grad.flatten() for one in model.parameters() if one.grad is not None]
        gradients.append((loss.item(), torch.cat(parts)))
    (loss, ours), (expected, printed) = gradients
    assert loss == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(ours, printed, rtol=0, atol=1e-5 * printed.abs().max().item())


def test_the_table_has_every_row(monkeypatch, capsys):
    monkeypatch.setattr(benchmark_mmt, "SIZES", {"small": TINY})
    assert benchmark_mmt.main(["--rounds", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
