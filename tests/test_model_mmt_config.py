"""From configurations and released weights to an MMT."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from golden_mmt import DATA, load_case
from model import bert, build_model, count_parameters
from model.mmt_config import (
    ClipBertParams,
    TextBertParams,
    build_mmt,
    check_mmt,
    text_sizes_in,
)
from test_model_mmt import inputs
from utils.config import ExpertConfig, TextConfig, load_config
from utils.errors import CheckpointError, ConfigError, DataError
from utils.reading.checkpoints import read_torch_checkpoint

FOLDER = DATA / "published_ckpt_clotho_mmt"
HEADS = "arch.args.txt_bert_params.num_attention_heads"
VOCABULARY = str(DATA / "vocab.txt")
TEXT = TextConfig("", 1, "vlad", 21)
EXPERTS = [
    ExpertConfig(name, width, True, 95, True, None)
    for name, width in (("audio", 128), ("vggsound", 512))
]
SMALL_TEXT = TextBertParams(
    hidden_size=40, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8
)
SMALL_CLIPS = ClipBertParams(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8
)


@pytest.mark.parametrize("protocol", ["cat21", "indiv5"])
def test_a_released_checkpoint_scores_as_recorded(protocol):
    state = read_torch_checkpoint(FOLDER / "trained_model.pth")["state_dict"]
    heads = json.loads((FOLDER / "text_bert.json").read_text())["num_attention_heads"]
    changes = {"arch.args.vocab": VOCABULARY, HEADS: heads}
    config = load_config(FOLDER / "config.json", changes)
    model = build_model(config, released=state).eval()
    model.load_published(state)
    _, arrays = load_case(f"batch_mmt_clotho_test_{protocol}")
    text, experts, available = inputs(arrays, "", ["vggish", "vggsound"])
    ours = {"vggish": "audio", "vggsound": "vggsound"}
    with torch.inference_mode():
        sims = model(
            text,
            {ours[name]: one for name, one in experts.items()},
            {ours[name]: one for name, one in available.items()},
        )
    with np.load(FOLDER / f"test_sims_{protocol}.npz") as expected:
        np.testing.assert_allclose(sims, expected["sims"], atol=1e-6)


def small(**changes):
    arguments = {"txt_bert_params": SMALL_TEXT, "vid_bert_params": SMALL_CLIPS, "same_dim": 32}
    return build_mmt(EXPERTS, TEXT, **({"vocab": VOCABULARY} | arguments | changes))


def test_the_vocabulary_decides_the_words():
    words = small().text_bert.word.weight
    assert words.shape == (164, 40)
    larger = dataclasses.replace(SMALL_TEXT, vocab_size=200)
    assert small(txt_bert_params=larger).text_bert.word.weight.shape == (200, 40)
    with pytest.raises(DataError, match="164"):
        small(txt_bert_params=dataclasses.replace(SMALL_TEXT, vocab_size=100))


def test_switches_have_published_names():
    plain = count_parameters(small())
    assert count_parameters(small(vid_wgh="emb")) == plain + 2 * 33
    gates = 2 * (32 * 32 + 32 + 2 * 32)
    assert count_parameters(small(txt_pro="lin")) == plain - gates
    assert small(txt_agg="bertftnmnp").switches.caption_from == "mean"
    assert small(test_caption_mode="avg").average_captions
    assert not small(keep_missing_modalities=False).switches.keep_missing


def test_dropout_of_both_transformers_comes_from_the_config():
    model = small(txt_bert_params=dataclasses.replace(SMALL_TEXT, hidden_dropout_prob=0.25))
    assert model.dropout.p == model.text_bert.dropout.p == 0.25
    assert model.clip_bert.layers[0].attention.dropout == 0.1


def test_pretrained_weights_are_read(tmp_path):
    torch.manual_seed(1)
    other = small().text_bert
    path = tmp_path / "pytorch_model.bin"
    torch.save({bert.published_name(k): v for k, v in other.state_dict().items()}, path)
    for place in (path, tmp_path):
        found = small(txt_bert_weights=str(place)).text_bert
        torch.testing.assert_close(found.state_dict(), other.state_dict())
    with pytest.raises(CheckpointError, match="missing"):
        small(txt_bert_weights=str(tmp_path / "none.bin"))


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, []),
        ({"same_dim": 64}, ["same_dim"]),
        ({"txt_bert_params": TextBertParams(max_position_embeddings=20)}, ["txt_bert_params"]),
        (
            {"vid_bert_params": ClipBertParams(type_vocab_size=2), "same_dim": 512},
            ["vid_bert_params"],
        ),
    ],
)
def test_what_does_not_go_together(changes, keys):
    arguments = {"txt_bert_params": SMALL_TEXT, "vid_bert_params": SMALL_CLIPS, "same_dim": 32}
    found = check_mmt(EXPERTS, TEXT, **(arguments | changes))
    assert [key.split(".")[0] for key, _ in found] == keys


@pytest.mark.parametrize("params", ["txt_bert_params", "vid_bert_params"])
def test_heads_share_the_width(params):
    key = f"arch.args.{params}.num_attention_heads"
    with pytest.raises(ConfigError, match=f"{key}: found 5, expected a divisor"):
        load_config(FOLDER / "config.json", {key: 5})


def test_an_averaged_expert_has_no_frames():
    averaged = [dataclasses.replace(EXPERTS[0], tokens=False)]
    arguments = {"txt_bert_params": SMALL_TEXT, "vid_bert_params": SMALL_CLIPS, "same_dim": 32}
    assert len(list(check_mmt(averaged, TEXT, **arguments))) == 1


def test_weights_of_another_model_are_refused():
    state = small().published_state_dict()
    assert text_sizes_in(state)["vocab_size"] == 164
    for part in ("txt_bert.embeddings.word", "txt_bert.encoder", "txt_bert.embeddings.LayerNorm"):
        with pytest.raises(CheckpointError):
            text_sizes_in({key: value for key, value in state.items() if not key.startswith(part)})


def test_heads_that_do_not_fit_are_asked_for():
    state = read_torch_checkpoint(FOLDER / "trained_model.pth")["state_dict"]
    config = load_config(FOLDER / "config.json", {"arch.args.vocab": VOCABULARY})
    with pytest.raises(CheckpointError, match=HEADS):
        build_model(config, released=state)


def test_a_configuration_decides_the_batches():
    config = load_config(FOLDER / "config.json", {"arch.args.vocab": VOCABULARY})
    assert config.needs.frames
    assert config.needs.vocabulary == VOCABULARY
    assert (config.data.fuse_captions, config.data.num_test_captions) == (True, 1)
    changes = {"query_shuffling": "indiv", "captions_per_video": 5}
    changes = {f"data_loader.args.{key}": value for key, value in changes.items()}
    single = load_config(FOLDER / "config.json", {"arch.args.vocab": VOCABULARY, **changes})
    single = single.for_evaluation().data
    assert (single.fuse_captions, single.num_test_captions) == (False, 5)
    means = load_config(
        FOLDER / "config.json", {"arch.args.vocab": VOCABULARY, "arch.args.out_tok": "mnp"}
    )
    assert means.needs.pooling == "mean"
