"""Checkpoints: written whole, read safely, in one form for our own runs and released files."""

import copy
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model.build import RetrievalModel
from utils.errors import CheckpointError
from utils.files import LEFTOVER_SUFFIX, atomic_writer
from utils.unpickle import Opaque, read_torch_checkpoint

FORMAT = "audio-retrieval 1"
ARCHITECTURE = "CENet"
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, ours or a released one.

    `state_dict` has published names. `optimizer` is a torch optimiser state whose index i means
    the i-th parameter in the order of `state_dict`, buffers skipped; None when the file has none.
    `config` is the merged configuration as plain types, None where it was pickled as an object
    (released files: read the config.json beside). `progress` is what resuming needs besides
    (see trainer/loop.py), None in files that only hold weights.
    """

    path: Path
    epoch: int
    config: dict[str, Any] | None
    state_dict: dict[str, torch.Tensor]
    optimizer: dict[str, Any] | None = None
    monitor_best: float | None = None
    progress: dict[str, Any] | None = field(default=None, repr=False)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint; nothing that a file holds is ever executed.

    Raises CheckpointError (missing, damaged, not a checkpoint) or UnsafeFileError.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; expected a checkpoint, such as trained_model.pth"
        )
    content = read_torch_checkpoint(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path} holds no state_dict; it is not a checkpoint of a model")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: {key!r} of its state_dict is no named tensor")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: the weights {key!r} hold NaN or infinite values")
    epoch = content.get("epoch", 0)
    if not isinstance(epoch, int) or epoch < 0:
        raise CheckpointError(f"{path}: its epoch is {epoch!r}; expected a whole number")
    best = content.get("monitor_best")
    optimizer = content.get("optimizer")
    config = content.get("config")
    progress = content.get("progress") if content.get("format") == FORMAT else None
    return Checkpoint(
        path=path,
        epoch=epoch,
        config=config if isinstance(config, dict) else None,
        state_dict=dict(state),
        optimizer=optimizer if isinstance(optimizer, dict) else None,
        monitor_best=float(best) if isinstance(best, int | float) else None,
        progress=progress if isinstance(progress, dict) else None,
    )


@dataclass(frozen=True)
class Snapshot:
    """What one of our checkpoints holds: tensors and plain types."""

    epoch: int
    config: dict[str, Any]
    state_dict: dict[str, torch.Tensor]
    optimizer: dict[str, Any] | None
    monitor_best: float | None
    progress: dict[str, Any] | None

    def copied(self) -> "Snapshot":
        """Return the same with tensors of its own, to be written later."""
        return copy.deepcopy(self)

    def write(self, path: Path, *, keep_previous: bool = False) -> None:
        """Write the checkpoint; it appears whole or not at all.

        With `keep_previous` the file that had this name stays as `<stem>.previous.pth`.
        """
        with atomic_writer(path) as file:
            try:
                torch.save({"format": FORMAT, "arch": ARCHITECTURE, **vars(self)}, file)
            except RuntimeError as error:  # what torch makes of a full disk
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            if keep_previous:
                _keep_previous(path)


def share_file(source: Path, path: Path, *, keep_previous: bool = False) -> None:
    """Give a checkpoint a second name, replacing what had that name; nothing is ever half there.

    Checkpoints are replaced, never changed, so two names can share one file.
    """
    if keep_previous:
        _keep_previous(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}-link{LEFTOVER_SUFFIX}")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
        os.replace(beside, path)  # noqa: PTH105  the atomic one
    except OSError:  # a file system without links
        beside.unlink(missing_ok=True)
        with atomic_writer(path) as file, source.open("rb") as content:
            shutil.copyfileobj(content, file)


def previous_of(path: Path) -> Path:
    """Return where `keep_previous` keeps the file before."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _keep_previous(path: Path) -> None:
    if path.exists():
        share_file(path, previous_of(path))


def restore_optimizer(
    optimizer: torch.optim.Optimizer, model: RetrievalModel, checkpoint: Checkpoint
) -> None:
    """Load a checkpoint's optimiser state, matched by the names of its parameters.

    Raises CheckpointError when the file has none, or one that does not fit.
    """
    stored = checkpoint.optimizer
    if stored is None:
        raise CheckpointError(
            f"{checkpoint.path} holds no optimiser state; start a new run from its weights with "
            "--finetune and trainer.finetune_optimizer false"
        )
    stored_names = [key for key in checkpoint.state_dict if not key.endswith(BUFFERS)]
    names = [model.published_name(name) for name, _ in model.named_parameters()]
    try:
        groups = stored["param_groups"]
        indices = [index for group in groups for index in group["params"]]
        index_of = {stored_names[index]: index for index in indices}
        order = {index_of[name]: position for position, name in enumerate(names)}
        state = {order[i]: dict(value) for i, value in stored["state"].items() if i in order}
        _check_shapes(state, list(model.parameters()), names, checkpoint.path)
        group = {**optimizer.state_dict()["param_groups"][0], **_plain(groups[0])}
        group["params"] = list(range(len(names)))
        optimizer.load_state_dict({"state": state, "param_groups": [group]})
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: its optimiser state does not fit this one ({error})"
        ) from error


def _check_shapes(
    state: Mapping[int, Mapping[str, Any]],
    parameters: list[torch.nn.Parameter],
    names: list[str],
    path: Path,
) -> None:
    """Refuse moments of another shape than their parameter."""
    for position, entries in state.items():
        expected = parameters[position].shape
        for key, value in entries.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != expected:
                raise CheckpointError(
                    f"{path}: {key} of {names[position]} is {tuple(value.shape)}, expected "
                    f"{tuple(expected)}"
                )


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's settings without what a foreign file pickled as an object."""
    return {key: value for key, value in group.items() if not isinstance(value, Opaque)}
