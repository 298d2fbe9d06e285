"""Rectified Adam (Liu et al., 2020) and Ranger: the same with Lookahead (Zhang et al., 2019)."""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch

from utils.declared import Part, arguments_of
from utils.kinds import Range, above, at_least
from utils.problems import Problems

Rate = Annotated[float, Range(0, 1e30, open_low=True), "learning rate"]
Betas = Annotated[
    tuple[float, float], Range(0, 1, open_high=True), "decay rates of the two moments"
]
Eps = Annotated[float, above(0), "added to the second moment's root"]
Decay = Annotated[float, at_least(0), "decoupled weight decay"]

SETTLED = 1e9  # a step count at which Adam's own bias corrections are exactly 1


class RAdam(torch.optim.Optimizer):
    """Rectified Adam with decoupled weight decay, as in the published system.

    For t = 1, 2, ... of each parameter by itself: m and v are the running means of gradient and
    squared gradient, rho_t the length of the approximated average; the adaptive step is taken
    where rho_t reaches 5, a step along m / (1 - b1^t) before. A parameter without gradient is left
    alone. Parameters of another dtype than float32 are computed in float32.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Rate = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: Eps = 1e-8,
        weight_decay: Decay = 0.0,
    ) -> None:
        self._begin(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _begin(self, params: Iterable[Any], **settings: Any) -> None:  # noqa: ANN401
        """Take parameters and settings; raise ValueError naming those outside their range."""
        problems = Problems(type(self).__name__)
        defaults = arguments_of(type(self), settings, problems)
        problems.raise_if_any(ValueError)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; return what `closure` returned, if one was given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_age: defaultdict[tuple, list[torch.Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self._state_of(parameter)
                    state["step"] = int(state["step"]) + 1
                    by_age[state["step"], parameter.device, parameter.dtype].append(parameter)
            for (age, _, dtype), parameters in by_age.items():
                if dtype == torch.float32:
                    self._update(parameters, parameters, age, group)
                else:
                    single = [parameter.float() for parameter in parameters]
                    self._update(parameters, single, age, group)
                    torch._foreach_copy_(parameters, single)
                self._after_update(parameters, age, group)
        return loss

    def _state_of(self, parameter: torch.Tensor) -> dict[str, Any]:
        """Return a parameter's state, made at its first gradient."""
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32)
        return state

    def _rectifies(self, rho: float, group: dict[str, Any]) -> bool:
        """Return whether the average is long enough for the adaptive step."""
        return rho >= 5

    def _after_update(
        self, parameters: list[torch.Tensor], age: int, group: dict[str, Any]
    ) -> None:
        """Do what follows an update of parameters that all took `age` steps: here, nothing."""

    def _update(
        self,
        owners: list[torch.Tensor],
        values: list[torch.Tensor],
        age: int,
        group: dict[str, Any],
    ) -> None:
        """Move `values`, the float32 form of the parameters `owners`, by their step `age`."""
        beta1, beta2 = group["betas"]
        lr, decay = group["lr"], group["weight_decay"]
        grads = [owner.grad.float() for owner in owners if owner.grad is not None]
        means = [self.state[owner]["exp_avg"] for owner in owners]
        squares = [self.state[owner]["exp_avg_sq"] for owner in owners]
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * age * beta2**age / (1 - beta2**age)
        if not self._rectifies(rho, group):
            torch._foreach_lerp_(means, grads, 1 - beta1)
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
            torch._foreach_mul_(values, 1 - lr * decay)
            torch._foreach_add_(values, means, alpha=-lr / (1 - beta1**age))
            return
        rectified = math.sqrt(
            (1 - beta2**age)
            * ((rho - 4) / (rho_inf - 4))
            * ((rho - 2) / rho)
            * (rho_inf / (rho_inf - 2))
        ) / (1 - beta1**age)
        # torch's fused AdamW is this very update in one pass over memory, once its own bias
        # corrections are switched off by a huge step count and the decay is freed of its rate.
        # The operator itself, since torch's function around it sorts the tensors at every call.
        torch._fused_adamw_(
            values,
            grads,
            means,
            squares,
            [],
            [_settled(values[0].device)] * len(values),
            lr=lr * rectified,
            beta1=beta1,
            beta2=beta2,
            weight_decay=decay / rectified,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


@functools.cache
def _settled(device: torch.device) -> torch.Tensor:
    """Return SETTLED as a count of steps on a device; nothing ever writes to it."""
    return torch.full((), SETTLED, device=device)


class Ranger(RAdam):
    """Rectified Adam whose parameters return half-way to their slow copies every k steps."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: Rate = 1e-3,
        alpha: Annotated[float, Range(0, 1), "share of the fast weights"] = 0.5,
        k: Annotated[int, at_least(1), "steps between two slow ones"] = 6,
        N_sma_threshhold: Annotated[  # noqa: N803  the published spelling
            float, at_least(0), "length of the average from which the step is rectified"
        ] = 5.0,
        betas: Betas = (0.95, 0.999),
        eps: Eps = 1e-5,
        weight_decay: Decay = 0.0,
    ) -> None:
        self._begin(
            params,
            lr=lr,
            alpha=alpha,
            k=k,
            N_sma_threshhold=N_sma_threshhold,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
        )

    def _state_of(self, parameter: torch.Tensor) -> dict[str, Any]:
        state = super()._state_of(parameter)
        if "slow_buffer" not in state:
            state["slow_buffer"] = parameter.detach().clone()
        return state

    def _rectifies(self, rho: float, group: dict[str, Any]) -> bool:
        return rho > group["N_sma_threshhold"]

    def _after_update(
        self, parameters: list[torch.Tensor], age: int, group: dict[str, Any]
    ) -> None:
        if age % group["k"]:
            return
        slow = [self.state[parameter]["slow_buffer"] for parameter in parameters]
        torch._foreach_lerp_(slow, parameters, group["alpha"])
        torch._foreach_copy_(parameters, slow)


class AdamSettings:
    """The settings of torch's Adam and AdamW, declared once."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: Rate = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: Eps = 1e-8,
        weight_decay: Annotated[float, at_least(0), "L2 penalty; of AdamW decoupled"] = 0.0,
        amsgrad: Annotated[bool, "keep the largest second moment"] = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)  # type: ignore[call-arg]


