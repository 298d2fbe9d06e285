"""Models from configurations, and what the whole model promises whatever its parts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from golden import DATA, build_recorded_model, load_case, model_inputs, published_state
from model.build import build_model, count_parameters
from utils.config import load_config
from utils.errors import DataError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
CE_PARAMETERS = {  # the published tables
    "train-full-ce-only-audio": 7_389_127,
    "train-full-ce-audio-only": 7_389_127,
    "train-only-vggsound": 12_120_007,
    "train-vggish-vggsound": 21_864_536,
    "train-vggish-vggsound-moee": 8_903_512,
    "train-full-ce-only-scene": 7_507_879,
    "train-full-ce-only-r2p1d": 6_205_351,
    "train-full-ce-only-inst": 7_384_999,
    "train-full-ce-scene-r2p1d": 16_068_632,
    "train-full-ce-scene-inst": 17_248_280,
    "train-full-ce-r2p1d-inst": 15_945_752,
    "train-full-ce-r2p1d-inst-vggish": 23_324_073,
    "train-full-ce-r2p1d-inst-vggsound": 28_054_953,
    "train-full-ce-r2p1d-inst-vggish-vggsound": 35_433_274,
    "train-full-ce-scene-r2p1d-inst": 23_442_825,
    "train-full-ce-scene-r2p1d-inst-vggsound": 35_552_026,
    "train-full-ce-scene-r2p1d-inst-vggish-vggsound": 42_930_347,
}
PUBLISHED = ("activity-net", "audiocaps", "clotho", "queryd", "querydsegments")
EXPERIMENTS = sorted(
    path
    for folder in PUBLISHED
    for path in (CONFIGS / folder).glob("train-*.json")
    if not path.stem.endswith(("-mmt", "-linear")) and "-finetuned-from" not in path.stem
)
"""The first paper's; tests/test_configs.py has those of both."""


def table_entry(stem):
    """Return the table's row of a config: fine-tuned and reduced-data ones are the same model."""
    return CE_PARAMETERS[stem.removesuffix("-finetuned").split("-train_list")[0]]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_parameters_are_those_of_the_published_tables(path):
    with torch.device("meta"):
        model = build_model(load_config(path))
    assert count_parameters(model) == table_entry(path.stem)


def test_all_published_experiments_are_there():
    assert len(EXPERIMENTS) == 28
    assert {table_entry(path.stem) for path in EXPERIMENTS} == set(CE_PARAMETERS.values())


def test_frozen_parameters_are_not_counted():
    layer = torch.nn.Linear(3, 4)
    layer.bias.requires_grad_(False)
    assert count_parameters(layer) == 12


def test_the_seed_decides_the_weights():
    config = load_config(CONFIGS / "audiocaps" / "train-vggish-vggsound-moee.json")
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_model(config).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])
    clusters = states[0]["pooling.vggsound.clusters"]
    assert clusters.std().item() == pytest.approx(512**-0.5, rel=0.05)


MODELS = sorted(
    path.stem
    for path in DATA.glob("*.json")
    if path.stem.startswith(("ce", "mimic", "moee", "extra"))
)


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
@pytest.mark.parametrize("training", [True, False])
def test_sims_move_with_captions_and_clips(name, training):
    model, (text, experts, available) = recorded(name)
    model.train(training)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    sims = model(text, experts, available)
    model.load_state_dict(state)
    rows = torch.randperm(len(text))
    columns = torch.randperm(sims.shape[1])
    moved = model(
        text[rows],
        {n: f[columns] for n, f in experts.items()},
        {n: a[columns] for n, a in available.items()},
    )
    captions = len(sims) // len(text)
    expected = sims.view(len(text), captions, -1)[rows][:, :, columns].reshape(sims.shape)
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_captions_are_averaged_in_training_and_on_demand():
    model, (text, experts, available) = recorded("ce2_fixed_experts")
    texts = torch.cat([text[:, :1]] * 2 + [text[:, :1] * 0.5], dim=1)  # K = 3
    model.eval()
    apart = model(texts, experts, available)
    assert apart.shape == (3 * len(text), len(experts[model.names[0]]))
    model.average_captions = True
    averaged = model(texts, experts, available)
    torch.testing.assert_close(averaged, apart.view(len(text), 3, -1).mean(dim=1))
    model.average_captions = False
    assert model.train()(texts, experts, available).shape == averaged.shape


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


def test_the_same_run_gives_the_same_bits():
    runs = []
    for _ in range(2):
        model, inputs = recorded("ce3_missing")
        loss = model.train()(*inputs).square().sum()
        loss.backward()
        runs.append([p.grad.numpy().tobytes() for p in model.parameters()] + [loss.item()])
    assert runs[0] == runs[1]
    assert np.isfinite(runs[0][-1])


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
