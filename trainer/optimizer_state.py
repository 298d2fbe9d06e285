"""The optimiser's state in a checkpoint, given to an optimiser by the names of its parameters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from model import RetrievalModel
from trainer.checkpoint import Checkpoint
from trainer.optimizer import Ranger
from utils.declared import arguments_of, keys_of
from utils.errors import CheckpointError
from utils.kinds import is_finite_number, shown
from utils.problems import Problems

LOSS = "loss."  # before the names of a loss's parameters, in messages
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


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
    slow = {"slow_buffer"} if isinstance(optimizer, Ranger) else set()
    largest = {"max_exp_avg_sq"} if settings.get("amsgrad") else set()
    return {"step", "exp_avg", "exp_avg_sq"} | slow | largest


def _check_state(
    name: str, entries: Mapping[str, Any], keys: set[str], parameter: torch.Tensor
) -> None:
    """Refuse a parameter's state that no training leaves, with a ValueError naming the entry."""
    if entries.keys() != keys:
        raise ValueError(f"of {name} it keeps {sorted(map(str, entries))}, expected {sorted(keys)}")
    for key, value in entries.items():
        if problem := _problem_of(key, value, parameter):
            raise ValueError(f"{key} of {name} {problem}")


def _problem_of(key: str, value: Any, parameter: torch.Tensor) -> str | None:  # noqa: ANN401
    """Return the problem of an entry of a parameter's state, None for one of a training."""
    if key == "step":  # some optimisers keep it in a tensor
        count = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
        fits = is_finite_number(count) and count == int(count) >= 0
        return None if fits else f"is {shown(count)}, expected a whole number from 0 up"
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        found = f"of {value.dtype}" if isinstance(value, torch.Tensor) else shown(value)
        return f"is {found}, expected a tensor of floating-point numbers"
    if value.shape != parameter.shape:
        return f"is {tuple(value.shape)}, expected {tuple(parameter.shape)}"
    if not torch.isfinite(value).all():
        return "holds NaN or infinite values"
    return "holds negative values" if key.endswith("_sq") and (value < 0).any() else None
