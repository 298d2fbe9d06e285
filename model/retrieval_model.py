"""The interface of every model, and the letters that name dimensions in this package.

B clips                     C clusters of a NetVLAD, G its ghost clusters
T texts                     S width of the shared space of Collaborative Experts
K captions of a text        d width of an embedding
Q captions, T*K             P pairs of an expert with its partners
M experts                   N tokens (words or frames)
D width of a feature        W word pieces of a caption
"""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from utils.batches import Available, BatchNeeds, Experts, Features, Frames
from utils.errors import CheckpointError
from utils.shown import printable

logger = logging.getLogger(__name__)

Rows = tuple[torch.Tensor, ...]
"""Encoded captions or clips: the first dimension of every tensor counts them."""

Reader = Callable[[int], Iterable[tuple[Any, ...]]]
"""Pass (1, 2, ...) -> batches of every training clip, each with one of its captions, drawn anew.

A batch is text, experts, available, and the numbers of its clips.
"""

SHOWN = 6  # keys named in a message
LONGEST_KEY = 100


class RetrievalModel(nn.Module, ABC):
    """Encode captions, encode clips, score every caption with every clip.

    Training, evaluation, gathering over processes and search use these three methods alone: Rows
    can be cut, joined and stored without knowing their contents, and rows of clips carry their
    availability. A subclass names the form of its batches in `needs`, and the names of its
    parameters in released checkpoints in `published`.
    """

    needs: ClassVar[BatchNeeds] = BatchNeeds()
    """The form in which `text` and `experts` come."""
    published: ClassVar[dict[str, str]] = {}
    """Beginnings of our names -> of the published ones; `*` is one part. Others are the same."""
    obsolete: ClassVar[tuple[str, ...]] = ()
    """Beginnings of published names that released files hold without use."""

    average_captions: bool = False
    """In evaluation too, several captions of a text make one query (`test_caption_mode: avg`)."""
    has_unused_parameters: bool = False
    """Some parameters take no part in the loss, which training over several processes must know."""

    @abstractmethod
    def encode_captions(self, text: torch.Tensor) -> Rows:
        """Encode words (T, K, N, D), or word pieces and their mask (T, K, W, 2) -> T*K rows."""

    @abstractmethod
    def encode_clips(self, experts: Experts, available: Available) -> Rows:
        """Encode clips: experts {name: (B, N, D) or (B, D)}, available {name: (B,)} or (B, M).

        Features whose availability is 0 are ignored, whatever they hold. Returns B rows.
        """

    @abstractmethod
    def score(self, captions: Rows, clips: Rows) -> torch.Tensor:
        """Return the similarities (Q, B) of encoded captions and clips."""

    def expert_weights(self, captions: Rows) -> dict[str, torch.Tensor]:
        """Return the weight (Q,) that encoded captions give to each expert, by name, if any."""
        return {}

    def forward(self, text: torch.Tensor, experts: Experts, available: Available) -> torch.Tensor:
        """Return the similarities of captions and clips.

        Shapes as in the three methods -> (T*K, B); (T, B), averaged over captions, in training
        and with `average_captions`.
        """
        captions = self.encode_captions(text)
        sims = self.score(captions, self.encode_clips(experts, available))
        return self.merge_captions(sims, text.shape[1])

    def merge_captions(self, sims: torch.Tensor, captions: int) -> torch.Tensor:
        """Average similarities (T*K, B) over the K captions of a text, where this is to be done."""
        if captions > 1 and (self.training or self.average_captions):
            return sims.view(-1, captions, sims.shape[1]).mean(dim=1)
        return sims

    # Names of released checkpoints

    def published_name(self, name: str) -> str:
        """Return the published name of one of this model's parameters or buffers."""
        for ours, theirs in self.published.items():
            found = re.match(re.escape(ours).replace(r"\*", r"([^.]+)"), name)
            if found:
                part = found.group(1) if found.groups() else ""
                return theirs.replace("*", part) + name[found.end() :]
        return name

    def published_state_dict(self) -> dict[str, torch.Tensor]:
        """Return weights and buffers under their published names."""
        return {self.published_name(name): value for name, value in self.state_dict().items()}

    def load_published(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load weights under their published names, strictly.

        Obsolete keys are dropped with a warning. Raises CheckpointError naming the keys when any
        other is missing, unknown or of another shape.
        """
        dropped = [key for key in state if self.obsolete and key.startswith(self.obsolete)]
        if dropped:
            named = [printable(key, LONGEST_KEY) for key in dropped[:SHOWN]]
            logger.warning("ignored %d unused keys of an older release: %s", len(dropped), named)
        own = self.published_state_dict()
        given = {key: value for key, value in state.items() if key not in dropped}
        common = [(key, value, own[key]) for key, value in given.items() if key in own]
        _refuse(
            {
                "missing": [key for key in own if key not in given],
                "unknown": [key for key in given if key not in own],
                "of another shape": [
                    f"{key} {tuple(value.shape)}, expected {tuple(ours.shape)}"
                    for key, value, ours in common
                    if value.shape != ours.shape
                ],
                "of whole numbers": [
                    f"{key} ({value.dtype})"
                    for key, value, ours in common
                    if ours.is_floating_point() and not value.is_floating_point()
                ],
            }
        )
        self.load_state_dict({name: given[self.published_name(name)] for name in self.state_dict()})


class PreparedModel(RetrievalModel):
    """A model of which a part, or all, is computed from the training clips without gradient."""

    @abstractmethod
    def prepare(self, read: Reader, epoch: int) -> torch.Tensor | None:
        """Compute what this epoch (1, 2, ...) begins with.

        Returns the loss of the epoch where this was all of it: no step follows. None: steps do.
        """


def tokens_of(features: Features) -> torch.Tensor:
    """Return the tokens (B, N, D) or the average (B, D) of an expert, without times."""
    return features.tokens if isinstance(features, Frames) else features


def stacked(available: Available, names: Sequence[str]) -> torch.Tensor:
    """Return availabilities (B, M) in the order of names, which a tensor has already."""
    if isinstance(available, torch.Tensor):
        return available
    return torch.stack([available[name] for name in names], dim=1)


def _refuse(problems: Mapping[str, list[str]]) -> None:
    """Raise CheckpointError when there are keys of any kind of problem, naming some of each."""
    if not any(problems.values()):
        return
    lines = ["the weights belong to another architecture than the configuration:"]
    for problem, keys in problems.items():
        if keys:
            shortened = [printable(key, LONGEST_KEY) for key in keys[:SHOWN]]
            more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
            lines.append(f"  {len(keys)} {problem}: {', '.join(shortened)}{more}")
    lines.append("use the config.json beside the checkpoint")
    raise CheckpointError("\n".join(lines))
