"""Hubs: captions that are near many clips, and so are found for clips that they do not fit.

Radovanovic, Nanopoulos and Ivanovic, "Hubs in Space", 2010. Letters as in retrieval_model.py.
"""

import torch
import torch.nn.functional as F
from torch import nn

NEIGHBOURS = 10
"""As in the paper of CSLS."""


class Hubs(nn.Module):
    """How near captions are to training clips: the mean cosine with their nearest ten (Q,).

    Taken from all scores of a caption, a share of it makes captions comparable for one clip, as in
    CSLS (Conneau et al., "Word Translation Without Parallel Data", 2018) and querybank
    normalisation (Bogolin et al., 2022). The order of clips for one caption stays the same.
    """

    bank: torch.Tensor

    def __init__(self, clips: int, width: int) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(clips, width))  # rows of zeros are unused

    def forward(self, captions: torch.Tensor) -> torch.Tensor:
        """Return the nearness of captions of unit length: (Q, D) -> (Q,); 0 without a bank."""
        bank = self.bank[self.bank.any(dim=1)]
        if not len(bank):
            return captions.new_zeros(len(captions))
        return (captions @ bank.T).topk(min(NEIGHBOURS, len(bank)), dim=1).values.mean(dim=1)

    def fit(self, clips: torch.Tensor) -> None:
        """Keep training clips in the space of captions: (n, D), at most as many as fit."""
        kept = clips[: len(self.bank)]
        self.bank.zero_()
        self.bank[: len(kept)] = F.normalize(kept, dim=1)
