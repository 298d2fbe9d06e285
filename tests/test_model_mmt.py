"""MMT against the recorded numbers of the published code, and against itself."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from golden_mmt import cases, load_case
from model import bert, count_parameters
from model.loss import MaxMarginRankingLoss
from model.mmt import MMT, Switches, drop_unattended, types_of
from model.mmt_config import ClipBertParams, TextBertParams
from trainer.ranking_step import RankingStep
from utils.batches import Frames
from utils.errors import CheckpointError

CASES = cases("*mmt[123]_*")


def bert_params(recorded):
    names = {field.name for field in fields(bert.BertParams)}
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return bert.BertParams(**{key: recorded[key] for key in names & recorded.keys()} | none)


def build(case, mode="indep"):
    args, text = case["arch_args"], case["text_bert"]
    tokens = {"": "first", "mxp": "max", "mnp": "mean"}
    return MMT(
        {name: dims["dim"] for name, dims in case["expert_dims"].items()},
        bert.Bert(bert_params(text), words=text["vocab_size"]),
        bert.Bert(bert_params(args["vid_bert_params"])),
        switches=Switches(
            caption_from=tokens[args["txt_agg"].removeprefix("bertftn")],
            text_head=args["txt_pro"],
            aggregate=args["out_tok"],
            positions=args["pos_enc"],
            weigh_clips=args["vid_wgh"] == "emb",
            keep_missing=args["keep_missing_modalities"],
        ),
        average_captions=mode == "avg",
    )


def inputs(arrays, prefix, names, *, mean=False):
    def part(key, name):
        return torch.from_numpy(arrays[f"{prefix}{key}/{name}"])

    experts = {
        name: Frames(
            part("features", name),
            part("features_t", name) - 2,
            part("features_ind", name),
            part("features_avgpool" if mean else "features_maxpool", name),
        )
        for name in names
    }
    available = {name: frames.mask.amax(dim=1) for name, frames in experts.items()}
    return torch.from_numpy(arrays[f"{prefix}token_ids"]), experts, available


def recorded_state(arrays, prefix="sd/"):
    return {
        key.removeprefix(prefix): torch.from_numpy(np.array(value))
        for key, value in arrays.items()
        if key.startswith(prefix)
    }


def close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_every_recorded_run(name):
    case, arrays = load_case(name)
    state = recorded_state(arrays)
    for run, how in case["runs"].items():
        model = build(case, how["mode"])
        model.load_published(state)
        model.train(how["training"])
        text, experts, available = inputs(arrays, f"{run}/in/", model.names, mean="mnp" in name)
        *texts, weights = model.encode_captions(text)
        model.load_published(state)  # training moved the batch norms
        *clips, shares = model.encode_clips(experts, available)
        sims = model(text, experts, available)
        shape = text.shape[:2]
        out = {
            key.removeprefix(f"{run}/out/"): arrays[key]
            for key in arrays
            if key.startswith(f"{run}/out/")
        }
        close(sims, out["sims"])
        close(torch.stack(clips, 1), out["vid_embds"])
        close(torch.stack(texts, 1).view(*shape, len(texts), -1).transpose(1, 2), out["text_embds"])
        close(weights.view(*shape, -1), out["text_weights"])
        close(shares, out["vid_weights"])
        if "loss" in out:
            loss = MaxMarginRankingLoss(margin=case["margin"], fix_norm=case["fix_norm"])(sims)
            close(loss, out["loss"])
        if how["training"]:
            check_gradients(model, loss, arrays, run, how["no_gradient"])


def check_gradients(model, loss, arrays, run, without):
    loss.backward()
    for name, parameter in model.named_parameters():
        published = model.published_name(name)
        if published in without:
            assert parameter.grad is None, published
            continue
        expected = arrays[f"{run}/grad/{published}"]
        largest = np.abs(expected).max()
        tolerance = max(1e-6, 1e-4 * largest)
        close(parameter.grad, expected, tolerance)
    buffers = dict(model.named_buffers())
    for name, buffer in buffers.items():
        key = f"{run}/buf/{model.published_name(name)}"
        if key in arrays:
            close(buffer, arrays[key])


def test_bfloat16_has_almost_the_same_gradients():
    case, arrays = load_case("mmt2_missing")
    gradients = []
    for precision in ("fp32", "bf16"):
        model = build(case).train()
        model.load_published(recorded_state(arrays))
        step = RankingStep(model, MaxMarginRankingLoss(case["margin"]), precision=precision)
        step(*inputs(arrays, "train1/in/", model.names)).backward()
        parts = [one.grad.flatten() for one in model.parameters() if one.grad is not None]
        gradients.append(torch.cat(parts))
    exact, rounded = gradients
    assert not torch.equal(exact, rounded)
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.99


def test_a_recorded_training():
    case, arrays = load_case("traj_mmt2")
    model = build(case).train()
    model.load_published(recorded_state(arrays))
    optimizer = torch.optim.Adam(model.parameters(), lr=case["lr"])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, case["every"], case["gamma"])
    loss_of = MaxMarginRankingLoss(margin=case["margin"], fix_norm=True)
    losses = []
    for step in range(case["steps"]):
        optimizer.zero_grad()
        loss = loss_of(model(*inputs(arrays, f"batch{step % 6}/", model.names)))
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, arrays["losses"], atol=1e-4)
    noise = (".cg.fc.bias", ".self.key.bias", ".running_mean")
    for key, value in model.published_state_dict().items():
        if f"after_norm/{key}" in arrays and not key.endswith(noise):
            norm = float(arrays[f"after_norm/{key}"])
            assert value.double().norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-6), key


def full_size(experts):
    with torch.device("meta"):
        text, clips = bert.Bert(TextBertParams(), words=28_996), bert.Bert(ClipBertParams())
        return MMT(experts, text, clips)


@pytest.mark.parametrize(
    ("experts", "parameters"),
    [
        ({"audio": 128, "vggsound": 512}, 127_084_290),
        ({"audio": 128}, 126_163_457),
        ({"vggsound": 512}, 126_360_065),
    ],
)
def test_parameters_of_the_published_models(experts, parameters):
    model = full_size(experts)
    assert count_parameters(model) == parameters
    assert len(model.published_state_dict()) == 295 - 13 * (2 - len(experts))


def test_published_names_come_in_the_published_order():
    """Position numbers aside; the optimiser of released files counts parameters in this order."""
    case, arrays = load_case("mmt2_missing")
    keys = [key for key in recorded_state(arrays) if not key.endswith("position_ids")]
    assert list(build(case).published_state_dict()) == keys
    case["expert_dims"]["audio"] = case["expert_dims"].pop("vggish")
    assert list(build(case).published_state_dict()) == keys


def test_released_weights_need_no_position_numbers():
    case, arrays = load_case("mmt2_missing")
    state = recorded_state(arrays)
    model = build(case)
    model.load_published({key: v for key, v in state.items() if not key.endswith("position_ids")})
    for key, value in model.published_state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="pooler"):
        model.load_published({key: v for key, v in state.items() if "pooler" not in key})


def random_batch(seed=0, clips=5, frames=6):
    draw = torch.Generator().manual_seed(seed)
    experts = {}
    for name, width in (("vggish", 12), ("vggsound", 20)):
        counts = torch.randint(0, frames + 1, (clips,), generator=draw)
        mask = (torch.arange(frames) < counts[:, None]).float()
        tokens = torch.randn(clips, frames, width, generator=draw) * mask[..., None]
        times = torch.rand(clips, frames, generator=draw).mul(20).sort().values
        experts[name] = Frames(tokens, times, mask, tokens.amax(dim=1))
    text = torch.stack([torch.randint(1, 90, (clips, 2, 8), generator=draw)] * 2, dim=3)
    text[..., 1] = (torch.arange(8) < torch.randint(2, 9, (clips, 2, 1), generator=draw)).long()
    available = {name: one.mask.amax(dim=1) for name, one in experts.items()}
    return text, experts, available


def model_and_batch(seed=0):
    case, arrays = load_case("mmt2_missing")
    model = build(case).eval()
    model.load_published(recorded_state(arrays))
    return model, *random_batch(seed)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_not_attended_to_changes_nothing(seed, monkeypatch):
    """Dropped from the sequence or masked, full of rubbish or zeros: the numbers are the same."""
    model, text, experts, available = model_and_batch(seed)
    expected = model(text, experts, available)
    monkeypatch.setattr(
        "model.mmt.drop_unattended", lambda tokens, attended, keep: (tokens, attended)
    )
    torch.testing.assert_close(model(text, experts, available), expected)
    rubbish = {}
    for name, one in experts.items():
        tokens = torch.where(one.mask[..., None] > 0, one.tokens, torch.nan)
        pooled = torch.where(available[name][:, None] > 0, one.pooled, torch.nan)
        rubbish[name] = one._replace(tokens=tokens, pooled=pooled)
    text[..., 0] = torch.where(text[..., 1] > 0, text[..., 0], 7)
    torch.testing.assert_close(model(text, rubbish, available), expected)


def test_clips_do_not_depend_on_their_neighbours_nor_on_the_order_of_frames():
    model, _, experts, available = model_and_batch()
    whole = model.encode_clips(experts, available)
    order = torch.randperm(6)
    for b in range(5):
        clip = {name: Frames(*(part[b : b + 1] for part in one)) for name, one in experts.items()}
        alone = model.encode_clips(clip, {name: one[b : b + 1] for name, one in available.items()})
        shuffled = {
            name: one._replace(
                tokens=one.tokens[:, order], times=one.times[:, order], mask=one.mask[:, order]
            )
            for name, one in clip.items()
        }
        again = model.encode_clips(
            shuffled, {name: one[b : b + 1] for name, one in available.items()}
        )
        for together, one, other in zip(whole, alone, again, strict=True):
            torch.testing.assert_close(one, together[b : b + 1])
            torch.testing.assert_close(other, together[b : b + 1])


def test_an_expert_that_is_not_available_is_ignored():
    model, text, experts, available = model_and_batch()
    without = {**available, "vggsound": torch.zeros(5)}
    zeros = experts["vggsound"]._replace(
        tokens=torch.zeros(5, 6, 20), mask=torch.zeros(5, 6), pooled=torch.zeros(5, 20)
    )
    expected = model(text, {**experts, "vggsound": zeros}, without)
    torch.testing.assert_close(model(text, experts, without), expected)
    columns = torch.stack([without["vggish"], without["vggsound"]], dim=1)
    torch.testing.assert_close(model(text, experts, columns), expected)


def test_vectors_give_the_scores():
    for name in CASES:
        case, arrays = load_case(name)
        model = build(case).eval()
        model.load_published(recorded_state(arrays))
        text, experts, available = inputs(arrays, "eval1/in/", model.names, mean="mnp" in name)
        captions, clips = model.encode_captions(text), model.encode_clips(experts, available)
        products = model.vectors(captions) @ model.vectors(clips).T
        total = captions[-1] @ clips[-1].T
        expected = products / torch.where(total == 0, 1e-5, total)
        torch.testing.assert_close(model.score(captions, clips), expected)


def test_dropping_tokens_worked_by_hand():
    tokens = torch.arange(12.0).view(2, 6, 1)
    attended = torch.tensor([[1, 0, 0, 1, 0, 1], [0, 1, 0, 0, 0, 1]]) > 0
    kept, mask = drop_unattended(tokens, attended, keep=2)
    assert kept.squeeze(2).tolist() == [[0, 1, 3, 5], [6, 7, 11, 8]]
    assert mask.int().tolist() == [[1, 0, 1, 1], [0, 1, 1, 0]]
    everything = torch.ones(2, 6, dtype=torch.bool)
    assert drop_unattended(tokens, everything, keep=2)[0] is tokens


def test_experts_get_their_published_types_and_others_the_free_ones():
    assert types_of(["audio", "vggsound"], 10) == {"audio": 2, "vggsound": 3}
    assert types_of(["logmel", "modulation", "speech"], 10) == {
        "logmel": 1,
        "modulation": 2,
        "speech": 6,
    }
    with pytest.raises(ValueError):
        types_of(["speech"], 6)
    with pytest.raises(ValueError):
        types_of(["a", "b", "c"], 3)


def test_an_expert_without_times_is_refused():
    model, text, experts, available = model_and_batch()
    with pytest.raises(TypeError):
        model(text, {name: one.tokens for name, one in experts.items()}, available)
