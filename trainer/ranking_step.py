"""One training step's mathematics: a batch in, its ranking loss out."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from model.build import RetrievalModel
from model.loss import build_loss
from trainer.distributed import ALONE, Processes, gather_rows, share_training, tell_sizes
from utils.config import Config

Precision = Literal["fp32", "tf32", "bf16"]


class RankingStep(nn.Module):
    """Embed a batch and compare all its captions with all its clips.

    With several processes each embeds its share of the batch, which may be empty, and all compare
    the whole one.
    `bf16` embeds in bfloat16 and compares in float32. Input as RetrievalModel.forward; output
    the loss, a scalar.
    """

    def __init__(
        self, model: RetrievalModel, loss: nn.Module, *, precision: Precision = "fp32"
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.precision = precision

    def forward(
        self,
        text: torch.Tensor,
        experts: Mapping[str, torch.Tensor],
        available: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Return the loss of the batch."""
        present = self.model.availability(available)
        with torch.autocast(text.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            texts, weights = self.model.encode_text(text)
            clips = self.model.encode_clips(experts, present)
        captions = text.shape[1]
        sizes = tell_sizes(len(text), text.device)
        *texts, weights = gather_rows(
            [one.float() for one in [*texts, weights]], [captions * size for size in sizes]
        )
        *clips, present = gather_rows([one.float() for one in [*clips, present]], sizes)
        sims = self.model.compare(texts, clips, weights, present)
        if captions > 1:
            sims = sims.view(-1, captions, sims.shape[1]).mean(dim=1)
        return self.loss(sims)


def build_step(config: Config, model: RetrievalModel, processes: Processes = ALONE) -> nn.Module:
    """Return the configured step of a model that is on its device: shared, compiled or replayed."""
    step = share_training(
        RankingStep(model, build_loss(config.loss), precision=config.trainer.precision),
        processes,
        unused_parameters=config.arch.keep_missing_modalities,  # the mixture's weights
    )
    if config.trainer.compile or config.trainer.cuda_graphs:
        step.compile(mode="reduce-overhead" if config.trainer.cuda_graphs else "default")
    return step
