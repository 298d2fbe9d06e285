"""Batches as gathers: what comes when in an epoch, and the rows of a batch taken all at once.

E clips in an epoch, B in a batch, N tokens, W words of a caption, R rows of a file of width D or T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from data_loader.packed_sources import PackedText, PackedVectors
from data_loader.split import SplitCaptions, SplitExpert
from utils.batches import Features
from utils.config import TextConfig

Batch = tuple[Tensor, Mapping[str, Features], dict[str, Tensor]]
"""text (B, 1, N, T), experts {name: (B, N, D) or (B, D)}, available {name: (B,) 0/1}; for a model
that reads frames text (B, 1, W, 2), experts {name: Frames}.

B is 0 where a short batch has fewer clips than there are processes to share it.
"""

TrainingBatch = tuple[Tensor, Mapping[str, Features], dict[str, Tensor], Tensor]
"""A batch, and the place (B,) of each of its clips in the split: which identifies it."""

HOST = torch.device("cpu")
T = TypeVar("T")


@dataclass(frozen=True)
class EpochPlan:
    """One epoch: which clip comes when, and which of its captions to choose from it brings."""

    order: np.ndarray
    """(E,) clips."""
    picks: np.ndarray
    """(E,) places among the choices of each clip."""
    batch_size: int
    drop_last: bool

    def __len__(self) -> int:
        return count_batches(len(self.order), self.batch_size, drop_last=self.drop_last)

    def share(self, batch: int, rank: int = 0, world_size: int = 1) -> slice:
        """Return the places of one process in a batch: contiguous, equal to within one.

        A share of a batch with fewer clips than processes may be empty.
        """
        first = batch * self.batch_size
        size = min(self.batch_size, len(self.order) - first)
        return slice(first + rank * size // world_size, first + (rank + 1) * size // world_size)


def plan_epoch(
    choices: np.ndarray, *, epoch: int, seed: int, batch_size: int, drop_last: bool
) -> EpochPlan:
    """Draw the order of the clips, and one of choices[v] (V,) captions for each."""
    draw = np.random.default_rng([seed, epoch])
    order = draw.permutation(len(choices))
    return EpochPlan(order, draw.integers(0, choices[order]), batch_size, drop_last)


def count_batches(clips: int, batch_size: int, *, drop_last: bool) -> int:
    """Return the batches of an epoch; the last one may be short, but never of one clip."""
    full, rest = divmod(clips, batch_size)
    if batch_size == 1:
        return 0
    return full + (rest >= 2 and not drop_last)


def keep_words(lengths: np.ndarray, probability: float, draw: np.random.Generator) -> np.ndarray:
    """Draw which words of captions of lengths (B,) stay: (B, W) bool, False beyond the end.

    With `probability` each word of a caption is kept with probability 1/2; where none survives,
    the word that came closest stays.
    """
    thinned = draw.random(len(lengths)) < probability
    luck = draw.random((len(lengths), lengths.max(initial=0)))
    exists = np.arange(luck.shape[1]) < lengths[:, None]
    luck[~exists] = -1
    keep = exists & ((luck > 0.5) | ~thinned[:, None])
    wordless = np.flatnonzero(~keep.any(axis=1))
    keep[wordless, luck[wordless].argmax(axis=1)] = True
    return keep


def one_ahead(make: Callable[[int], T], numbers: Iterable[int]) -> Iterator[T]:
    """Yield make(n) for each number; a thread makes the next one while this one is in use."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        coming = None
        for number in numbers:
            ready, coming = coming, pool.submit(make, number)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


@dataclass(frozen=True)
class Sequences:
    """Items that are runs of rows: item i is rows[starts[i] : starts[i] + lengths[i]].

    rows (R, D), of which the last is zeros, for padding; starts and lengths (n,) int64.
    """

    rows: Tensor
    starts: Tensor
    lengths: Tensor
    file: PackedVectors | None = None
    """Where the rows are mapped from, when they are."""

    def announce(self, items: Tensor, width: int) -> None:
        """Say that the first `width` places of items (B,) are taken next."""
        if self.file is not None:
            self.file.will_need(*self._bounds(items, width))

    def verify(self, items: Tensor, width: int) -> None:
        """Check the first `width` places of items (B,), where they were not yet in this run."""
        if self.file is not None:
            self.file.verify(*self._bounds(items, width))

    @classmethod
    def of_file(
        cls, file: PackedVectors, starts: np.ndarray, lengths: np.ndarray, device: torch.device
    ) -> Sequences:
        """Place the rows of a file, and where its items are, on a device."""
        return cls(
            file.tensor(device),
            torch.from_numpy(np.require(starts, requirements="W")).to(device),
            torch.from_numpy(np.require(lengths, requirements="W")).to(device),
            file if device.type == "cpu" else None,
        )

    @classmethod
    def of_expert(cls, expert: SplitExpert, device: torch.device) -> list[Sequences]:
        """Place the parts of an expert on a device."""
        parts = zip(expert.parts, expert.starts, expert.lengths, strict=True)
        return [cls.of_file(*part, device) for part in parts]

    def _bounds(self, items: Tensor, width: int) -> tuple[np.ndarray, np.ndarray]:
        starts = self.starts[items]
        return starts.numpy(), (starts + self.lengths[items].clamp(max=width)).numpy()

    @property
    def padding(self) -> int:
        """The row of zeros."""
        return len(self.rows) - 1

    def index(self, items: Tensor, width: int) -> Tensor:
        """Return the rows of the first `width` places of items (B,): (B, width), padded."""
        place = torch.arange(width, device=items.device)
        within = place < self.lengths[items, None]
        return torch.where(within, self.starts[items, None] + place, self.padding)

    def index_of_kept(self, items: Tensor, keep: Tensor, width: int) -> Tensor:
        """Return the rows of the first `width` places where keep (B, W): (B, width), padded."""
        order = torch.argsort(~keep, dim=1, stable=True)[:, :width]
        kept = torch.where(keep.gather(1, order), self.starts[items, None] + order, self.padding)
        missing = width - kept.shape[1]
        return torch.nn.functional.pad(kept, (0, missing), value=self.padding)

    def take(self, index: Tensor, *, pin: bool) -> Tensor:
        """Return the rows at `index` (...,): (..., D), in pinned memory when `pin`."""
        taken = self.rows.new_empty((index.numel(), self.rows.shape[1]), pin_memory=pin)
        flat = index.reshape(-1)
        if self.rows.device.type == "cpu":
            # A copy for each row. torch would wake all its threads for half a millisecond of work,
            # and wait for the slowest of them.
            np.take(self.rows.numpy(), flat.numpy(), axis=0, out=taken.numpy(), mode="clip")
        else:
            torch.index_select(self.rows, 0, flat, out=taken)
        return taken.view(*index.shape, self.rows.shape[1])


