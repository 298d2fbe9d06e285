"""One training step's mathematics: a batch in, its ranking loss out."""

from typing import Literal

import torch
from torch import nn

from model import RetrievalModel, Rows
from model.loss import build_loss
from trainer.distributed import ALONE, Processes, gather_rows, share_training, tell_sizes
from utils.batches import Available, Experts
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
        experts: Experts,
        available: Available,
    ) -> torch.Tensor:
        """Return the loss of the batch."""
        with torch.autocast(text.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            captions = self.model.encode_captions(text)
            clips = self.model.encode_clips(experts, available)
        per_text = text.shape[1]
        sizes = tell_sizes(len(text), text.device)
        captions = gather_rows(_exact(captions), [per_text * size for size in sizes])
        clips = gather_rows(_exact(clips), sizes)
        sims = self.model.score(captions, clips)
        return self.loss(self.model.merge_captions(sims, per_text))


def _exact(rows: Rows) -> Rows:
    """Return rows in float32, also those encoded in bfloat16."""
    return tuple(one.float() for one in rows)


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
