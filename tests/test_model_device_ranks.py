"""The ranks on a device: by hand, and against those of numpy."""

import numpy as np
import pytest
import torch

from model import device_ranks
from model.device_ranks import ranks_on_device
from model.metric import t2v_ranks, v2t_ranks


def check(device, levels):
    rng = np.random.default_rng(levels)
    for clips, per_clip in ((1, 1), (7, 1), (13, 5)):
        sims = rng.normal(size=(clips * per_clip, clips)).astype(np.float32)
        sims = np.round(sims * levels) / np.float32(levels)
        masks = (rng.random((clips, per_clip)) < 0.6).astype(np.float32)
        masks[0] = 1
        exists = masks.reshape(-1).astype(bool)
        of_captions, of_clips = ranks_on_device(
            torch.from_numpy(sims).to(device), torch.from_numpy(exists).to(device)
        )
        assert np.array_equal(of_captions[exists], t2v_ranks(sims, masks))
        assert np.array_equal(of_clips, v2t_ranks(sims, masks))


@pytest.mark.parametrize("levels", [1, 1000])
@pytest.mark.parametrize("block", [1, 20, 1 << 20])
def test_ranks_are_those_of_numpy(monkeypatch, levels, block):
    monkeypatch.setattr(device_ranks, "BLOCK", block)
    check("cpu", levels)


@pytest.mark.gpu
@pytest.mark.parametrize("levels", [1, 1000])
def test_ranks_on_a_gpu_are_those_of_numpy(levels):
    check("cuda", levels)
