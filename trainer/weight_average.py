"""The average of a model's weights over the steps of its training."""

import copy

import torch

from model import RetrievalModel


class WeightAverage:
    """Average the weights w_t after each step t: sum_t decay^(T-t) w_t / sum_t decay^(T-t) (EMA).

    Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; as teachers
    Tarvainen and Valpola, 2017. Dividing by the sum leaves no trace of the weights at the start, as
    Adam corrects its moments. Buffers of numbers, such as running statistics, are averaged alike;
    counts are those of the last step.
    """

    def __init__(self, model: RetrievalModel, decay: float) -> None:
        self.model = copy.deepcopy(model)
        """A model of its own with the averaged weights."""
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def follow(self, model: RetrievalModel) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        share = (1 - self.decay) / (1 - self.decay**self.steps)
        mine, theirs = self.model.state_dict(), model.state_dict()
        numbers = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [mine[name] for name in numbers], [theirs[name] for name in numbers], share
        )
        for name in mine.keys() - numbers:
            mine[name].copy_(theirs[name])
