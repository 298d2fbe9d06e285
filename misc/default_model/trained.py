"""Collaborative Experts of the same examples, for the comparison with the linear alignment."""

from __future__ import annotations

import numpy as np
import torch

from misc.default_model.measure import Examples
from model import RetrievalModel, build_model
from model.loss import build_loss
from trainer.optimizer import build_optimizer, build_scheduler
from trainer.ranking_step import build_step
from utils.config import Config
from utils.seeds import seed_everything


def fit_trained(config: Config, seed: int, examples: Examples) -> RetrievalModel:
    """Train the configured model for all its epochs; the last one counts."""
    seed_everything(seed)
    model, loss = build_model(config), build_loss(config.loss)
    optimizer = build_optimizer(config.optimizer, [*model.parameters(), *loss.parameters()])
    scheduler = build_scheduler(config.lr_scheduler, optimizer)
    step = build_step(config, model, loss)
    draw = np.random.default_rng(seed)
    for _ in range(config.trainer.epochs):
        model.train()
        order = draw.permutation(len(examples.phrases))
        for batch in examples.batches(config.experts, order):
            if len(batch[-1]) > 1:
                optimizer.zero_grad(set_to_none=True)
                value = step(*batch)
                value.backward()
                optimizer.step()
        if scheduler is not None:
            scheduler.step()
    if not torch.isfinite(value):
        raise ArithmeticError("the loss is not finite")
    return model.eval()
