"""Several checkpoints scored as one: the mean of their similarities, over the same split alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from results.scoring import Scored, together
from trainer.evaluator import rank
from utils.batches import EvaluationData
from utils.errors import DataError


def scored(name, sims, *, clips=("a", "b"), exists=((1, 1), (1, 0))):
    split = EvaluationData(torch.zeros(0), {}, {}, torch.tensor(exists), list(clips))
    evaluation = rank(torch.tensor(sims), split)
    return Scored(Path(name), 3, None, 10, None, split, evaluation)


ONE = [[0.5, 0.25], [0.0, 1.0], [0.5, 0.0], [0.0, 0.0]]
OTHER = [[0.0, 0.5], [0.5, 0.0], [0.0, 1.0], [0.0, 0.0]]


def test_the_mean_is_ranked():
    both = together([scored("one", ONE), scored("other", OTHER)])
    mean = (np.array(ONE) + np.array(OTHER)) / 2
    np.testing.assert_allclose(both.evaluation.similarities, mean)
    assert both.evaluation.metrics["t2v_metrics"]["R1"] == pytest.approx(100 / 3)
    assert (both.path, both.epoch, both.parameters) == (Path("one"), 3, 20)


@pytest.mark.parametrize("other", [{"clips": ("b", "a")}, {"exists": ((1, 1), (1, 1))}])
def test_another_split_is_refused(other):
    with pytest.raises(DataError, match="one and other are evaluated on other clips"):
        together([scored("one", ONE), scored("other", OTHER, **other)])


def test_averaged_captions_are_no_match_for_single_ones():
    averaged = scored("other", [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(DataError, match="ensemble"):
        together([scored("one", ONE), averaged])
