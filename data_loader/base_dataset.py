"""BaseDataset: one split of a data set as tensors ready for the model.

V clips in the split, B clips in a batch, K captions per clip, N tokens, D or T features.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_loader.augmentation import augmentation_of
from data_loader.batches import (
    HOST,
    Batch,
    ClipTensors,
    EpochPlan,
    TrainingBatch,
    count_batches,
    keep_words,
    one_ahead,
    plan_epoch,
)
from data_loader.frames import Draw, FrameTensors
from data_loader.layout import Layout, Sources
from data_loader.mixing import draw_partners, mix
from data_loader.packed_sources import Packed, PackedFeatures
from data_loader.split import (
    SplitList,
    open_captions,
    open_expert,
    refuse_missing,
    restrict_choices,
)
from data_loader.store import FeatureStore
from text.token_ids import CaptionIds
from text.wordpiece import WordPieces
from utils.batches import EvaluationData, Features, Frames, PlannedBatch
from utils.config import Config
from utils.errors import DataError
from utils.extraction_record import read_record
from utils.files import sha256_of

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.6
"""`feature_device: auto` moves features that take at most this part of the device's free memory."""

MISSING_CAPTION = ["0"]
"""The words of a caption that does not exist, as published; nothing reads them."""
FRAMES, AUGMENTED, MIXED = 1, 2, 3
"""Apart from the draws of words and from one another, so that none depends on the others."""


