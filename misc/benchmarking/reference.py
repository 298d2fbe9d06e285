"""The opponent: the same work done the published way, clip by clip and pair by pair.

B clips, T texts, K captions, Q = T*K, N tokens, M experts, D feature width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.expert_mixture import ExpertMixture
from model.gating import ContextGate, GatedEmbeddingUnit, ReduceDim
from model.kernels.linear import Linear
from model.moee import MixtureOfEmbeddingExperts, SingleExpert
from model.net_vlad import NetVLAD

Kind = TypeVar("Kind", bound=nn.Module)

Clip = tuple[list[np.ndarray], dict[str, np.ndarray]]
"""Word vectors (N, D) of each caption, and features (N, D) or (D,) of each expert."""


def collate(
    clips: Sequence[Clip], places: Mapping[str, int | None], words: int, captions: Sequence[int]
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Make a batch clip by clip through float64 arrays; `places` of each expert's tokens."""
    text: list[np.ndarray] = []
    experts: dict[str, list[np.ndarray]] = {name: [] for name in places}
    available: dict[str, list[float]] = {name: [] for name in places}
    for (vectors, features), caption in zip(clips, captions, strict=True):
        text.append(_padded(vectors[caption], words)[None])
        for name, most in places.items():
            value = features[name]
            experts[name].append(value.astype(np.float64) if most is None else _padded(value, most))
            available[name].append(1.0)
    return (
        torch.from_numpy(np.stack(text)).float(),
        {name: torch.from_numpy(np.stack(values)).float() for name, values in experts.items()},
        {name: torch.tensor(values) for name, values in available.items()},
    )


def _padded(rows: np.ndarray, places: int) -> np.ndarray:
    padded = np.zeros((places, rows.shape[1]))
    padded[: len(rows)] = rows[:places]
    return padded


def with_plain_layers(model: nn.Module) -> ExpertMixture:
    """Return a copy whose linear layers and batch norms are torch's own."""
    if not isinstance(model, ExpertMixture):
        raise TypeError(f"{type(model).__name__} is not a model of the opponent's")
    plain = copy.deepcopy(model)
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, Linear):
                own: nn.Module = nn.Linear(child.in_features, child.out_features)
            elif isinstance(child, nn.BatchNorm1d):
                own = nn.BatchNorm1d(child.num_features)
            else:
                continue
            own.load_state_dict(child.state_dict())
            setattr(module, name, own.train(child.training))
    return plain


def similarities(
    model: ExpertMixture,
    text: Tensor,
    experts: Mapping[str, Tensor],
    available: Mapping[str, Tensor],
) -> Tensor:
    """Compare texts with clips, as ExpertMixture.forward does; `model` has plain layers."""
    words = text.flatten(0, 1)
    caption = _pool(model.text.pooling, words) if model.text.pooling else words[:, 0]
    texts = [_gated_unit(unit, caption) for unit in _each(model.text.gates, GatedEmbeddingUnit)]
    weights = torch.softmax(model.text.mixture(caption), dim=1)
    present = torch.stack([available[name] for name in model.names], dim=1)
    vectors = []
    for i, name in enumerate(model.names):
        features = experts[name].clone()
        features[present[:, i] == 0] = 0
        pooled = name in model.pooling
        vectors.append(_pool(model.pooling[name], features) if pooled else features)
    clips = _embed_clips(model.clips, vectors, present)
    shares = weights[:, None] * present[None]  # (Q, B, M)
    shares = shares / shares.sum(dim=2, keepdim=True)
    sims = torch.zeros(shares.shape[:2], device=text.device)
    for i, (one, clip) in enumerate(zip(texts, clips, strict=True)):
        sims = sims + shares[:, :, i] * (one @ clip.t())
    captions = text.shape[1]
    return sims.view(-1, captions, sims.shape[1]).mean(dim=1) if model.training else sims


def _pool(pooling: nn.Module, tokens: Tensor) -> Tensor:
    """Pool tokens (B, N, D) -> (B, D*C)."""
    if not isinstance(pooling, NetVLAD):
        raise TypeError(f"{pooling} is not a NetVLAD")
    batch, count, width = tokens.shape
    scores = pooling.batch_norm(tokens.reshape(-1, width) @ pooling.clusters)
    shares = torch.softmax(scores, dim=1)[:, : pooling.cluster_size].reshape(batch, count, -1)
    drawn = torch.matmul(shares.transpose(1, 2), tokens).transpose(1, 2)
    residuals = drawn - shares.sum(dim=1, keepdim=True) * pooling.clusters2
    return F.normalize(F.normalize(residuals, dim=1).reshape(batch, -1), dim=1)


def _gated_unit(unit: GatedEmbeddingUnit, x: Tensor) -> Tensor:
    return _gate(unit.gate, unit.fc(x))


def _gate(gate: ContextGate, x: Tensor) -> Tensor:
    return F.normalize(x * torch.sigmoid(gate.batch_norm(gate.fc(x))), dim=1)


def _each(modules: nn.Module, kind: type[Kind]) -> list[Kind]:
    """Return the modules of a list, known to be of one kind."""
    return [module for module in modules.children() if isinstance(module, kind)]


