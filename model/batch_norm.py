"""Batch normalisation as published: each group of rows by statistics of its own."""

import torch
import torch.nn.functional as F
from torch import nn

from model.kernels.shared_statistics import normalise_across_processes


class BatchNorm(nn.BatchNorm1d):
    """Normalise (B, C) rows, or (B, P, C) where each of the P groups is a call of its own.

    The published pair network calls its batch norm once per pair of experts: every pair is
    normalised by its own B rows and moves the running statistics once, in order. Groups do the
    same in one pass: P updates with momentum m leave
    (1-m)^P running + sum_p m (1-m)^(P-1-p) statistic_p.

    With `shared` set, statistics are taken over the rows of all processes that train together;
    this one may then hold no row at all.
    """

    shared = False

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows of the same shape, normalised, scaled and shifted."""
        if self.training and self.shared:
            grouped = rows if rows.dim() == 3 else rows[:, None]
            normalised, *statistics = normalise_across_processes(
                grouped, self.weight, self.bias, self.eps
            )
            self._follow(*statistics)
            return normalised.view(rows.shape)
        if not self.training or rows.dim() == 2:
            flat = rows.reshape(-1, self.num_features)
            return super().forward(flat).reshape(rows.shape)
        batch, groups, channels = rows.shape
        mean = self.weight.new_zeros(groups * channels)
        variance = self.weight.new_zeros(groups * channels)
        normalised = F.batch_norm(
            rows.reshape(batch, groups * channels),
            mean,
            variance,
            self.weight.repeat(groups),
            self.bias.repeat(groups),
            training=True,
            momentum=1.0,  # so that mean and variance leave as this batch's own
            eps=self.eps,
        )
        self._follow(mean.view(groups, channels), variance.view(groups, channels))
        return normalised.view(batch, groups, channels)

    @torch.no_grad()
    def _follow(self, means: torch.Tensor, variances: torch.Tensor) -> None:
        """Move the running statistics by P groups in order; means, variances (P, C)."""
        groups, momentum = len(means), self.momentum or 0.0
        keep = 1.0 - momentum
        weights = momentum * keep ** torch.arange(groups - 1, -1, -1, device=means.device)
        with torch.autocast(means.device.type, enabled=False):  # it would round the statistics
            for running, statistics in ((self.running_mean, means), (self.running_var, variances)):
                if running is not None:
                    running.mul_(keep**groups).add_(weights.to(running.dtype) @ statistics)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(groups)
