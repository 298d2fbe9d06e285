"""Texts and recordings as a trained model embeds them: queries and clips of an index.

Q queries, n clips, M experts, N tokens, D their width.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from audio.reading import read_blocks, sound_length
from model import RetrievalModel
from model.expert_mixture import ExpertMixture
from model.retrieval_model import Rows
from search.scoring import Clips, Floats, Integers, Queries, pattern_of, present
from text import TextEncoder
from utils.batches import Frames
from utils.config import Config, ExpertConfig
from utils.errors import DataError, UsageError
from utils.extraction_record import ExtractionRecord, refuse_mix

if TYPE_CHECKING:
    from audio.extractor import Extractor

BATCH = 64
Tokens = NDArray[np.float32]


class Recording(NamedTuple):
    """What was computed of a recording: {expert: tokens (N, D)}, and its length."""

    tokens: dict[str, Tokens]
    seconds: float


class Embedder:
    """A trained model with what brings texts and recordings to it."""

    def __init__(
        self,
        config: Config,
        model: RetrievalModel,
        encoder: TextEncoder,
        weights: Mapping[str, Path] | None = None,
        trained_on: Mapping[str, ExtractionRecord | None] | None = None,
    ) -> None:
        """Take a model in eval mode, and the extractors of the features that it was trained on.

        `weights` are files of extractors by name.

        Raises UsageError when its scores are not the inner products that an index knows (see
        `search/scoring.py`).
        """
        self.config = config
        self.model = model
        self.encoder = encoder
        self._weights = dict(weights or {})
        self._trained_on = dict(trained_on or {})
        width = config.text.width
        if encoder.width != width:
            raise DataError(
                f"{config.name}: its captions have {width} numbers a word, the text encoder "
                f"{type(encoder).__name__} gives {encoder.width}; use the run's own encoder"
            )

        self._check_scores()

    @property
    def names(self) -> list[str]:
        """The experts, in the order of weights and patterns."""
        return [expert.name for expert in self.config.experts]

    @functools.cached_property
    def extractors(self) -> dict[str, Extractor]:
        """The extractor of each expert that can be computed; recordings lack all others.

        Raises UsageError when there is none. They are imported here: a query needs none of them.
        """
        from audio.extractors import EXTRACTORS, build_extractors

        made = {kind.expert: kind.name for kind in EXTRACTORS.values()}
        names = [made[name] for name in self.names if name in made]
        if not names:
            raise UsageError(
                f"{self.config.name}: no extractor computes {', '.join(self.names)} from "
                f"recordings (known: {', '.join(sorted(made))}); choose a run of these experts"
            )
        built = build_extractors(names, self._weights)
        return {extractor.expert: extractor for extractor in built}

    def records(self) -> dict[str, object]:
        """Return the extractor of each expert, as plain values.

        Raises DataError when the model was trained on features of others.
        """
        found = {name: one.record() for name, one in self.extractors.items()}
        refuse_mix(self._trained_on, found, places=(self.config.name, "this search"))
        return {name: asdict(record) for name, record in found.items()}

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Queries:
        """Embed texts. Raises UsageError for one without any word that the encoder knows."""
        for text in texts:
            if not text.strip():
                raise UsageError("the query is empty; expected words such as: a dog barks")
        limit = self.config.text.max_tokens
        vectors = [words[:limit] for words in self.encoder.encode(texts)]
        padded = torch.zeros(len(texts), 1, limit, self.config.text.width)
        for row, words in zip(padded, vectors, strict=True):
            row[0, : len(words)] = torch.from_numpy(words)
        rows = self.model.encode_captions(padded)
        return self._queries(rows)

    def as_queries(self, clips: Clips) -> Queries:
        """Return clips as queries, to find others like them: experts of a clip weigh the same."""
        return Queries(clips.vectors, present(clips.patterns, len(self.names)), self._divides)

    def extract(self, path: Path, moment: tuple[float, float] | None = None) -> Recording:
        """Compute the experts of a recording, or of a moment of it alone, from second to second.

        Raises DataError when it cannot be read.
        """
        start, end = moment or (0.0, sound_length(path))
        seconds = None if moment is None else end - start
        tokens = {
            name: extractor.tokens_of_blocks(
                read_blocks(path, extractor.rate, start=start, seconds=seconds)
            )
            for name, extractor in self.extractors.items()
        }
        return Recording(tokens, end - start)

    def cut(self, recording: Recording, moments: NDArray[np.float64]) -> list[dict[str, Tokens]]:
        """Return the tokens of moments (n, 2) of a recording."""
        if len(moments) == 1 and tuple(moments[0]) == (0.0, recording.seconds):
            return [recording.tokens]
        parts: list[dict[str, Tokens]] = [{} for _ in moments]
        for name, tokens in recording.tokens.items():
            rate = self.extractors[name].tokens_per_second
            for part, (start, end) in zip(parts, moments.tolist(), strict=True):
                first = min(round(start * rate), len(tokens) - 1)
                part[name] = tokens[first : max(first + 1, round(end * rate))]
        return parts

    @torch.inference_mode()
    def embed_clips(self, clips: Sequence[Mapping[str, Tokens]]) -> Clips:
        """Embed clips, each {expert: tokens (N, D)} without the experts that it lacks."""
        vectors, patterns = [], []
        for first in range(0, len(clips), BATCH):
            part = clips[first : first + BATCH]
            rows, available = self._encode(part)
            vectors.append(self._vectors(rows))
            patterns.append(self._patterns(rows, available))
        return Clips(np.concatenate(vectors), np.concatenate(patterns))

    def _encode(
        self, clips: Sequence[Mapping[str, Tokens]]
    ) -> tuple[Rows, dict[str, torch.Tensor]]:
        """Return clips as the model encodes them, and which has which expert {name: (B,)}."""
        experts: dict[str, torch.Tensor | Frames] = {}
        available = {}
        for expert in self.config.experts:
            features, available[expert.name] = _batch(expert, clips)
            frames = self.model.needs.frames and expert.tokens
            experts[expert.name] = _frames(features, expert, clips) if frames else features
        return self.model.encode_clips(experts, available), available

    @property
    def width(self) -> int:
        """How many numbers a vector of the index has."""
        return self._width

    @property
    def _divides(self) -> bool:
        """Whether scores are divided by the weights of the experts that a clip has."""
        return isinstance(self.model, ExpertMixture) and not self.model.ignore_missing

    def _vectors(self, rows: Rows) -> Floats:
        return self.model.vectors(rows).float().numpy()  # type: ignore[operator]

    def _queries(self, rows: Rows) -> Queries:
        """Return encoded captions as queries; experts without weights of their own weigh alike."""
        vectors = self._vectors(rows)
        if self._divides:
            return Queries(vectors, rows[-1].float().numpy())
        alike = np.full((len(vectors), len(self.names)), 1 / len(self.names), np.float32)
        return Queries(vectors, alike, divided=False)

    def _patterns(self, rows: Rows, available: Mapping[str, torch.Tensor]) -> Integers:
        there = torch.stack([available[name] for name in self.names], dim=1)
        return pattern_of((rows[-1] if self._divides else there).numpy())

    @torch.inference_mode()
    def _check_scores(self) -> None:
        """Raise UsageError unless inner products are the model's scores; note their width."""
        needs = self.model.needs
        if needs.token_ids or not hasattr(self.model, "vectors"):
            raise UsageError(
                f"{self.config.name}: search needs a model whose scores are inner products, such "
                f"as CE and MoEE; {type(self.model).__name__} is none"
            )
        noise = torch.randn(1, 1, self.config.text.max_tokens, self.config.text.width)
        clip = {e.name: np.ones((2, e.width), np.float32) for e in self.config.experts}
        captions, (clips, _) = self.model.encode_captions(noise), self._encode([clip])
        queries, vectors = self._queries(captions), self._vectors(clips)
        self._width = vectors.shape[1]
        everything = np.array([2 ** len(self.names) - 1])
        ours = queries.vectors @ vectors.T / queries.divisors(everything)
        theirs = self.model.score(captions, clips).float().numpy()
        if not np.allclose(ours, theirs, atol=1e-4):
            raise UsageError(
                f"{self.config.name}: the scores of {type(self.model).__name__} are not inner "
                "products divided by weights of experts; search needs such a model"
            )


