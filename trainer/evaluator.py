"""The one evaluator: embed clips once, captions in chunks, rank everything."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from model import RetrievalModel, Rows
from model.device_ranks import ranks_on_device
from model.metric import summarise, t2v_ranks, v2t_ranks
from trainer.distributed import ALONE, Processes, gather_rows
from utils.batches import EvaluationData, Features, Frames
from utils.errors import DataError

CLIPS_AT_ONCE = 1024
TEXTS_AT_ONCE = 256
PASSES = 2  # arrays of all scores that a GPU has to have room for: one, and ranking it in blocks
IN_MEMORY = 4 << 30
"""Bytes of similarities that are kept in memory; more are kept in a temporary file."""
CHECKED_AT_ONCE = 1 << 24  # scores


@dataclass(frozen=True)
class Evaluation:
    """Similarities (Q, V) with Q = V*K, masks (V, K), and the metrics of both directions.

    weights: those that captions give to experts, by name (Q,), where the model has any.
    """

    similarities: np.ndarray
    query_masks: np.ndarray
    metrics: dict[str, dict[str, float]]
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def existing(self) -> np.ndarray:
        """The similarities of the captions that exist, float32 (n_captions, V)."""
        return self.similarities[self.query_masks.reshape(-1).astype(bool)].astype(np.float32)


def evaluate(
    model: RetrievalModel,
    data: EvaluationData,
    *,
    device: torch.device,
    only: Sequence[str] | None = None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Score a split; `only` names the clips that count as queries, all stay candidates.

    Several processes embed a share of the clips each and then all score the whole split.

    Raises DataError naming a caption and a clip whose similarity is not a number, and when the
    split has more clips than data.
    """
    held = {len(data.text), len(data.query_masks), *map(len, data.available.values())}
    if held != {len(data.clips)}:
        raise DataError(f"the split lists {len(data.clips)} clips, the data is of {sorted(held)}")
    sims, weights = _scored(model, data, device=device, processes=processes)
    return rank(sims, data, only, weights)


def rank(
    sims: torch.Tensor,
    data: EvaluationData,
    only: Sequence[str] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
) -> Evaluation:
    """Rank similarities (V*K, V) or (V, V) of a split; errors as in `evaluate`."""
    masks = data.query_masks.cpu().numpy()
    if len(sims) == len(data.clips):  # captions were averaged into one query a clip
        masks = masks.max(axis=1, keepdims=True)
    _refuse_not_finite(sims, data.clips)
    chosen = _chosen(data.clips, only)
    asked = masks.astype(bool) & chosen[:, None]
    of_captions, of_clips = _ranks(sims, masks, asked)
    return Evaluation(
        sims.cpu().numpy(),
        masks,
        {"t2v_metrics": summarise(of_captions), "v2t_metrics": summarise(of_clips[chosen])},
        dict(weights or {}),
    )


