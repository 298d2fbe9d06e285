"""Sentence encoders: MiniLM as its authors' library runs it, and folders that do not fit."""

import json

import numpy as np
import pytest
import torch

from model import bert
from text.encoder import WordlessTextError
from text.sentences import MINILM, SentenceEncoder, TokenEncoder
from utils.errors import DataError

CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "vocab_size": 8,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "bark", "##s"]


def small_bert():
    torch.manual_seed(0)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    params = {name: CONFIG[name] for name in (*names, "max_position_embeddings")}
    return bert.Bert(bert.BertParams(**params), words=8)


def write_folder(folder, config=CONFIG, pieces=PIECES, change=lambda weights: None):
    weights = {
        bert.published_name(name): value for name, value in small_bert().state_dict().items()
    }
    change(weights)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def test_a_sentence_is_the_mean_of_its_tokens_of_unit_length(tmp_path):
    encoder = SentenceEncoder(write_folder(tmp_path))
    network = small_bert().eval()
    for text, ids in (("a dog", [2, 4, 5, 3]), ("Dog barks!", [2, 5, 6, 7, 1, 3])):
        with torch.no_grad():
            tokens = network(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))[0]
        mean = tokens.mean(dim=0)
        (vector,) = encoder.encode([text])
        np.testing.assert_allclose(vector, (mean / mean.norm())[None], atol=1e-6)
        (pieces,) = TokenEncoder(tmp_path).encode([text])
        np.testing.assert_allclose(pieces, tokens[1:-1], atol=1e-6)


def test_texts_do_not_depend_on_their_neighbours(tmp_path):
    encoder = TokenEncoder(write_folder(tmp_path))
    texts = ["a dog barks a dog", "dog", "a dog", "barks a", "dog"]
    for alone, together in zip(texts, encoder.encode(texts), strict=True):
        np.testing.assert_allclose(encoder.encode([alone])[0], together, atol=1e-6)


def test_long_texts_are_cut(tmp_path):
    encoder = TokenEncoder(write_folder(tmp_path), max_tokens=5)
    assert [len(pieces) for pieces in encoder.encode(["dog " * 50, "a"])] == [3, 1]
    assert len(TokenEncoder(tmp_path, max_tokens=99).encode(["dog " * 50])[0]) == 14
    with pytest.raises(DataError, match="max_tokens"):
        TokenEncoder(tmp_path, max_tokens=2)


@pytest.mark.parametrize("text", ["", "  \n", "\u200b"])
def test_a_text_without_words_is_refused(tmp_path, text):
    with pytest.raises(WordlessTextError):
        SentenceEncoder(write_folder(tmp_path)).encode(["a dog", text])


def test_the_identity_names_the_files(tmp_path):
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
    same = SentenceEncoder(write_folder(first)).identity
    assert SentenceEncoder(write_folder(second)).identity == same

    def nudge(weights):
        weights["embeddings.word_embeddings.weight"][4] += 1

    assert SentenceEncoder(write_folder(second, change=nudge)).identity != same
    assert TokenEncoder(first).identity != same


def remove(key):
    return lambda weights: weights.pop(key)


def reshape(weights):
    weights["embeddings.LayerNorm.bias"] = torch.zeros(9)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"change": remove("encoder.layer.1.output.dense.bias")}, "encoder.layer.1.output.dense"),
        ({"change": reshape}, "embeddings.LayerNorm.bias"),
        ({"config": {**CONFIG, "hidden_act": "relu"}}, "relu"),
        ({"config": {**CONFIG, "model_type": "roberta"}}, "roberta"),
        ({"config": {**CONFIG, "num_attention_heads": 3}}, "num_attention_heads"),
        ({"config": {**CONFIG, "num_attention_heads": None}}, "num_attention_heads"),
        ({"config": {"vocab_size": 8}}, "num_attention_heads: missing"),
        ({"config": {**CONFIG, "hidden_size": "8"}}, "hidden_size"),
        ({"config": [1]}, "config.json"),
        ({"pieces": ["a"]}, "vocab.txt"),
        ({"pieces": [*PIECES, "cat"]}, "vocab.txt"),
    ],
)
def test_a_folder_that_does_not_fit_is_named(tmp_path, change, named):
    with pytest.raises(DataError, match=named):
        SentenceEncoder(write_folder(tmp_path, **change))


def test_weights_of_a_whole_task_and_old_names_are_read(tmp_path):
    def old(weights):
        weights.pop("pooler.dense.weight"), weights.pop("pooler.dense.bias")
        for key in list(weights):
            new = key.replace("LayerNorm.weight", "LayerNorm.gamma")
            weights["bert." + new.replace("LayerNorm.bias", "LayerNorm.beta")] = weights.pop(key)
        weights["cls.predictions.bias"] = torch.zeros(8)
        weights["bert.embeddings.position_ids"] = torch.arange(16)[None]

    first, second = (tmp_path / name for name in ("first", "second"))
    first.mkdir(), second.mkdir()
    (expected,) = SentenceEncoder(write_folder(first)).encode(["a dog"])
    (found,) = SentenceEncoder(write_folder(second, change=old)).encode(["a dog"])
    np.testing.assert_array_equal(found, expected)


def test_minilm_gives_the_numbers_of_its_authors_library():
    """Recorded from transformers 5.24, mean over tokens, unit length; ids of the same library."""
    pytest.importorskip(MINILM)
    encoder = SentenceEncoder()
    texts = ["a dog barks while rain falls", "A CAFÉ with naïve Zürich noise, isn't it?!"]
    assert encoder._vocabulary.sequence(texts[1], 256) == [
        *(101, 1037, 7668, 2007, 15743, 10204, 5005, 1010, 3475, 1005, 1056, 2009, 1029, 999, 102)
    ]
    assert encoder.width == 384
    vectors = encoder.encode(texts)
    expected = [0.0135443, -0.0381633, 0.1193759, 0.0704355, 0.0331297, 0.0169190]
    np.testing.assert_allclose(vectors[0][0, :6], expected, atol=1e-6)
    (tokens,) = TokenEncoder().encode(texts[:1])
    assert tokens.shape == (7, 384)
    np.testing.assert_allclose(tokens[0, :3], [-0.1985794, -0.0985308, 0.4444706], atol=1e-5)
