"""Checkpoints: written whole, read safely, in one form for our own runs and released files."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn

from model import RetrievalModel, build_model
from utils.config import Config, config_from_dict, load_config
from utils.errors import CheckpointError
from utils.files import LEFTOVER_SUFFIX, atomic_writer
from utils.kinds import is_finite_number, is_whole, shown
from utils.reading.checkpoints import Opaque, read_torch_checkpoint

FORMAT = "audio-retrieval 1"
ARCHITECTURE = "CENet"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint, ours or a released one.

    `state_dict` has published names; `loss` is the state of a loss that has parameters or
    buffers. `optimizer` is a torch optimiser state whose index i means the i-th parameter in the
    order of `state_dict`, then of `loss`, buffers skipped; None when the file has none.
    `config` is the merged configuration as plain types, None where the file has none. `progress`
    is the rest that resuming needs (see trainer/training.py), None in files that only hold weights.
    """

    epoch: int
    config: dict[str, Any] | None
    state_dict: dict[str, torch.Tensor]
    optimizer: dict[str, Any] | None = None
    monitor_best: float | None = None
    progress: dict[str, Any] | None = field(default=None, repr=False)
    loss: dict[str, torch.Tensor] = field(default_factory=dict)
    path: Path = Path()
    """Of the file that it was read from."""

    def write(self, path: Path, *, keep_previous: bool = False) -> None:
        """Write the checkpoint; it appears whole or not at all.

        With `keep_previous` the file that had this name stays as `<stem>.previous.pth`.
        """
        content = {"format": FORMAT, "arch": ARCHITECTURE, **vars(self)}
        del content["path"]
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
    form = content.get("format")
    ours = form == FORMAT
    if not ours and isinstance(form, str) and form.split(" ")[0] == FORMAT.split(" ")[0]:
        raise CheckpointError(
            f"{path} was written by another version of this project: found {shown(form)}, expected "
            f"{FORMAT!r}; use it with that version"
        )
    loss = content.get("loss", {}) if ours else {}
    epoch = content.get("epoch", 0)
    progress = content.get("progress") if ours else None
    for key, value, fits, expected in (
        ("loss", loss, isinstance(loss, Mapping), "named tensors"),
        ("epoch", epoch, is_count(epoch), "a whole number"),
        ("progress", progress, isinstance(progress, dict | None), "a dict"),
    ):
        if not fits:
            raise CheckpointError(f"{path}: its {key} is {shown(value)}; expected {expected}")
    check_weights(path, "loss", loss)
    best: Any = content.get("monitor_best")
    optimizer = content.get("optimizer")
    return Checkpoint(
        epoch=epoch,
        config=_plain_config(content.get("config")),
        state_dict=dict(state),
        loss=dict(loss),
        optimizer=optimizer if isinstance(optimizer, dict) else None,
        monitor_best=float(best) if is_finite_number(best) else None,
        progress=progress,
        path=path,
    )


def check_weights(path: Path, place: str, state: Mapping[Any, Any]) -> None:
    """Raise CheckpointError for an entry that is not a named tensor of finite numbers."""
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: {shown(key)} of its {place} is not a named tensor")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: the weights {shown(key)} hold NaN or infinite values")


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


def config_of(
    checkpoint: Checkpoint,
    config_file: str | Path | None = None,
    changes: Mapping[str, object] | None = None,
    *,
    data_dir: str | Path | None = None,
) -> Config:
    """Load the configuration of a checkpoint: `config_file`, or config.json beside it, or its own.

    `changes` and `data_dir` as in `load_config`, which also says what is raised.
    """
    beside = checkpoint.path.parent / "config.json"
    if checkpoint.config and config_file is None and not beside.is_file():
        return config_from_dict(checkpoint.config, beside, changes, data_dir=data_dir)
    return load_config(config_file or beside, changes, data_dir=data_dir)


def load_model(config: Config, checkpoint: Checkpoint) -> RetrievalModel:
    """Build the configured model with a checkpoint's weights; raises as `load_weights` does."""
    model = build_model(config, released=checkpoint.state_dict)
    load_weights(model, checkpoint, config.path)
    return model


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
    """Return whether a value of a file is a whole number from 0 up."""
    return is_whole(value) and value >= 0
