"""The parts that change while a model is trained: saved together, restored together."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model import RetrievalModel
from trainer.checkpoint import (
    Checkpoint,
    check_weights,
    is_count,
    load_checkpoint,
    load_loss,
    load_weights,
)
from trainer.keeper import BEST
from trainer.optimizer_state import restore_optimizer
from trainer.progress import Progress
from trainer.weight_average import WeightAverage
from utils.declared import read_values
from utils.errors import CheckpointError, DataError
from utils.kinds import shown
from utils.seeds import random_state, restore_random_state

logger = logging.getLogger(__name__)

DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)
"""The errors of using a wrong value of a file; torch refuses generators' states as RuntimeError."""


@dataclass
class Training:
    """Everything that changes while a model is trained."""

    model: RetrievalModel
    loss: nn.Module
    step: nn.Module
    """Maps a batch to the value of the loss: the model with its loss, shared or compiled."""
    optimizer: torch.optim.Optimizer
    """Over the parameters of the model, then those of the loss."""
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    average: WeightAverage | None = None
    """Of the weights, where they are averaged over steps."""
    progress: Progress = field(default_factory=Progress)

    @property
    def evaluated(self) -> RetrievalModel:
        """The model that is evaluated and saved: the average, once a step was taken."""
        return self.average.model if self.average and self.average.steps else self.model

    def take_step(self) -> None:
        """Let the optimiser use the gradients; the average follows."""
        self.optimizer.step()
        if self.average is not None:
            self.average.follow(self.model)

    def snapshot(self, config: Mapping[str, Any], *, with_optimizer: bool = True) -> Checkpoint:
        """Return the content of a checkpoint of this moment; tensors are shared, not copied."""
        beside = {}
        if with_optimizer and self.average is not None:  # what continues it beside its weights
            trained = self.model.published_state_dict()
            beside = {"average": {"steps": self.average.steps, "trained": trained}}
        return Checkpoint(
            epoch=self.progress.epoch,
            config=dict(config),
            state_dict=self.evaluated.published_state_dict(),
            loss=dict(self.loss.state_dict()),
            optimizer=self.optimizer.state_dict() if with_optimizer else None,
            monitor_best=self.progress.best,
            progress={
                **asdict(self.progress),
                "scheduler": self.scheduler.state_dict() if self.scheduler else None,
                "random": random_state(),
                **beside,
            },
        )

    def restore(self, checkpoint: Checkpoint, config_file: str = "the configuration") -> None:
        """Continue from a checkpoint: exactly from one of ours, as well as can be from others.

        Raises CheckpointError when weights or optimiser belong to another architecture than that
        of `config_file`, and for values that no training leaves.
        """
        load_weights(self.model, checkpoint, config_file)
        load_loss(self.loss, checkpoint)
        restore_optimizer(self.optimizer, self.model, checkpoint, self.loss)
        epoch, stored = checkpoint.epoch, checkpoint.progress
        if self.scheduler is not None:  # a function of the epoch and of compared settings
            rates = [group["lr"] for group in self.optimizer.param_groups]
            place = {"last_epoch": epoch, "_step_count": epoch + 1, "_last_lr": rates}
            self.scheduler.load_state_dict(self.scheduler.state_dict() | place)
        if stored is None:
            self.progress = Progress(epoch, best=checkpoint.monitor_best, best_epoch=epoch)
            return
        try:
            own = {name: copy.deepcopy(stored[name]) for name in asdict(Progress())}
            self.progress = read_values(Progress, own, "progress", error=ValueError)
            if self.progress.epoch != epoch:
                raise ValueError(f"epoch is {self.progress.epoch} in one place, {epoch} in another")
            if self.average is not None:
                self._restore_average(self.average, checkpoint, stored["average"])
            restore_random_state(stored["random"])
        except DAMAGE as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise CheckpointError(
                f"{checkpoint.path}: its training state is damaged or incomplete: {reason}; "
                "continue from another checkpoint, or start a new run from its weights with "
                "--finetune"
            ) from error

    def _restore_average(
        self, average: WeightAverage, checkpoint: Checkpoint, stored: Mapping[str, Any]
    ) -> None:
        """Load the average and the weights beside it; raises ValueError for what is neither."""
        steps, trained = stored["steps"], stored["trained"]
        if not is_count(steps):
            raise ValueError(f"average.steps is {shown(steps)}, expected a whole number from 0 up")
        check_weights(checkpoint.path, "average", trained)
        load_weights(average.model, checkpoint)
        load_weights(self.model, replace(checkpoint, state_dict=trained))
        average.steps = steps

    def forget_lost_best(self, restored: Path, folder: Path) -> None:
        """Let the next validated epoch be the best so far, if the file of the best one is lost.

        That is: trained_model.pth is not there, damaged, or not of the epoch this state calls the
        best. The last may be because the state is older than it: then it will come to be again.
        """
        best = folder / BEST
        if restored == best or self.progress.best_epoch == 0:
            return
        try:
            found = load_checkpoint(best).epoch
        except (CheckpointError, DataError) as error:
            logger.warning("%s", error)
            found = None
        if found != self.progress.best_epoch:
            self.progress.best = None
