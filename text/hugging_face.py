"""Any text network of the transformers library, when that is installed."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F

from text.encoder import TextEncoder, Vectors, WordlessTextError
from utils.errors import DataError, needed_by

logger = logging.getLogger(__name__)

REQUIREMENTS = "requirements/transformers.txt"
BATCH = 32


class HuggingFace(TextEncoder):
    """One vector a token, or of unit length the mean of them, from a network's last layer."""

    requirements = REQUIREMENTS

    def __init__(
        self,
        model: Annotated[str, "a folder, or a name that transformers finds or downloads"],
        sentence: Annotated[bool, "one vector a text, the mean over its tokens"] = False,
        max_tokens: Annotated[int, "of a text; the rest is cut off"] = 256,
    ) -> None:
        """Load a network. Raises DataError when the library or the network is missing."""
        with needed_by(model, REQUIREMENTS, DataError):
            from transformers import AutoModel, AutoTokenizer
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model)
            self._network = AutoModel.from_pretrained(model, use_safetensors=True).eval()
        except (OSError, ValueError) as error:
            raise DataError(f"{model}: cannot be loaded by transformers: {error}") from error
        if self._network.config.is_encoder_decoder:  # captions are read, nothing is written
            self._network = self._network.get_encoder()
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._sentence, self._limit = sentence, max_tokens
        self.width = int(self._network.config.hidden_size)
        self.identity: dict[str, Any] = {
            "encoder": type(self).__name__,
            "sentence": sentence,
            "max_tokens": max_tokens,
            "weights": _sha256_of_weights(self._network),
        }

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> list[Vectors]:
        """Return the vectors of each text: (n_tokens, width), or (1, width)."""
        vectors: list[Vectors] = []
        for first in range(0, len(texts), BATCH):
            some = list(texts[first : first + BATCH])
            limit = {"truncation": True, "max_length": self._limit}
            batch = self._tokenizer(some, padding=True, return_tensors="pt", **limit)
            ids, mask = batch["input_ids"], batch["attention_mask"]
            hidden = self._network(input_ids=ids, attention_mask=mask).last_hidden_state
            for text, tokens, exists in zip(some, hidden.float(), mask.bool(), strict=True):
                kept = tokens[exists]
                if not text.strip() or not len(kept):
                    raise WordlessTextError(text)
                if self._sentence:
                    kept = F.normalize(kept.mean(dim=0, keepdim=True), dim=1)
                vectors.append(np.ascontiguousarray(kept.numpy()))
        return vectors


def _sha256_of_weights(network: torch.nn.Module) -> str:
    """Return the sha256 of all weights by name, however many files they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
