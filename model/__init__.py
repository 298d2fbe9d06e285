"""The models of the paper: pooling, gating, the two families of experts, losses and metrics."""

from model.build import RetrievalModel, build_model, count_parameters

__all__ = ["RetrievalModel", "build_model", "count_parameters"]
