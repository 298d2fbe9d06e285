"""Checkpoints: written whole, read safely, in one form for our own runs and released files."""

import copy
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn

from model.retrieval_model import RetrievalModel
from trainer.optimizer import Ranger
from utils.declared import arguments_of, keys_of
from utils.errors import CheckpointError
from utils.files import LEFTOVER_SUFFIX, atomic_writer
from utils.kinds import is_finite_number, shown
from utils.problems import Problems
from utils.reading.checkpoints import Opaque, read_torch_checkpoint

FORMAT = "audio-retrieval 1"
ARCHITECTURE = "CENet"
LOSS = "loss."  # before the names of a loss's parameters, in messages
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint, ours or a released one.

    `state_dict` has published names; `loss` is the state of a loss that has parameters or
    buffers. `optimizer` is a torch optimiser state whose index i means the i-th parameter in the
    order of `state_dict`, then of `loss`, buffers skipped; None when the file has none.
    `config` is the merged configuration as plain types, None where the file has none. `progress`
    is the rest that resuming needs (see trainer/training.py), None in files that only hold weights.
    """

    path: Path
    epoch: int
    config: dict[str, Any] | None
    state_dict: dict[str, torch.Tensor]
    optimizer: dict[str, Any] | None = None
    monitor_best: float | None = None
    progress: dict[str, Any] | None = field(default=None, repr=False)
    loss: dict[str, torch.Tensor] = field(default_factory=dict)


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
    check_weights(path, "state_dict", state)
    ours = content.get("format") == FORMAT
    loss = content.get("loss", {}) if ours else {}
    if not isinstance(loss, Mapping):
        raise CheckpointError(f"{path}: its loss is {shown(loss)}; expected named tensors")
    check_weights(path, "loss", loss)
    epoch = content.get("epoch", 0)
    if not is_count(epoch):
        raise CheckpointError(f"{path}: its epoch is {shown(epoch)}; expected a whole number")
    best: Any = content.get("monitor_best")
    optimizer = content.get("optimizer")
    progress = content.get("progress") if ours else None
    if not isinstance(progress, dict | None):
        raise CheckpointError(f"{path}: its progress is {shown(progress)}; expected a dict")
    return Checkpoint(
        path=path,
        epoch=epoch,
        config=_plain_config(content.get("config")),
        state_dict=dict(state),
        loss=dict(loss),
        optimizer=optimizer if isinstance(optimizer, dict) else None,
        monitor_best=float(best) if is_finite_number(best) else None,
        progress=progress,
    )


def check_weights(path: Path, place: str, state: Mapping[Any, Any]) -> None:
    """Raise CheckpointError for an entry that is not a named tensor of finite numbers."""
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: {key!r} of its {place} is not a named tensor")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: the weights {key!r} hold NaN or infinite values")


def _plain_config(stored: object) -> dict[str, Any] | None:
    """Return the merged configuration, which released files hold inside a pickled object."""
    if isinstance(stored, Opaque) and isinstance(stored.state, dict):
        stored = stored.state.get("_config")
    return stored if isinstance(stored, dict) else None


def load_weights(
    model: RetrievalModel, checkpoint: Checkpoint, config_file: str = "the configuration"
) -> None:
    """Load a checkpoint's weights into the model that `config_file` describes.

    Raises CheckpointError naming both files when they are of different architectures.
    """
    try:
        model.load_published(checkpoint.state_dict)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path} does not fit {config_file}: {error}") from error


def load_loss(loss: nn.Module, checkpoint: Checkpoint) -> None:
    """Load the state of a loss; most have none. Raises CheckpointError for another loss's."""
    own = loss.state_dict()
    found = {key: tuple(value.shape) for key, value in checkpoint.loss.items()}
    expected = {key: tuple(value.shape) for key, value in own.items()}
    if found != expected:
        raise CheckpointError(
            f"{checkpoint.path}: of the loss it holds {found or 'nothing'}, "
            f"{type(loss).__name__} has {expected or 'nothing'}; continue with the loss it was "
            "trained with, or start a new run from its weights with --finetune"
        )
    loss.load_state_dict(checkpoint.loss)


@dataclass(frozen=True)
class Snapshot:
    """The content of one of our checkpoints: tensors and plain types."""

    epoch: int
    config: dict[str, Any]
    state_dict: dict[str, torch.Tensor]
    optimizer: dict[str, Any] | None
    monitor_best: float | None
    progress: dict[str, Any] | None
    loss: dict[str, torch.Tensor] = field(default_factory=dict)

    def copied(self) -> "Snapshot":
        """Return the same with tensors of its own, to be written later."""
        return copy.deepcopy(self)

    def write(self, path: Path, *, keep_previous: bool = False) -> None:
        """Write the checkpoint; it appears whole or not at all.

        With `keep_previous` the file that had this name stays as `<stem>.previous.pth`.
        """
        content = {"format": FORMAT, "arch": ARCHITECTURE, **vars(self)}
        if not self.loss:  # as in released files
            del content["loss"]
        with atomic_writer(path) as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:  # torch's own for a full disk
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            if keep_previous:
                _keep_previous(path)


