"""Losses over a square matrix of similarities whose diagonal holds the matching pairs.

A loss whose `forward` takes `same` (B, B) of bool learns which pairs match besides: caption i
describes clip j as well, because the captions are equal or the clip is the same one. The trainer
finds them (trainer/ranking_step.py). One that takes `estimated` (B, B) learns from trained models,
its `teachers`. Parameters of a loss are trained with those of the model.
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from utils.declared import Part
from utils.kinds import Range, above

MOST_LOG_SCALE = math.log(100.0)
"""As in CLIP: similarities are multiplied by 100 at most."""


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


class SeveralPositivesLoss(nn.Module):
    """The max-margin ranking loss in which captions may match several clips.

    Pairs that match count among the negatives of none (Faghri et al., 2018, name the problem;
    Chun et al., 2021, its size), and every matching pair is ranked before the others.
    """

    def __init__(self, margin: Annotated[float, above(0), "margin of the ranking"] = 0.2) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, sims: torch.Tensor, same: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean cost of a matching pair and a pair that shares its row or column."""
        positive = _matching(sims, same)
        worst = sims.masked_fill(~positive, torch.inf)
        over_rows = torch.relu(self.margin + sims - worst.amin(dim=1, keepdim=True))
        over_columns = torch.relu(self.margin + sims - worst.amin(dim=0, keepdim=True))
        negatives = ~positive
        return ((over_rows + over_columns) * negatives).sum() / (2 * negatives.sum()).clamp(min=1)


class InfoNCE(nn.Module):
    """Cross-entropy of each caption over all clips and of each clip over all captions.

    van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018; the
    learned temperature is that of CLIP (Radford et al., 2021). Pairs that match share the target
    (Khosla et al., 2020); label smoothing gives a share of it to all (Szegedy et al., 2016).
    """

    def __init__(
        self,
        temperature: Annotated[float, above(0), "what similarities are divided by at first"] = 0.07,
        learned: Annotated[bool, "the temperature is trained too"] = False,
        label_smoothing: Annotated[
            float, Range(0, 1, open_high=True), "share of the target that goes to all pairs"
        ] = 0.0,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learned else None
        self.label_smoothing = label_smoothing

    def forward(self, sims: torch.Tensor, same: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss of sims (B, B), a scalar."""
        return self.towards(sims, *_shares(sims, same))

    def towards(
        self, sims: torch.Tensor, of_captions: torch.Tensor, of_clips: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean cross-entropy to targets (B, B), a row for each caption and clip."""
        if self.log_scale is None:
            logits = sims / self.temperature
        else:
            logits = sims * self.log_scale.clamp(max=MOST_LOG_SCALE).exp()
        losses = [
            F.cross_entropy(one, target, label_smoothing=self.label_smoothing)
            for one, target in ((logits, of_captions), (logits.T, of_clips))
        ]
        return (losses[0] + losses[1]) / 2


class CorrespondenceDistillation(nn.Module):
    """InfoNCE whose targets are the correspondences that trained models estimate.

    Primus et al., "Estimated Audio-Caption Correspondences Improve Language-Based Audio Retrieval",
    2024. The target of a caption is the softmax over the clips of the batch of the teachers' mean
    similarity, that of a clip the one over captions; the pairs that match keep a share of each.
    """

    def __init__(
        self,
        teachers: Annotated[
            tuple[str, ...], "checkpoints, or folders of runs or seeds with trained_model.pth"
        ],
        teacher_temperature: Annotated[
            float, above(0), "what the teachers' similarities are divided by"
        ] = 0.07,
        matching: Annotated[float, Range(0, 1), "share of the pairs that match"] = 0.0,
        temperature: Annotated[float, above(0), "what similarities are divided by at first"] = 0.07,
        learned: Annotated[bool, "the temperature is trained too"] = False,
    ) -> None:
        super().__init__()
        self.contrast = InfoNCE(temperature, learned)
        self.teachers = teachers
        self.teacher_temperature = teacher_temperature
        self.matching = matching

    def forward(
        self, sims: torch.Tensor, estimated: torch.Tensor, same: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of sims (B, B) and the teachers' similarities (B, B), a scalar."""
        soft = estimated / self.teacher_temperature
        known = _shares(sims, same)
        targets = [
            self.matching * known[side] + (1 - self.matching) * one.softmax(dim=1)
            for side, one in enumerate((soft, soft.T))
        ]
        return self.contrast.towards(sims, *targets)


class SigmoidLoss(nn.Module):
    """Every pair by itself: does it match or not (Zhai et al., "Sigmoid Loss", 2023).

    The sum over pairs of -log sigmoid(+-(scale * sim + bias)), divided by B; scale and bias are
    trained.
    """

    def __init__(
        self,
        temperature: Annotated[float, above(0), "what similarities are divided by at first"] = 0.1,
        bias: Annotated[float, Range(-math.inf), "of a pair at first"] = -10.0,
    ) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, sims: torch.Tensor, same: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss of sims (B, B), a scalar."""
        logits = sims * self.log_scale.clamp(max=MOST_LOG_SCALE).exp() + self.bias
        signs = 2.0 * _matching(sims, same).to(sims.dtype) - 1.0
        return -F.logsigmoid(signs * logits).sum() / len(sims)


def _matching(sims: torch.Tensor, same: torch.Tensor | None) -> torch.Tensor:
    """Return which pairs match (B, B): the diagonal, and `same`."""
    diagonal = torch.eye(len(sims), dtype=torch.bool, device=sims.device)
    return diagonal if same is None else diagonal | same


def _shares(sims: torch.Tensor, same: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return targets (B, B) that pairs which match share equally: of captions, and of clips."""
    matching = _matching(sims, same).to(sims.dtype)
    return matching / matching.sum(1, True), matching.T / matching.T.sum(1, True)


LOSSES: dict[str, type[nn.Module]] = {
    "MaxMarginRankingLoss": MaxMarginRankingLoss,
    "SeveralPositivesLoss": SeveralPositivesLoss,
    "InfoNCE": InfoNCE,
    "SigmoidLoss": SigmoidLoss,
    "CorrespondenceDistillation": CorrespondenceDistillation,
}


def build_loss(config: Part) -> nn.Module:
    """Return the configured loss; a loss of your own is a class and a line in LOSSES."""
    return LOSSES[config.type](**config.args)
