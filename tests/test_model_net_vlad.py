"""NetVLAD: by hand, against a loop, its properties, and the recorded numbers."""

import numpy as np
import pytest
import torch

from golden import load_case
from model.net_vlad import NetVLAD


def loop_net_vlad(tokens, clusters, clusters2, *, norm=None, mask=None):
    """Pool (B, N, D) token by token; norm (mean, var, weight, bias) of the C+G columns."""
    batch, count, width = tokens.shape
    kept = clusters2.shape[2]
    scores = np.array([[[token @ column for column in clusters.T] for token in x] for x in tokens])
    if norm is not None:
        mean, var, weight, bias = norm
        if mean is None:
            flat = scores.reshape(-1, scores.shape[2])
            mean, var = flat.mean(axis=0), flat.var(axis=0)
        scores = (scores - mean) / np.sqrt(var + 1e-5) * weight + bias
    pooled = np.zeros((batch, width, kept))
    for b in range(batch):
        for n in range(count):
            if mask is not None and not mask[b, n]:
                continue
            share = np.exp(scores[b, n]) / np.exp(scores[b, n]).sum()
            for c in range(kept):  # the ghosts beyond are dropped
                pooled[b, :, c] += share[c] * (tokens[b, n] - clusters2[0, :, c])
    pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    flat = pooled.reshape(batch, width * kept)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def make(width, clusters, ghosts=0, *, norm=True, seed=0):
    torch.manual_seed(seed)
    pooling = NetVLAD(width, clusters, ghosts, norm).double()
    if norm:
        for value in (pooling.batch_norm.weight, pooling.batch_norm.running_var):
            torch.nn.init.uniform_(value, 0.5, 2.0)
        for value in (pooling.batch_norm.bias, pooling.batch_norm.running_mean):
            torch.nn.init.normal_(value)
    return pooling


def arrays_of(pooling):
    return pooling.clusters.detach().numpy(), pooling.clusters2.detach().numpy()


def test_two_tokens_by_hand():
    pooling = NetVLAD(2, 2, add_batch_norm=False)
    with torch.no_grad():
        pooling.clusters.zero_()  # both clusters get half of each token
        pooling.clusters2.copy_(torch.tensor([[[0.5, -0.5], [-0.5, 0.5]]]))
    pooled = pooling(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    # Both draw (1/2, 1/2) with a total share of 1; the residuals are (0, 1) and (1, 0).
    assert pooled.tolist()[0] == pytest.approx([0, 0.5**0.5, 0.5**0.5, 0])


def test_a_ghost_takes_its_share_and_is_dropped():
    pooling = NetVLAD(1, 1, 1, add_batch_norm=False)
    with torch.no_grad():
        pooling.clusters.copy_(torch.tensor([[0.0, 0.0]]))
        pooling.clusters2.fill_(2.0)
    shares = pooling(torch.tensor([[[1.0], [5.0]]]))
    assert shares.tolist() == [[1.0]]  # (1-2)/2 + (5-2)/2 = 1, unit length
    with torch.no_grad():
        pooling.clusters2.fill_(4.0)
    assert pooling(torch.tensor([[[1.0], [5.0]]])).tolist() == [[-1.0]]


@pytest.mark.parametrize("ghosts", [0, 1, 3])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_equals_a_loop(ghosts, norm, training):
    pooling = make(5, 3, ghosts, norm=norm).train(training)
    tokens = torch.randn(4, 6, 5, dtype=torch.float64)
    tokens[1, 3:] = 0  # padding takes part
    given = None
    if norm:
        layer = pooling.batch_norm
        moments = (None, None) if training else (layer.running_mean, layer.running_var)
        given = [
            None if v is None else v.detach().numpy() for v in (*moments, layer.weight, layer.bias)
        ]
    expected = loop_net_vlad(tokens.numpy(), *arrays_of(pooling), norm=given)
    np.testing.assert_allclose(pooling(tokens).detach().numpy(), expected, atol=1e-12)


def test_a_mask_leaves_tokens_out():
    pooling = make(4, 3, norm=False).eval()
    tokens = torch.randn(3, 5, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1]])
    expected = loop_net_vlad(tokens.numpy(), *arrays_of(pooling), mask=mask.numpy())
    np.testing.assert_allclose(pooling(tokens, mask).detach().numpy(), expected, atol=1e-12)
    shorter = pooling(tokens[:1, :2])
    torch.testing.assert_close(pooling(tokens, mask)[:1], shorter)


def test_unit_length_whatever_the_order_of_tokens():
    pooling = make(6, 4, 1).train()
    tokens = torch.randn(5, 7, 6, dtype=torch.float64)
    pooled = pooling(tokens)
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(pooling(tokens[:, torch.randperm(7)]), pooled)
    order = torch.randperm(5)
    torch.testing.assert_close(pooling(tokens[order]), pooled[order])


def test_gradients_by_finite_differences():
    pooling = make(3, 2, 1).train()
    tokens = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *_: pooling(x), (tokens, *pooling.parameters()), atol=1e-6
    )


def test_without_tokens_gradient_the_rest_is_the_same():
    pooling = make(3, 2, 1).train()
    tokens = torch.randn(3, 4, 3, dtype=torch.float64)
    gradients = []
    for wanted in (False, True):
        pooling.zero_grad()
        (pooling(tokens.clone().requires_grad_(wanted)) ** 3).sum().backward()
        gradients.append([p.grad.clone() for p in pooling.parameters()])
    torch.testing.assert_close(*gradients)


def test_zero_tokens_of_a_missing_clip_have_finite_gradients():
    pooling = NetVLAD(4, 3).train()
    tokens = torch.zeros(3, 5, 4)
    tokens[0] = torch.randn(5, 4)
    (pooling(tokens) ** 3).sum().backward()
    assert all(p.grad.isfinite().all() for p in pooling.parameters())


@pytest.mark.parametrize("name", ["netvlad_ghost1", "netvlad_nobn", "netvlad_text_like"])
@pytest.mark.parametrize("run", ["train", "eval"])
def test_repeats_the_published_numbers(name, run):
    case, arrays = load_case(name)
    pooling = NetVLAD(
        case["feature_size"], case["cluster_size"], case["ghost_clusters"], case["add_batch_norm"]
    )
    known = pooling.state_dict()
    pooling.load_state_dict(
        {k: torch.from_numpy(np.array(arrays[f"sd/{k}"])) for k in known}, strict=True
    )
    pooling.train(run == "train")
    tokens = torch.from_numpy(arrays["in/x"]).requires_grad_()
    pooled = pooling(tokens)
    np.testing.assert_allclose(pooled.detach().numpy(), arrays[f"{run}/out/y"], atol=1e-5)
    (pooled * torch.from_numpy(arrays["in/upstream_grad"])).sum().backward()
    for key, value in {"x": tokens, **dict(pooling.named_parameters())}.items():
        recorded = arrays[f"{run}/grad/{key}"]
        allowed = max(1e-4 * np.abs(recorded).max(), 1e-6)
        np.testing.assert_allclose(value.grad.numpy(), recorded, rtol=0, atol=allowed)
    for key, value in pooling.named_buffers():
        if f"{run}/buf/{key}" in arrays:
            np.testing.assert_allclose(value.numpy(), arrays[f"{run}/buf/{key}"], atol=1e-5)