def _refuse_not_finite(sims: torch.Tensor, clips: Sequence[str]) -> None:
    """Raise DataError naming the first caption and clip whose similarity is not finite."""
    rows = max(1, CHECKED_AT_ONCE // sims.shape[1])
    for start in range(0, len(sims), rows):
        finite = torch.isfinite(sims[start : start + rows])
        if finite.all():
            continue
        row, clip = (~finite).nonzero()[0].tolist()
        query = start + row
        owner = clips[query // (len(sims) // len(clips))]
        raise DataError(
            f"the similarity of a caption of clip {owner!r} and clip {clips[clip]!r} is "
            f"{sims[query, clip].item()}; check the features of both clips and the weights"
        )


def _ranks(
    sims: torch.Tensor, masks: np.ndarray, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rank captions that are asked for among all clips, all clips among all existing captions.

    sims (Q, V), masks and asked (V, K) -> rank0 of the captions asked for, rank0 (V,) of clips.
    """
    if sims.device.type == "cpu":
        numbers = sims.numpy()
        return t2v_ranks(numbers, asked), v2t_ranks(numbers, masks)
    exists = torch.from_numpy(masks.reshape(-1).astype(bool)).to(sims.device)
    of_captions, of_clips = ranks_on_device(sims, exists)
    return of_captions[asked.reshape(-1)], of_clips


@torch.inference_mode()
def _scored(
    model: RetrievalModel, data: EvaluationData, *, device: torch.device, processes: Processes
) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Return the similarities, and the weights of the experts (V*K,) or (V,).

    Each clip and each caption is embedded once, with the model in evaluation mode.
    """
    was_training = model.training
    model.eval()
    try:
        own = _encode_clips(model, data, device, processes.share(len(data.clips)))
        clips = gather_rows(own, processes.share_sizes(len(data.clips)))
        every = torch.empty(0)
        weights: dict[str, list[torch.Tensor]] = {}
        for start in range(0, len(data.text), TEXTS_AT_ONCE):
            words = data.text[start : start + TEXTS_AT_ONCE].to(device)
            captions = model.encode_captions(words)
            sims = model.merge_captions(model.score(captions, clips), words.shape[1]).float()
            per_text = len(sims) // len(words)
            if not start:
                every = _room_for(per_text * len(data.text), len(data.text), device)
            every[per_text * start : per_text * start + len(sims)] = sims
            for name, weight in model.expert_weights(captions).items():
                merged = model.merge_captions(weight[:, None], words.shape[1])[:, 0]
                weights.setdefault(name, []).append(merged.float().cpu())
        return every, {name: torch.cat(of).numpy() for name, of in weights.items()}
    finally:
        model.train(was_training)


def _room_for(queries: int, clips: int, device: torch.device) -> torch.Tensor:
    """Return similarities (Q, V) to be written: on a GPU with room, in memory, or in a file.

    Raises DataError when there is no room for the file.
    """
    size = torch.float32.itemsize * queries * clips
    if device.type == "cuda" and PASSES * size <= torch.cuda.mem_get_info(device)[0]:
        return torch.empty(queries, clips, device=device)
    if size <= IN_MEMORY:
        return torch.empty(queries, clips)
    try:
        with tempfile.NamedTemporaryFile(
            prefix="similarities-"
        ) as file:  # mapped, it needs no name
            os.posix_fallocate(file.fileno(), 0, size)
            mapped = torch.from_file(file.name, shared=True, size=queries * clips)
    except OSError as error:
        raise DataError(
            f"{size / 1e9:.1f} GB of similarities do not fit into {tempfile.gettempdir()} "
            f"({error.strerror}); set TMPDIR to a folder with room"
        ) from error
    return mapped.view(queries, clips)


def _encode_clips(
    model: RetrievalModel, data: EvaluationData, device: torch.device, share: slice
) -> Rows:
    """Encode every clip of a share once, in chunks."""
    chunks = []
    for start in range(share.start, max(share.stop, share.start + 1), CLIPS_AT_ONCE):
        rows = slice(start, min(start + CLIPS_AT_ONCE, share.stop))
        experts = {name: _part(features, rows, device) for name, features in data.experts.items()}
        available = {name: there[rows].to(device) for name, there in data.available.items()}
        chunks.append(model.encode_clips(experts, available))
    return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))


def _part(features: Features, rows: slice, device: torch.device) -> Features:
    """Return the rows of an expert on a device."""
    if isinstance(features, torch.Tensor):
        return features[rows].to(device)
    return Frames(*(one[rows].to(device) for one in features))


def _chosen(clips: Sequence[str], only: Sequence[str] | None) -> np.ndarray:
    """Mark the clips that count as queries, (V,) of bool."""
    wanted = set(clips if only is None else only)
    if unknown := sorted(wanted.difference(clips)):
        raise DataError(
            f"{len(unknown)} of the {len(wanted)} listed clips are not in the evaluated split, "
            f"the first is {unknown[0]!r}; list clips of the test split, one a line"
        )
    return np.array([clip in wanted for clip in clips])