def bytes_to_move(files: Iterable[PackedVectors], device: torch.device) -> int:
    """Return the size of the rows that are not on the device yet; each file counts once."""
    different = {id(file): file for file in files}.values()
    return sum(file.rows.nbytes for file in different if not file.is_on(device))


class ClipTensors:
    """The captions and experts of a split on one device, from which batches are gathered."""

    def __init__(
        self,
        config: TextConfig,
        text: PackedText,
        captions: SplitCaptions,
        experts: list[SplitExpert],
        device: torch.device = HOST,
    ) -> None:
        """Place everything on `device`; rows that another split placed there are shared."""
        self._sources = (config, text, captions, experts)
        self.device = device
        self._max_tokens = config.max_tokens
        self._averaged = config.aggregate == "avg"
        self._captions = Sequences.of_file(text, captions.starts, captions.lengths, device)
        self._longest = int(captions.lengths.max())
        self._experts = {
            expert.config.name: Sequences.of_expert(expert, device) for expert in experts
        }
        self._tokens = {
            expert.config.name: expert.config.max_tokens if expert.config.tokens else None
            for expert in experts
        }
        self._available = {
            expert.config.name: torch.from_numpy(expert.available.astype(np.float32)).to(device)
            for expert in experts
        }

    def to(self, device: torch.device) -> ClipTensors:
        """Return the same on another device."""
        return ClipTensors(*self._sources, device)

    def bytes_to_move(self, device: torch.device) -> int:
        """Return what `to` would copy: files that are on the device already cost nothing."""
        _, text, _, experts = self._sources
        return bytes_to_move([text, *(part for one in experts for part in one.parts)], device)

    def words(self, captions: Tensor) -> Tensor:
        """Return the rows of the words of captions (B,): (B, W), cut and padded."""
        self._captions.announce(captions, self._word_places)
        self._captions.verify(captions, self._word_places)
        return self._captions.index(captions, self._word_places)

    def kept_words(self, captions: Tensor, keep: Tensor) -> Tensor:
        """Return the rows of those words of captions (B,) that stay: keep (B, any)."""
        self._captions.announce(captions, keep.shape[1])
        self._captions.verify(captions, keep.shape[1])
        return self._captions.index_of_kept(captions, keep, self._word_places)

    def no_words(self, count: int) -> Tensor:
        """Return the rows of captions that do not exist: (count, W)."""
        shape = (count, self._word_places)
        return torch.full(shape, self._captions.padding, device=self.device)

    def text(self, words: Tensor, *, pin: bool = False) -> Tensor:
        """Return captions (B, N, T) from the rows of their words (B, W)."""
        taken = self._captions.take(words, pin=pin and not self._averaged)
        if not self._averaged:
            return taken
        count = (words != self._captions.padding).sum(dim=1, keepdim=True).clamp(min=1)
        text = taken.new_zeros((len(words), self._max_tokens, taken.shape[2]), dtype=torch.float32)
        text[:, 0] = taken.float().sum(dim=1) / count
        return text

    def experts(
        self, clips: Tensor, *, pin: bool = False, draw: object = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the experts and availabilities of clips (B,), always the first tokens of each."""
        for name, parts in self._experts.items():
            for part in parts:
                part.announce(clips, self._tokens[name] or 1)
        for name, parts in self._experts.items():
            for part in parts:
                part.verify(clips, self._tokens[name] or 1)
        taken = {}
        for name, parts in self._experts.items():
            places = self._tokens[name]
            pieces = [part.take(part.index(clips, places or 1), pin=pin) for part in parts]
            joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)  # (B, N, D)
            taken[name] = joined if places else joined[:, 0]
        return taken, {name: table[clips] for name, table in self._available.items()}

    @property
    def _word_places(self) -> int:
        """W: an average is over all words of a caption, a sequence is cut to N."""
        return self._longest if self._averaged else self._max_tokens
