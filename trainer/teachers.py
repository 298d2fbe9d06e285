"""Teachers: trained models that a new one learns from, batch by batch."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from model import RetrievalModel
from trainer.checkpoint import config_of, load_checkpoint, load_model
from trainer.runs import every_best
from utils.config import Config
from utils.errors import UsageError

logger = logging.getLogger(__name__)

KEY = "loss.args.teachers"


def load_teachers(
    places: Sequence[str], config: Config, device: torch.device
) -> list[RetrievalModel]:
    """Load the models at these places on a device, in evaluation mode and without gradients.

    Raises UsageError for a place without checkpoints, and for a model that takes other batches
    than `config` brings: its experts have to be among those of the configuration.
    """
    teachers = []
    for path in (path for place in places for path in every_best(Path(place), f"{KEY}: ")):
        checkpoint = load_checkpoint(path)
        of_teacher = config_of(checkpoint)
        _check(path, of_teacher, config)
        teachers.append(load_model(of_teacher, checkpoint).to(device).eval().requires_grad_(False))
        logger.info("learning from %s", path)
    return teachers


def _check(path: Path, teacher: Config, config: Config) -> None:
    """Raise UsageError where a teacher reads other experts, captions or forms of them."""
    ours = {expert.name: replace(expert, flaky=True) for expert in config.experts}
    other = [e.name for e in teacher.experts if ours.get(e.name) != replace(e, flaky=True)]
    if other:
        raise UsageError(
            f"{KEY}: {path} reads experts that {config.path} does not have, or has in "
            f"another form: {', '.join(other)}; name teachers of the same features"
        )
    if (teacher.text, teacher.needs) != (config.text, config.needs):
        raise UsageError(
            f"{KEY}: {path} reads captions as {teacher.text.feature}, up to "
            f"{teacher.text.max_tokens} words, {config.path} as {config.text.feature}, up to "
            f"{config.text.max_tokens}; name teachers of the same text"
        )