def _batch(
    expert: ExpertConfig, clips: Sequence[Mapping[str, Tokens]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one expert of clips as a model takes it: (B, N, D) padded or (B, D), there (B,)."""
    limit = expert.max_tokens if expert.tokens else None
    shape = (len(clips), limit, expert.width) if limit else (len(clips), expert.width)
    batch = torch.zeros(shape)
    there = torch.zeros(len(clips))
    for index, clip in enumerate(clips):
        tokens = clip.get(expert.name)
        if tokens is None:
            continue
        there[index] = 1.0
        if limit:
            kept = tokens[:limit]
            batch[index, : len(kept)] = torch.from_numpy(np.ascontiguousarray(kept))
        else:
            batch[index] = torch.from_numpy(tokens.mean(axis=0))
    return batch, there


def _frames(
    tokens: torch.Tensor, expert: ExpertConfig, clips: Sequence[Mapping[str, Tokens]]
) -> Frames:
    """Return padded tokens (B, N, D) with their mask, and the maximum over all of a clip."""
    counts = torch.tensor([len(clip.get(expert.name, ())) for clip in clips])
    places = torch.arange(tokens.shape[1])
    mask = (places < counts[:, None]).float()
    maximum = torch.zeros(len(clips), expert.width)
    for row, clip in zip(maximum, clips, strict=True):
        if expert.name in clip:
            row[:] = torch.from_numpy(clip[expert.name].max(axis=0))
    return Frames(tokens, (places + 2.5) * mask, mask, maximum)