def share_file(source: Path, path: Path, *, keep_previous: bool = False) -> None:
    """Give a checkpoint a second name, replacing the file of that name at once.

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


def is_count(value: object) -> TypeGuard[int]:
    """Say whether a value of a file is a whole number from 0 up."""
    return isinstance(value, int) and is_finite_number(value) and value >= 0


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    model: RetrievalModel,
    checkpoint: Checkpoint,
    loss: nn.Module | None = None,
) -> None:
    """Load a checkpoint's optimiser state, matched by the names of its parameters.

    Raises CheckpointError when the file has none, or one that does not fit or cannot be true.
    """
    stored = checkpoint.optimizer
    if stored is None:
        raise CheckpointError(
            f"{checkpoint.path} holds no optimiser state; start a new run from its weights with "
            "--finetune and trainer.finetune_optimizer false"
        )
    loss = nn.Module() if loss is None else loss
    of_loss = dict(loss.named_parameters())
    buffers = {model.published_name(name) for name, _ in model.named_buffers()}
    stored_names = [
        *(k for k in checkpoint.state_dict if k not in buffers and not k.endswith(BUFFERS)),
        *(f"{LOSS}{key}" for key in checkpoint.loss if key in of_loss),
    ]
    names = [model.published_name(name) for name, _ in model.named_parameters()]
    names += [f"{LOSS}{name}" for name in of_loss]
    try:
        groups = stored["param_groups"]
        indices = [index for group in groups for index in group["params"]]
        if sorted(indices) != list(range(len(indices))):
            raise ValueError("its parameters are not numbered from 0 up")
        index_of = {stored_names[index]: index for index in indices}
        order = {index_of[name]: position for position, name in enumerate(names)}
        state = {order[i]: dict(value) for i, value in stored["state"].items() if i in order}
        settings = _settings(optimizer, groups[0])
        kept = _state_keys(optimizer, settings)
        parameters = [*model.parameters(), *of_loss.values()]
        for position, entries in state.items():
            _check_state(names[position], entries, kept, parameters[position])
        group = {**optimizer.state_dict()["param_groups"][0], **settings}
        optimizer.load_state_dict({"state": state, "param_groups": [group]})
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"{checkpoint.path}: its optimiser state does not fit {type(optimizer).__name__}: "
            f"{reason}; start a new run from its weights with --finetune and "
            "trainer.finetune_optimizer false"
        ) from error


def _settings(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a stored group that a configuration can set too, by its rules.

    What else a foreign file holds there is left out. Raises ValueError naming a wrong one.
    """
    settings = {key: group[key] for key in keys_of(type(optimizer))}
    problems = Problems("its settings")
    arguments_of(type(optimizer), settings, problems)
    problems.raise_if_any(ValueError)
    return settings


def _state_keys(optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]) -> set[str]:
    """Return the entries that an optimiser keeps for each parameter."""
    kept = {"step", "exp_avg", "exp_avg_sq"}
    kept |= {"slow_buffer"} if isinstance(optimizer, Ranger) else set()
    return kept | ({"max_exp_avg_sq"} if settings.get("amsgrad") else set())


def _check_state(
    name: str, entries: Mapping[str, Any], keys: set[str], parameter: torch.Tensor
) -> None:
    """Refuse a parameter's state that no training leaves, with a ValueError naming the entry."""
    if entries.keys() != keys:
        raise ValueError(f"of {name} it keeps {sorted(map(str, entries))}, expected {sorted(keys)}")
    for key, value in entries.items():
        found = _wrong_step(value) if key == "step" else _wrong_moments(key, value, parameter)
        if found:
            raise ValueError(f"{key} of {name} {found}")


def _wrong_step(value: Any) -> str | None:  # noqa: ANN401
    """Return the problem of a count of steps, which some optimisers keep in a tensor."""
    count = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
    if is_finite_number(count) and count == int(count) >= 0:
        return None
    return f"is {shown(count)}, expected a whole number from 0 up"


def _wrong_moments(key: str, value: object, parameter: torch.Tensor) -> str | None:
    """Return the problem of a tensor that goes with a parameter."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        found = f"of {value.dtype}" if isinstance(value, torch.Tensor) else shown(value)
        return f"is {found}, expected a tensor of floating-point numbers"
    if value.shape != parameter.shape:
        return f"is {tuple(value.shape)}, expected {tuple(parameter.shape)}"
    if not torch.isfinite(value).all():
        return "holds NaN or infinite values"
    return "holds negative values" if key.endswith("_sq") and (value < 0).any() else None
