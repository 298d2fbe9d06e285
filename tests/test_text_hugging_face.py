"""Networks of the transformers library, where it is installed."""

import sys

import numpy as np
import pytest
import torch

from text.build import build_encoder
from text.encoder import WordlessTextError
from utils.errors import DataError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "bark", "##s"]


@pytest.fixture
def folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(PIECES),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    return tmp_path


def test_it_gives_the_vectors_of_our_own_network(folder):
    entry = {"type": "HuggingFace", "args": {"model": str(folder)}}
    own = build_encoder({"type": "TokenEncoder", "args": {"folder": str(folder)}})
    found = build_encoder(entry).encode(["a dog", "a dog barks"])
    for theirs, ours in zip(found, own.encode(["a dog", "a dog barks"]), strict=True):
        np.testing.assert_allclose(theirs[1:-1], ours, atol=1e-5)
    with pytest.raises(WordlessTextError):
        build_encoder(entry).encode([" "])


def test_without_the_library_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DataError, match=r"requirements/transformers\.txt"):
        build_encoder({"type": "HuggingFace", "args": {"model": "any"}})
