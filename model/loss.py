"""Losses over a square matrix of similarities whose diagonal holds the matching pairs."""

from typing import Annotated

import torch
from torch import nn

from utils.declared import Part
from utils.kinds import above


class MaxMarginRankingLoss(nn.Module):
    """Bidirectional max-margin ranking loss (Socher et al., 2014; the paper's equation 1).

    The mean of relu(margin + x_ij - x_ii) and relu(margin + x_ji - x_ii); with `fix_norm` over
    the 2B(B-1) pairs with i != j, without it over all 2B^2.
    """

    def __init__(
        self,
        margin: Annotated[float, above(0), "margin of the ranking"] = 0.2,
        fix_norm: Annotated[bool, "average over the pairs that do not match only"] = True,
    ) -> None:
        super().__init__()
        self.margin = margin
        self.fix_norm = fix_norm

    def forward(self, sims: torch.Tensor) -> torch.Tensor:
        """Return the loss of sims (B, B), a scalar; needs B >= 2 with `fix_norm`."""
        count = len(sims)
        matching = sims.diagonal()
        over_rows = torch.relu(self.margin + (sims - matching[:, None]))
        over_columns = torch.relu(self.margin + (sims - matching[None, :]))
        costs = over_rows + over_columns
        if not self.fix_norm:
            return costs.mean() / 2
        others = 1.0 - torch.eye(count, dtype=sims.dtype, device=sims.device)
        return (costs * others).sum() / (2 * count * (count - 1))


class InfoNCE(nn.Module):
    """Symmetric cross-entropy of the matching pairs (van den Oord et al., 2018; CLIP).

    The mean over rows and columns of -log softmax(x / temperature) at the diagonal: the hardest
    pairs weigh most, where the ranking loss weighs all that break the margin alike.
    """

    def __init__(
        self, temperature: Annotated[float, above(0), "of the softmax over a batch"] = 0.07
    ) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, sims: torch.Tensor) -> torch.Tensor:
        """Return the loss of sims (B, B), a scalar."""
        scaled = sims / self.temperature
        by_caption = scaled.diagonal() - scaled.logsumexp(dim=1)
        by_clip = scaled.diagonal() - scaled.logsumexp(dim=0)
        return -(by_caption + by_clip).mean() / 2


LOSSES: dict[str, type[nn.Module]] = {
    "MaxMarginRankingLoss": MaxMarginRankingLoss,
    "InfoNCE": InfoNCE,
}


def build_loss(config: Part) -> nn.Module:
    """Return the configured loss; a loss of your own is a class and a line in LOSSES."""
    return LOSSES[config.type](**config.args)