class BaseDataset(Layout):
    """One split: its clips in the order of the list, their captions and their experts."""

    def __init__(self, config: Config, split: str) -> None:
        """Open the files of one split, packing them the first time, and check them.

        Raises DataError when a file is missing or does not hold what the split needs.
        """
        self.split = split
        self.settings = data = config.data
        self.root = data.root
        sources = self.sources(config, split)
        self._require(sources)
        self._list = SplitList(sources.split_list)
        packed_dir = None if data.packed_dir is None else Path(data.packed_dir)
        store = FeatureStore(self.root, packed_dir, config.dataset_folder, data.packed_dtype)
        text = None if sources.text is None else store.text(sources.text)
        self._packed_captions = store.captions(sources.captions)
        masks = None if sources.masks is None else store.masks(sources.masks)
        self._captions = open_captions(
            self._list, config.text, text, self._packed_captions, fused=data.fuse_captions
        )
        if self._training and not data.fuse_captions:
            self._captions = restrict_choices(
                self._list, self._captions, first_n=data.restrict_train_captions, masks=masks
            )
        experts = []
        for expert, files in zip(config.experts, sources.experts, strict=True):
            parts = tuple(store.features(file, expert.name) for file in files)
            experts.append(open_expert(self._list, expert, parts))
        refuse_missing(self._list, experts, training=self._training)
        self.text_file = sources.text
        """The features of its captions; None where they are encoded when they are read."""
        self.extractors = {one.config.name: read_record(one.parts[0].source) for one in experts}
        """Which extractor made the features of each expert; None where that is not recorded."""
        self.opened: list[Packed] = [
            *(one for one in (text, self._packed_captions, masks) if one is not None),
            *(part for expert in experts for part in expert.parts),
        ]
        """Every packed file that the split reads."""
        self.identity = self._identify()
        """sha256 of the split list, size and sha256 of every source: plain JSON types."""
        self._host: ClipTensors | FrameTensors
        if text is not None:
            self._host = ClipTensors(config.text, text, self._captions, experts)
        else:
            ids, self.identity["vocabulary"] = self._token_ids(config)
            self._host = FrameTensors(experts, ids, config.needs.pooling)
        self._tensors = self._host
        self._augmentation = (
            augmentation_of(experts, dropout=data.expert_dropout, noise=data.feature_noise)
            if self._training
            else None
        )
        self._averages_words = config.text.aggregate == "avg"
        self._device = HOST
        self._draw = np.random.default_rng(config.seed)
        self._said_left_out = False
        if self._training and not self.batches_per_epoch:
            raise DataError(
                f"{self._list.file}: {len(self)} clips in batches of {data.batch_size} make no "
                "batch of at least two clips"
            )

    def _token_ids(self, config: Config) -> tuple[Tensor, str]:
        """Return the ids of all captions that are chosen from, and the vocabulary's sha256."""
        if config.needs.vocabulary is None:
            raise ValueError("a model without word vectors needs a vocabulary")
        vocabulary = WordPieces.read(config.needs.vocabulary)
        encoder = CaptionIds(vocabulary, config.text.max_tokens)
        captions = [
            caption.split(" ")
            for texts in map(self._packed_captions.captions, self._caption_rows.values())
            for caption in ([" ".join(texts)] if self.settings.fuse_captions else texts)
        ]
        ids = encoder.encode([*captions, MISSING_CAPTION])
        return torch.from_numpy(ids).int(), vocabulary.sha256

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def clips(self) -> list[str]:
        """The clips, in the order of the split list."""
        return self._list.clips

    def captions(self, clip: str) -> list[str]:
        """Return all captions of a clip of this split, words joined by blanks."""
        return self._packed_captions.captions(self._caption_rows[clip])

    @functools.cached_property
    def _caption_rows(self) -> dict[str, int]:
        rows = self._packed_captions.find(self.clips).tolist()
        return dict(zip(self.clips, rows, strict=True))

    # Batches

    def to(self, device: torch.device | str) -> BaseDataset:
        """Deliver to a device from now on, and keep the features there when the config lets them.

        feature_device host: they stay in host memory; device: they move; auto: they move when they
        take at most MEMORY_SHARE of the device's free memory.
        """
        self._device = torch.device(device)
        self._tensors = self._host
        if self._device.type == "cpu" or self.settings.feature_device == "host":
            return self
        if self._device.type == "cuda" and self._device.index is None:
            self._device = torch.device("cuda", torch.cuda.current_device())
        needed = self._host.bytes_to_move(self._device)
        free = torch.cuda.mem_get_info(self._device)[0] if self._device.type == "cuda" else 0
        if self.settings.feature_device == "auto" and needed > MEMORY_SHARE * free:
            logger.info("features stay in host memory: they take %.1f GB", needed / 1e9)
            return self
        if needed > free:
            raise DataError(
                f"feature_device: the features take {needed / 1e9:.1f} GB, {self._device} has "
                f'{free / 1e9:.1f} GB free; set data_loader.args.feature_device to "host"'
            )
        self._tensors = self._host.to(self._device)
        return self

    @property
    def batches_per_epoch(self) -> int:
        """How many batches `epoch` yields from the first one on."""
        settings = self.settings
        return count_batches(len(self), settings.batch_size, drop_last=settings.drop_last)

    def batch(self, indices: Sequence[int], captions: Sequence[int] | None = None) -> Batch:
        """Return the clips at `indices` (B,), one caption each: text has K = 1.

        `captions` (B,) chooses the caption of each clip, taken whole; without it they are drawn,
        and words dropped, as in training; experts come as they are. With fused captions there is
        but one to take.
        """
        clips = np.asarray(indices, dtype=np.int64)
        if ((clips < 0) | (clips >= len(self))).any():
            raise IndexError(f"indices {clips.min()} to {clips.max()}, of {len(self)} clips")
        if captions is None or self.settings.fuse_captions:
            picks = self._draw.integers(0, self._captions.choices[clips])
            chosen = self._captions.chosen(clips, picks)
            keep = None
            if self._dropout:
                keep = keep_words(self._captions.lengths[chosen], self._dropout, self._draw)
            batch = self._gather(clips, chosen, keep, draw=lambda _: self._draw)
            return self._deliver(batch, self._device)
        wanted = np.asarray(captions, dtype=np.int64)
        beyond = (wanted < 0) | (wanted >= self._captions.counts[clips])
        if beyond.any():
            clip, caption = clips[beyond][0], wanted[beyond][0]
            raise IndexError(f"clip {self.clips[clip]!r} has no caption {caption}")
        chosen = self._captions.first[clips] + wanted
        return self._deliver(self._gather(clips, chosen), self._device)

    def epoch(
        self,
        epoch: int,
        seed: int,
        *,
        first_batch: int = 0,
        device: torch.device | str | None = None,
        share: tuple[int, int] = (0, 1),
        planned: bool = False,
    ) -> Iterator[TrainingBatch | PlannedBatch]:
        """Yield the batches of an epoch from `first_batch` on, each with its clips' places.

        Order, captions and what is drawn depend on (epoch, seed) and the place in the epoch alone.
        A process of rank r among n, share (r, n), gets its contiguous share of the same batches:
        shares of a short last batch differ by one clip at most, and may be empty. A last batch of
        one clip is left out. Batches are delivered to `device`, by default that of `to`. With
        `planned` they are left to be gathered there, if that device holds the features and nothing
        is drawn.
        """
        self._require_whole_files()
        plan = self._plan(epoch, seed)
        target = self._device if device is None else torch.device(device)
        source = self._tensors.device
        clips = torch.from_numpy(plan.order).to(source)
        captions = torch.from_numpy(self._captions.chosen(plan.order, plan.picks)).to(source)
        numbers = range(first_batch, len(plan))
        if planned and target == source and self._draws_nothing:
            for taken in (plan.share(number, *share) for number in numbers):
                yield PlannedBatch(self._gather_there, (clips[taken], captions[taken]))
            return

        def draw(*place: int) -> np.random.Generator:
            return np.random.default_rng([seed, epoch, *place])

        def gather(number: int) -> TrainingBatch:
            taken, whole = plan.share(number, *share), plan.share(number)
            keep = None
            if self._dropout:
                # Words are drawn for the whole batch, so that they do not depend on the shares.
                lengths = self._captions.lengths[captions[whole].cpu().numpy()]
                keep = keep_words(lengths, self._dropout, draw(number + 1))
                keep = keep[taken.start - whole.start : taken.stop - whole.start]
            batch = self._gather(
                clips[taken],
                captions[taken],
                keep,
                pin=target.type == "cuda",
                draw=lambda row: draw(taken.start + row, FRAMES),
            )
            places = range(taken.start, taken.stop)
            batch = self._mixed(batch, clips, captions, places, draw)
            return *self._augmented(batch, places, draw), clips[taken]

        # A thread pays where the host gathers for a GPU. Without one it would take its millisecond
        # from the cores that train.
        in_thread = source.type == "cpu" != target.type and self.settings.num_workers > 0
        batches = one_ahead(gather, numbers) if in_thread else map(gather, numbers)
        for text, experts, available, places in batches:
            batch = self._deliver((text, experts, available), target)
            yield *batch, places.to(target, non_blocking=True)

    def _mixed(
        self,
        batch: Batch,
        clips: Tensor,
        captions: Tensor,
        places: range,
        draw: Callable[..., np.random.Generator],
    ) -> Batch:
        """Mix some of the clips of a batch, at these places in the epoch, with others of it."""
        share = self.settings.mix_up
        if not share or not self._training:
            return batch
        rows, partners = draw_partners(places, len(clips), share, lambda at: draw(at, MIXED))
        if not rows:
            return batch
        others = self._gather(clips[partners], captions[partners])
        return mix(batch, rows, others, averaged=self._averages_words)

    def _augmented(
        self, batch: Batch, places: range, draw: Callable[..., np.random.Generator]
    ) -> Batch:
        if self._augmentation is None:
            return batch
        text, experts, available = batch
        of_rows = self._augmentation(experts, available, lambda row: draw(places[row], AUGMENTED))
        return text, *of_rows

    def _plan(self, epoch: int, seed: int) -> EpochPlan:
        plan = plan_epoch(
            self._captions.choices,
            epoch=epoch,
            seed=seed,
            batch_size=self.settings.batch_size,
            drop_last=self.settings.drop_last,
        )
        if (
            len(plan.order) % plan.batch_size == 1
            and not plan.drop_last
            and not self._said_left_out
        ):
            self._said_left_out = True
            logger.info("the last batch would be of one clip: it is left out of every epoch")
        return plan

    def evaluation(self) -> EvaluationData:
        """Return the whole split.

        K is num_test_captions (1 with fused captions), the first captions of each clip. Where a
        clip has fewer, its query mask is 0 and its text zeros.
        """
        self._require_whole_files()
        per_clip = 1 if self.settings.fuse_captions else self.settings.num_test_captions
        tensors = self._tensors
        place = np.arange(per_clip)
        exists = place < self._captions.counts[:, None]
        chosen = self._captions.first[:, None] + place
        words = tensors.no_words(exists.size)
        there = torch.from_numpy(np.flatnonzero(exists)).to(tensors.device)
        words[there] = tensors.words(torch.from_numpy(chosen[exists]).to(tensors.device))
        text = tensors.text(words)
        clips = torch.arange(len(self), device=tensors.device)
        text, experts, available = self._deliver((text, *tensors.experts(clips)), self._device)
        masks = torch.from_numpy(exists.astype(np.float32)).to(self._device)
        text = text.view(len(self), per_clip, *text.shape[1:])
        return EvaluationData(text, experts, available, masks, self.clips)

    def _require_whole_files(self) -> None:
        for packed in self.opened:
            packed.file.require_whole()

    @property
    def _training(self) -> bool:
        return self.split == "train"

    @property
    def _dropout(self) -> float:
        return self.settings.text_dropout if self._training else 0.0

    @property
    def _draws_nothing(self) -> bool:
        """Whether clips and captions alone decide on a batch."""
        drawn = self._dropout or self.settings.mix_up or self._augmentation is not None
        return not drawn and isinstance(self._tensors, ClipTensors)

    def _gather_there(self, clips: Tensor, captions: Tensor) -> TrainingBatch:
        """Take clips (B,) and captions (B,) where the features are."""
        return *self._deliver(self._gather(clips, captions), clips.device), clips

    def _gather(
        self,
        clips: np.ndarray | Tensor,
        captions: np.ndarray | Tensor,
        keep: np.ndarray | None = None,
        *,
        pin: bool = False,
        draw: Draw | None = None,
    ) -> Batch:
        """Take the rows of clips (B,) and captions (B,), of whose words `keep` (B, W) chooses.

        `draw` chooses the frames that are kept, where a model reads frames.
        """
        tensors = self._tensors
        clips = torch.as_tensor(clips, device=tensors.device)
        captions = torch.as_tensor(captions, device=tensors.device)
        pin = pin and tensors.device.type == "cpu"
        if keep is None or isinstance(tensors, FrameTensors):
            words = tensors.words(captions)
        else:
            words = tensors.kept_words(captions, torch.from_numpy(keep).to(tensors.device))
        experts, available = tensors.experts(clips, pin=pin, draw=draw)
        return tensors.text(words, pin=pin)[:, None], experts, available

    def _deliver(self, batch: Batch, device: torch.device) -> Batch:
        """Return a batch on its device in float32; pinned memory is copied without waiting."""

        def deliver(tensor: Tensor) -> Tensor:
            there = tensor.to(device, non_blocking=device.type == "cuda")
            return there.float() if there.is_floating_point() else there

        def deliver_expert(features: Features) -> Features:
            if isinstance(features, Tensor):
                return deliver(features)
            return Frames(*map(deliver, features))

        text, experts, available = batch
        return (
            deliver(text),
            {name: deliver_expert(expert) for name, expert in experts.items()},
            {name: deliver(mask) for name, mask in available.items()},
        )

    def _require(self, sources: Sources) -> None:
        missing = sources.missing()
        for file in missing:
            if os.path.lexists(file):
                found = "a folder" if file.is_dir() else "no file, or a link that leads nowhere"
                raise DataError(f"{file} is {found}; put the file itself there")
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            raise DataError(
                f"{', '.join(map(str, missing))} {verb} missing; {self.fetch_hint(self.settings)}"
            )

    def _identify(self) -> dict[str, Any]:
        features = {}
        for packed in self.opened:
            inside = packed.source.is_relative_to(self.root)
            name = packed.source.relative_to(self.root) if inside else packed.source
            features[str(name)] = {key: packed.identity[key] for key in ("size", "sha256")}
            record = read_record(packed.source) if packed.kind == PackedFeatures.kind else None
            if record is not None:
                features[str(name)]["extractor"] = asdict(record)
        return {
            "split_list": {"file": self._list.file.name, "sha256": sha256_of(self._list.file)},
            "features": features,
        }
