"""The ranks of model/metric.py where the similarities are, on a GPU, in blocks of bounded memory.

Q captions, V clips, K captions per clip: Q = V*K and caption q belongs to clip q // K.
"""

import numpy as np
import torch

BLOCK = 1 << 26  # scores compared at a time: a few hundred megabytes with what they are compared to


def ranks_on_device(sims: torch.Tensor, exists: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the 0-based ranks of captions and of clips, as t2v_ranks and v2t_ranks do.

    sims (Q, V) without NaN, exists (Q,) of bool, on one device -> rank0 of all captions (Q,),
    also of those that do not exist, and rank0 of clips (V,), infinite where no caption exists.
    """
    captions, clips = sims.shape
    per_clip = captions // clips
    queries = torch.arange(captions, device=sims.device)
    owner = torch.div(queries, per_clip, rounding_mode="floor")
    own = sims[queries, owner]
    best = torch.where(exists, own, float("-inf")).view(clips, per_clip).amax(dim=1)
    of_captions = []
    of_clips = torch.zeros(clips, dtype=torch.int64, device=sims.device)
    rows = max(1, BLOCK // clips)
    for start in range(0, captions, rows):
        block = sims[start : start + rows]
        of_captions.append(_points(block, own[start : start + rows, None], dim=1))
        counted = block.masked_fill(~exists[start : start + rows, None], float("-inf"))
        of_clips += _points(counted, best, dim=0)
    # A caption that does not exist counts as -inf: level with no best score that is a number.
    any_exists = exists.view(clips, per_clip).any(dim=1)
    ranked = torch.where(any_exists, (of_clips - 1).double() / 2, float("inf"))
    return ((torch.cat(of_captions) - 1).double() / 2).cpu().numpy(), ranked.cpu().numpy()


def _points(block: torch.Tensor, mark: torch.Tensor, dim: int) -> torch.Tensor:
    """Add up 2 for each score above its mark and 1 for each level with it."""
    return (block > mark).sum(dim=dim) + (block >= mark).sum(dim=dim)
