"""The interface: three methods make a model; weights travel to released names and back."""

import logging
from typing import ClassVar

import pytest
import torch

from golden import build_recorded_model, load_case, published_state, recorded_models
from model.expert_mixture import ExpertMixture
from model.retrieval_model import RetrievalModel
from utils.errors import CheckpointError


def recorded(name):
    case, arrays = load_case(name)
    state = published_state(arrays)
    return build_recorded_model(case["constructor"], state), state


@pytest.mark.parametrize("name", recorded_models())
def test_published_weights_come_back_the_same(name):
    model, state = recorded(name)
    returned = model.published_state_dict()
    assert returned.keys() == state.keys()
    for key, value in state.items():
        assert returned[key].dtype == value.dtype, key
        assert torch.equal(returned[key], value), key


def test_another_architecture_is_an_error_that_names_keys():
    model, _ = recorded("ce2_fixed_experts")
    _, other = recorded("moee2_missing")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        model.load_published(other)
    message = str(error.value)
    assert "another architecture than the configuration" in message
    assert "missing: ce.video_dim_reduce.0.fc.weight" in message
    assert "unknown: pooling.audio.clusters" in message
    assert "ce.video_GU.0.cg.fc.weight (21, 21), expected (24, 24)" in message
    assert "config.json beside the checkpoint" in message
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_keys_of_older_releases_are_dropped_with_a_warning(caplog):
    model, state = recorded("ce2_missing")
    extra = {f"{prefix}weight": torch.zeros(3) for prefix in ExpertMixture.obsolete}
    with caplog.at_level(logging.WARNING):
        model.load_published({**state, **extra})
    (record,) = caplog.records
    assert all(key in record.getMessage() for key in extra)
    assert model.published_state_dict().keys() == state.keys()


class MeanOfWords(RetrievalModel):
    """The smallest model: means of word vectors against means of one expert's tokens."""

    published: ClassVar[dict[str, str]] = {"scale.*.": "ce.scale.*.of."}

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.ModuleList([torch.nn.Linear(3, 3)])
        self.other = torch.nn.Parameter(torch.zeros(2))

    def encode_captions(self, text):
        return (self.scale[0](text.flatten(0, 1).mean(dim=1)),)

    def encode_clips(self, experts, available):
        return experts["audio"].mean(dim=1), available["audio"]

    def score(self, captions, clips):
        return captions[0] @ clips[0].T * clips[1]


def test_three_methods_make_a_model():
    model = MeanOfWords()
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(4, 2, 5, 3, generator=draw)
    clips = {"audio": torch.randn(6, 7, 3, generator=draw)}, {"audio": torch.ones(6)}
    apart = model.eval()(text, *clips)
    assert apart.shape == (8, 6)
    averaged = (apart[::2] + apart[1::2]) / 2
    torch.testing.assert_close(model.train()(text, *clips), averaged)
    model.average_captions = True
    torch.testing.assert_close(model.eval()(text, *clips), averaged)


def test_names_by_the_table_or_their_own():
    model = MeanOfWords()
    names = ["other", "ce.scale.0.of.weight", "ce.scale.0.of.bias"]
    assert list(model.published_state_dict()) == names
    other = MeanOfWords()
    other.load_published(model.published_state_dict())
    assert torch.equal(other.scale[0].weight, model.scale[0].weight)
    with pytest.raises(CheckpointError, match=r"missing: ce.scale.0.of.weight"):
        other.load_published({name: torch.zeros(2) for name in names[:1]})


def test_a_model_without_one_of_the_methods_cannot_be_made():
    class Half(RetrievalModel):
        def encode_captions(self, text):
            return (text,)

    with pytest.raises(TypeError, match="encode_clips"):
        Half()
