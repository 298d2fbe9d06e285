"""NetVLAD pooling: a sequence of tokens becomes one vector (Arandjelovic et al., CVPR 2016)."""

import torch
import torch.nn.functional as F
from torch import nn

from model.batch_norm import BatchNorm
from model.kernels.linear import linear
from model.kernels.residuals import unit_residuals


class NetVLAD(nn.Module):
    """Pool tokens by their residuals to learned clusters, ghost clusters taking what fits nowhere.

    Shapes: (B, N, D) tokens -> (B, D*C), of unit length, laid out as d*C + c.
    Padding tokens (zeros) count like real ones, as in the published models, so the number of
    tokens is part of the model; pass `mask` to leave them out.
    """

    def __init__(
        self,
        feature_size: int,
        cluster_size: int,
        ghost_clusters: int = 0,
        add_batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.cluster_size = cluster_size
        spread = feature_size**-0.5
        columns = cluster_size + ghost_clusters
        self.clusters = nn.Parameter(spread * torch.randn(feature_size, columns))
        self.clusters2 = nn.Parameter(spread * torch.randn(1, feature_size, cluster_size))
        self.batch_norm = BatchNorm(columns) if add_batch_norm else nn.Identity()

    @property
    def out_dim(self) -> int:
        """Width of the pooled vector, D*C."""
        return self.clusters2[0].numel()

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the pooled vectors; `mask` (B, N) holds 1 for tokens that count, 0 for others."""
        batch, count, width = tokens.shape
        scores = linear(tokens.reshape(-1, width), self.clusters.t())  # (B*N, C+G)
        shares = F.softmax(self.batch_norm(scores), dim=1)[:, : self.cluster_size]
        shares = shares.reshape(batch, count, self.cluster_size)  # (B, N, C), ghosts dropped
        if mask is not None:
            shares = shares * mask.to(shares.dtype)[..., None]
        return unit_residuals(tokens, shares, self.clusters2).flatten(1)