def _embed_clips(
    clips: Any,  # noqa: ANN401  the clip side of a mixture
    vectors: list[Tensor],
    present: Tensor,
) -> list[Tensor]:
    """Embed M vectors (B, D) -> M x (B, d), every pair of experts by itself."""
    if isinstance(clips, MixtureOfEmbeddingExperts):
        units = _each(clips.units, GatedEmbeddingUnit)
        return [_gated_unit(unit, x) for unit, x in zip(units, vectors, strict=True)]
    reducers, gates = _each(clips.reduce, ReduceDim), _each(clips.gates, ContextGate)
    experts = [F.normalize(r.fc(x), dim=1) for r, x in zip(reducers, vectors, strict=True)]
    if isinstance(clips, SingleExpert):
        return [_gate(gates[0], experts[0])]
    for i in range(len(experts)):
        messages, count = [], torch.zeros(len(present), 1, device=present.device)
        for j in range(len(experts)):
            if i == j and not clips.include_self:
                continue
            pair = clips.pair_network(clips.pair_input(torch.cat([experts[i], experts[j]], dim=1)))
            both = (present[:, i] * present[:, j])[:, None]
            messages.append(both * pair)
            count = count + both
        message = clips.self_network(torch.stack(messages).sum(dim=0) / (count + 1e-11))
        of_message, of_own = _each(gates[i], nn.BatchNorm1d)
        mask = torch.sigmoid(of_message(message) + of_own(gates[i].fc(experts[i])))
        experts[i] = F.normalize(experts[i] * mask, dim=1)
    return experts


def ranking_loss(sims: Tensor, margin: float) -> Tensor:
    """Return the max-margin loss of sims (B, B) over i != j, selected from 2 B^2 terms."""
    count = len(sims)
    own = sims.diagonal()[:, None].expand(count, count).reshape(-1, 1)
    own = torch.cat([own, own], dim=0)
    others = torch.cat([sims.reshape(-1, 1), sims.t().reshape(-1, 1)], dim=0)
    pairs = (1.0 - torch.eye(count, device=sims.device)).reshape(-1)
    kept = torch.nonzero(torch.cat([pairs, pairs])).flatten()
    own, others = own.index_select(0, kept), others.index_select(0, kept)
    return F.relu(margin - (own - others)).mean()


class Ranger:
    """The published optimiser, one parameter after another by plain tensor operations."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.lr, self.weight_decay = lr, weight_decay
        self.state: dict[nn.Parameter, dict[str, Any]] = {}

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Take one step."""
        beta1, beta2, eps, alpha, k = 0.95, 0.999, 1e-5, 0.5, 6
        longest = 2 / (1 - beta2) - 1
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            grad, value = parameter.grad.float(), parameter.float()
            state = self.state.setdefault(parameter, {})
            if not state:
                state["step"] = 0
                state["mean"] = torch.zeros_like(value)
                state["square"] = torch.zeros_like(value)
                state["slow"] = value.clone()
            state["step"] += 1
            t, mean, square = state["step"], state["mean"], state["square"]
            square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            mean.mul_(beta1).add_(grad, alpha=1 - beta1)
            rho = longest - 2 * t * beta2**t / (1 - beta2**t)
            value.add_(value, alpha=-self.weight_decay * self.lr)
            if rho > 5:
                size = (1 - beta2**t) * (rho - 4) / (longest - 4) * (rho - 2) / rho
                size = math.sqrt(size * longest / (longest - 2)) / (1 - beta1**t)
                value.addcdiv_(mean, square.sqrt().add_(eps), value=-size * self.lr)
            else:
                value.add_(mean, alpha=-self.lr / (1 - beta1**t))
            parameter.copy_(value)
            if t % k == 0:
                state["slow"].add_(parameter - state["slow"], alpha=alpha)
                parameter.copy_(state["slow"])


@torch.no_grad()
def evaluate(
    model: ExpertMixture,
    text: Tensor,
    experts: Mapping[str, Tensor],
    available: Mapping[str, Tensor],
) -> np.ndarray:
    """Return similarities (Q, V) of a whole split, captions and clips all at once."""
    return similarities(model, text, experts, available).cpu().numpy()


def t2v_ranks_by_sorting(sims: np.ndarray) -> np.ndarray:
    """Rank each caption's own clip: sort every row, look for the own score, average its places."""
    queries, clips = sims.shape
    distances = -sims
    own = distances[np.arange(queries), np.arange(queries) // (queries // clips)]
    ordered = np.sort(distances, axis=1)
    rows, places = np.where((ordered - own[:, None]) == 0)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    return np.add.reduceat(places, starts) / np.diff(starts, append=len(rows))


def v2t_ranks_by_sorting(sims: np.ndarray) -> np.ndarray:
    """Rank each clip's best own caption: clip by clip, sort its column."""
    queries, clips = sims.shape
    per_clip = queries // clips
    distances = -sims.T
    ranks = np.empty(clips)
    for clip in range(clips):
        best = distances[clip, clip * per_clip : (clip + 1) * per_clip].min()
        ranks[clip] = np.where(np.sort(distances[clip]) - best == 0)[0].mean()
    return ranks
