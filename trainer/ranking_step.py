"""One training step's mathematics: a batch in, its ranking loss out."""

import inspect
import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from model import RetrievalModel, Rows
from trainer.distributed import ALONE, Processes, gather_rows, gather_sizes, share_training
from trainer.teachers import load_teachers
from utils.batches import Available, Experts
from utils.config import Config
from utils.errors import UsageError

logger = logging.getLogger(__name__)

FINGERS = 8
ROUNDING = 1e-5
"""Share of the greatest fingerprint by which those of equal captions may differ."""

Precision = Literal["fp32", "tf32", "bf16"]


class RankingStep(nn.Module):
    """Embed a batch and compare all its captions with all its clips.

    With several processes each embeds its share of the batch, which may be empty, and all compare
    the whole one.
    `bf16` embeds in bfloat16 and compares in float32. Input as RetrievalModel.forward, and the
    numbers of the clips (B,) for a loss whose forward has an argument `ids`; one with an argument
    `same` (B, B) receives which captions are equal or of the same clip, one with an argument
    `estimated` (B, B) the mean similarity of the teachers. Output the loss, a scalar.
    """

    def __init__(
        self,
        model: RetrievalModel,
        loss: nn.Module,
        *,
        precision: Precision = "fp32",
        teachers: Sequence[RetrievalModel] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.teachers = tuple(teachers)
        """Models in evaluation mode, which are no part of this module."""
        self.taken = frozenset(inspect.signature(loss.forward).parameters)
        self.precision = precision

    def forward(
        self,
        text: torch.Tensor,
        experts: Experts,
        available: Available,
        clips: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the loss of the batch."""
        captions, embedded = self.embed(text, experts, available)
        return self.compare(captions, embedded, text, experts, available, clips)

    def embed(
        self, text: torch.Tensor, experts: Experts, available: Available
    ) -> tuple[Rows, Rows]:
        """Return the rows of captions and of clips, in float32."""
        with torch.autocast(text.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            captions = self.model.encode_captions(text)
            embedded = self.model.encode_clips(experts, available)
        return tuple(one.float() for one in captions), tuple(one.float() for one in embedded)

    def compare(
        self,
        captions: Rows,
        embedded: Rows,
        text: torch.Tensor,
        experts: Experts,
        available: Available,
        clips: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the loss of the rows of a batch."""
        sizes = gather_sizes(len(text), text.device)
        sims = _scored(self.model, captions, embedded, text.shape[1], sizes)
        beside: dict[str, torch.Tensor] = {}
        if "same" in self.taken:
            beside["same"] = self._same(text, clips, sizes)
        if "estimated" in self.taken:
            beside["estimated"] = self._estimated(text, experts, available, sizes)
        if "ids" in self.taken:
            if clips is None:
                raise TypeError(f"{type(self.loss).__name__} takes ids, which the batches lack")
            beside["ids"] = gather_rows((clips,), sizes)[0]
        loss: torch.Tensor = self.loss(sims, **beside)
        return loss

    @torch.no_grad()
    def _estimated(
        self, text: torch.Tensor, experts: Experts, available: Available, sizes: Sequence[int]
    ) -> torch.Tensor:
        """Return the mean similarity (B, B) of the teachers."""
        each = []
        for teacher in self.teachers:
            rows = teacher.encode_captions(text), teacher.encode_clips(experts, available)
            each.append(_scored(teacher, *rows, text.shape[1], sizes))
        return torch.stack(each).mean(dim=0)

    @staticmethod
    def _same(text: torch.Tensor, clips: torch.Tensor | None, sizes: Sequence[int]) -> torch.Tensor:
        """Return which pairs (B, B) of captions are equal, or of the same clip."""
        prints = gather_rows((_fingerprints(text.flatten(1).float()),), sizes)[0]
        apart = (prints[:, None] - prints).abs().amax(dim=2)
        same = apart <= ROUNDING * prints.abs().amax()
        if clips is None:
            return same
        numbers = gather_rows((clips,), sizes)[0]
        return same | (numbers[:, None] == numbers)


def _scored(
    model: RetrievalModel, captions: Rows, clips: Rows, per_text: int, sizes: Sequence[int]
) -> torch.Tensor:
    """Return the similarities (B, B) of the rows of all processes."""
    captions = gather_rows(captions, [per_text * size for size in sizes])
    return model.merge_captions(model.score(captions, gather_rows(clips, sizes)), per_text)


def _fingerprints(captions: torch.Tensor) -> torch.Tensor:
    """Return a few sums of captions (B, X), by which equal ones are known: (B, FINGERS).

    Sorting them would tell too, but has no fixed shape to record as a CUDA graph.
    """
    places = torch.arange(captions.shape[1], device=captions.device, dtype=torch.float32)
    turns = torch.arange(1, FINGERS + 1, device=captions.device) ** 0.5
    return captions @ torch.sin((places[:, None] + 1) * turns)


class CompiledStep(nn.Module):
    """A step whose batches of `rows` clips are computed by what torch.compile makes of it.

    Others, such as a short last one, are computed as they are: compiling another shape takes
    longer than they do. Which code computes a batch depends on its size alone, so that a continued
    training repeats an uninterrupted one. Where compiling fails, a warning says so, and all batches
    are computed as they are.
    """

    def __init__(self, step: nn.Module, rows: int) -> None:
        super().__init__()
        self.step = step
        self.rows = rows
        self.works = True
        self._fast = torch.compile(step, dynamic=False)

    def forward(self, text: torch.Tensor, *others: Any) -> torch.Tensor:  # noqa: ANN401
        """Return the loss of the batch."""
        if self.works and len(text) == self.rows:
            try:
                loss: torch.Tensor = self._fast(text, *others)
            except RuntimeError as error:
                self._give_up(error)
            else:
                return loss
        return self.step(text, *others)

    def _give_up(self, error: RuntimeError) -> None:
        """Go on without the compiler if it is what failed: nothing has been computed yet."""
        from torch._dynamo.exc import TorchDynamoException  # a second that others need not wait

        if not isinstance(error, TorchDynamoException):
            raise error
        self.works = False
        logger.warning(
            "the training step cannot be compiled and is computed as it is (trainer.compile: false "
            "avoids the attempt): %s",
            str(error).strip().partition("\n")[0],
        )


def build_step(
    config: Config, model: RetrievalModel, loss: nn.Module, processes: Processes = ALONE
) -> nn.Module:
    """Return the configured step of a model and a loss: shared or compiled.

    Both are on their device already. Raises UsageError where several processes are to embed a
    batch part by part.
    """
    if config.trainer.embed_at_once is not None and not processes.is_alone:
        raise UsageError(
            f"trainer.embed_at_once is {config.trainer.embed_at_once}, expected null with "
            f"{processes.world_size} processes, each of which embeds its share of a batch alone"
        )
    places = getattr(loss, "teachers", ())
    teachers = load_teachers(places, config, next(model.parameters()).device)
    step = share_training(
        RankingStep(model, loss, precision=config.trainer.precision, teachers=teachers),
        processes,
        unused_parameters=model.has_unused_parameters,
    )
    if config.trainer.compile:
        whole = processes.share(config.data.batch_size)
        step = CompiledStep(step, whole.stop - whole.start)
    return step
