"""Collaborative Experts of the same examples, for the comparison with the linear alignment."""

from __future__ import annotations

import numpy as np
import torch

from misc.default_model.measure import Examples
from model import RetrievalModel
from trainer.cuda_graphs import plain_gradients
from trainer.job import build_training
from utils.config import Config


def fit_trained(config: Config, seed: int, examples: Examples) -> RetrievalModel:
    """Train the configured model for all its epochs; the last one counts."""
    training = build_training(config, seed, torch.device("cpu"))
    draw = np.random.default_rng(seed)
    for _ in range(config.trainer.epochs):
        training.model.train()
        order = draw.permutation(len(examples.phrases))
        for batch in examples.batches(config.experts, order):
            if len(batch[-1]) > 1:
                value = plain_gradients(training.step, training.optimizer, batch)
                training.optimizer.step()
        if training.scheduler is not None:
            training.scheduler.step()
    if not torch.isfinite(value):
        raise ArithmeticError("the loss is not finite")
    return training.model.eval()
