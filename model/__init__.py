"""The models of the paper: pooling, gating, the two families of experts, losses and metrics."""

from model.build import MODELS, build_model, count_parameters
from model.retrieval_model import PreparedModel, RetrievalModel, Rows

__all__ = ["MODELS", "PreparedModel", "RetrievalModel", "Rows", "build_model", "count_parameters"]
