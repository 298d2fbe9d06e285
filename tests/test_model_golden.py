"""The models repeat the numbers recorded from the published system."""

import numpy as np
import pytest
import torch

from golden import (
    build_recorded_model,
    load_case,
    model_inputs,
    published_state,
    recorded_models,
)
from model.loss import MaxMarginRankingLoss


def check_model(case, arrays):
    """Compare every run of a recorded case; return the largest differences by kind."""
    worst = {"forward": 0.0, "loss": 0.0, "gradient": 0.0, "buffer": 0.0}
    state = published_state(arrays)
    for run, spec in case["runs"].items():
        model = build_recorded_model(
            case["constructor"], state, average_captions=spec["test_caption_mode"] == "avg"
        )
        model.train(spec["train"])
        text, experts, available = model_inputs(arrays, run, model.names)
        with torch.set_grad_enabled(spec["train"]):
            sims = model(text, experts, available)
        _note(worst, "forward", sims, arrays[f"{run}/out/sims"])
        model.load_published(state)  # a second forward must not see moved statistics
        texts, weights = model.embed_text(text)
        clips = model.embed_clips(experts, available)
        _note(worst, "forward", weights, arrays[f"{run}/out/moe_weights"])
        for name in model.names:
            _note(worst, "forward", texts[name], arrays[f"{run}/out/text_embds/{name}"])
            _note(worst, "forward", clips[name], arrays[f"{run}/out/vid_embds/{name}"])
        if spec["loss"] is not None:
            loss = _recorded_loss(case, spec, sims)
            worst["loss"] = max(worst["loss"], abs(loss.item() - spec["loss"]))
        if spec["train"]:
            model.load_published(state)
            loss = _recorded_loss(case, spec, model(text, experts, available))
            loss.backward()
            _compare_gradients(worst, model, arrays, run)
            for name, value in model.published_state_dict().items():
                if f"{run}/buf/{name}" in arrays:
                    _note(worst, "buffer", value, arrays[f"{run}/buf/{name}"])
    return worst


def _recorded_loss(case, spec, sims):
    loss = MaxMarginRankingLoss(case["loss"]["margin"], case["loss"]["fix_norm"])
    if sims.shape[0] != sims.shape[1]:
        sims = sims[:: spec["captions"]]
    return loss(sims)


def _note(worst, kind, value, recorded):
    assert tuple(value.shape) == recorded.shape
    finite = np.isfinite(recorded)
    assert (np.isfinite(value.detach().numpy()) == finite).all()
    difference = np.abs(value.detach().numpy() - recorded)[finite]
    worst[kind] = max(worst[kind], float(difference.max(initial=0)))


def _compare_gradients(worst, model, arrays, run):
    for name, parameter in model.named_parameters():
        key = f"{run}/grad/{model.published_name(name)}"
        assert (parameter.grad is not None) == (key in arrays), key
        if parameter.grad is None:
            continue
        recorded = arrays[key]
        difference = np.abs(parameter.grad.numpy() - recorded).max()
        allowed = max(1e-4 * np.abs(recorded).max(), 1e-6)
        worst["gradient"] = max(worst["gradient"], float(difference / allowed))


@pytest.mark.parametrize("name", recorded_models())
def test_model_repeats_the_published_numbers(name):
    worst = check_model(*load_case(name))
    assert worst["forward"] < 1e-5
    assert worst["loss"] < 1e-6
    assert worst["gradient"] < 1  # in units of what is allowed
    assert worst["buffer"] < 1e-5
