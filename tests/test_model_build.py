"""Models from configurations, and what the whole model promises whatever its parts."""

from pathlib import Path

import pytest
import torch

from golden import (
    build_recorded_model,
    load_case,
    model_inputs,
    published_state,
    recorded_models,
)
from model.build import build_model, count_parameters
from model.expert_mixture import TextEncoder
from test_configs import PUBLISHED, load
from utils.errors import DataError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_parameters_are_those_of_the_published_tables(experiment):
    with torch.device("meta"):
        model = build_model(load(experiment))
    assert count_parameters(model) == PUBLISHED[experiment][2]


def test_the_seed_decides_the_weights():
    config = load("audiocaps/train-vggish-vggsound-moee")
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_model(config).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])
    clusters = states[0]["pooling.vggsound.clusters"]
    assert clusters.std().item() == pytest.approx(512**-0.5, rel=0.05)


MODELS = recorded_models()


def recorded(name):
    """Return a recorded model and the inputs of its first run."""
    case, arrays = load_case(name)
    model = build_recorded_model(case["constructor"], published_state(arrays))
    return model, model_inputs(arrays, next(iter(case["runs"])), model.names)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_what_a_missing_row_holds_does_not_matter(name, training):
    model, (text, experts, available) = recorded(name)
    model.train(training)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    results = []
    for filler in (0.0, torch.nan, torch.inf, -1e30):
        model.load_state_dict(state)
        model.zero_grad()
        filled = {n: f.clone() for n, f in experts.items()}
        for n in model.names:
            filled[n][available[n] == 0] = filler
        before = {n: f.clone() for n, f in filled.items()}
        sims = model(text, filled, available)
        sims.square().mean().backward()
        gradients = [p.grad for p in model.parameters()]
        results.append((sims, gradients, {k: v.clone() for k, v in model.state_dict().items()}))
        for n in model.names:  # arguments stay as they are
            torch.testing.assert_close(filled[n], before[n], equal_nan=True, rtol=0, atol=0)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_pieces_equal_the_whole(name):
    """Embedding captions and clips apart, in any chunks, gives the similarities of forward."""
    model, (text, experts, available) = recorded(name)
    model.eval()
    whole = model(text, experts, available)
    first, second = (
        model.encode_clips(
            {n: f[part] for n, f in experts.items()}, {n: a[part] for n, a in available.items()}
        )
        for part in (slice(0, 2), slice(2, None))
    )
    clips = tuple(torch.cat(pair) for pair in zip(first, second, strict=True))
    rows = [model.score(model.encode_captions(chunk), clips) for chunk in text.split(3)]
    torch.testing.assert_close(torch.cat(rows), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_vectors_give_the_similarities(name):
    model, (text, experts, available) = recorded(name)
    model.eval()
    captions, clips = model.encode_captions(text), model.encode_clips(experts, available)
    products = model.vectors(captions) @ model.vectors(clips).T
    if not model.ignore_missing:
        products = products / (captions[-1] @ clips[-1].T)
    torch.testing.assert_close(products, model.score(captions, clips))
    assert len(captions[0]) == text.shape[0] * text.shape[1]
    assert {len(rows) for rows in clips} == {len(available[model.names[0]])}


def test_availability_may_come_as_one_tensor():
    model, (text, experts, available) = recorded("ce3_missing")
    stacked = torch.stack([available[n] for n in model.names], dim=1).double()
    model.eval()
    torch.testing.assert_close(
        model(text, experts, stacked), model(text, experts, available), rtol=0, atol=0
    )


def test_a_clip_without_any_expert_is_named():
    model, (text, experts, available) = recorded("ce2_missing")
    for there in available.values():
        there[3] = 0
    with pytest.raises(DataError, match="clip 3 of the batch has no expert"):
        model(text, experts, available)
    ignoring, (text, experts, available) = recorded("extra_ce2_keepmissing")
    for there in available.values():
        there[3] = 0
    assert ignoring.eval()(text, experts, available).isfinite().all()


def test_without_pooling_the_single_word_is_the_caption():
    encoder = TextEncoder(3, [4], pooling=None).eval()
    words = torch.randn(5, 1, 3)
    torch.testing.assert_close(encoder(words)[0][0], encoder.gates[0](words[:, 0]))
    with pytest.raises(ValueError, match="captions of 2 tokens need a text pooling; expected 1"):
        encoder(torch.randn(5, 2, 3))