class Adam(AdamSettings, torch.optim.Adam):
    """torch's Adam (Kingma and Ba, 2015)."""


class AdamW(AdamSettings, torch.optim.AdamW):
    """torch's Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""


class StepLR(torch.optim.lr_scheduler.StepLR):
    """Multiply the learning rate by `gamma` after every `step_size` epochs."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        step_size: Annotated[int, at_least(1), "epochs between two changes"],
        gamma: Annotated[float, Range(0, 1, open_low=True), "factor of the rate at each"],
    ) -> None:
        super().__init__(optimizer, step_size, gamma)


class Cosine(torch.optim.lr_scheduler.LRScheduler):
    """Raise the rate over `warm_up` epochs, then let it fall to 0 by a cosine over `epochs`.

    SGDR without restarts (Loshchilov and Hutter, 2017); warm-up by Goyal et al., 2017. Epoch n
    (0, 1, ...) of the warm-up has the share (n + 1) / (warm_up + 1) of the rate.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        epochs: Annotated[int, at_least(1), "epochs until the rate is 0, those of the training"],
        warm_up: Annotated[int, at_least(0), "epochs in which it rises"] = 0,
    ) -> None:
        self.epochs = epochs
        self.warm_up = warm_up
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the rate of each group in this epoch."""
        epoch, falling = self.last_epoch, max(1, self.epochs - self.warm_up)
        if epoch < self.warm_up:
            share = (epoch + 1) / (self.warm_up + 1)
        else:
            share = (1 + math.cos(math.pi * min(1.0, (epoch - self.warm_up) / falling))) / 2
        return [float(rate) * share for rate in self.base_lrs]


OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "Ranger": Ranger,
    "RAdam": RAdam,
    "Adam": Adam,
    "AdamW": AdamW,
}
SCHEDULES: dict[str, type[torch.optim.lr_scheduler.LRScheduler]] = {
    "StepLR": StepLR,
    "Cosine": Cosine,
}


def build_optimizer(
    config: Part, parameters: Iterable[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the configured optimiser over the parameters; yours is a class and a line above."""
    return OPTIMIZERS[config.type](parameters, **config.args)


def build_scheduler(
    config: Part | None, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """Return the configured schedule of the learning rate, None for a constant rate."""
    return None if config is None else SCHEDULES[config.type](optimizer, **config.args)
