"""Rectified Adam (Liu et al., 2020) and Ranger: the same with Lookahead (Zhang et al., 2019)."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.adamw import adamw

from utils.config import OptimizerConfig, SchedulerConfig

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
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        _check(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(
            params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        )

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
        """Say whether the average is long enough for the adaptive step."""
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
        settled = torch.full((), SETTLED, device=values[0].device)
        adamw(
            values,
            grads,
            means,
            squares,
            [],
            [settled] * len(values),
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr * rectified,
            weight_decay=decay / rectified,
            eps=group["eps"],
            maximize=False,
        )


class Ranger(RAdam):
    """Rectified Adam whose parameters return half-way to their slow copies every k steps."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        alpha: float = 0.5,
        k: int = 6,
        N_sma_threshhold: float = 5,  # noqa: N803  the published spelling
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; expected a share between 0 and 1")
        if k < 1:
            raise ValueError(f"k is {k}; expected a number of steps, 1 or more")
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        lookahead = {"alpha": alpha, "k": k, "N_sma_threshhold": N_sma_threshhold}
        self.defaults.update(lookahead)
        for group in self.param_groups:
            for name, value in lookahead.items():
                group.setdefault(name, value)

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


def _check(*, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    if lr < 0 or eps < 0 or weight_decay < 0:
        raise ValueError(
            f"lr {lr}, eps {eps} and weight_decay {weight_decay} were given; none may be negative"
        )
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas are {betas}; expected two numbers from 0 up to, not including, 1")


OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "Ranger": Ranger,
    "RAdam": RAdam,
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
}


def build_optimizer(
    config: OptimizerConfig, parameters: Iterable[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the configured optimiser over the parameters."""
    return OPTIMIZERS[config.type](parameters, **config.args)


def build_scheduler(
    config: SchedulerConfig | None, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.StepLR | None:
    """Return the configured schedule of the learning rate, None for a constant rate."""
    if config is None:
        return None
    return torch.optim.lr_scheduler.StepLR(optimizer, config.step_size, config.gamma)
