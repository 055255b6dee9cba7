"""Optimisers: which parameters are decayed, what steps them, and how new coordinates begin after a growth.

All of them share one form: groups whose "lr" an engine sets at every step (`set_rate`), and a state for each parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ligo.core.errors import require
from ligo.training.config import TrainConfig
from ligo.training.layers import layers_of

Groups = list[dict[str, Any]]


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """What `train.optimizer` names, with weight decay on matrices only.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    lr, betas = config.lr, (config.beta1, config.beta2)
    if config.optimizer == "muon":
        hidden = [p for p in layers_of(module, "train.optimizer=muon").parameters() if p.ndim == 2]
        rest = _groups(module, config, without=hidden)
        muon = {"params": hidden, "weight_decay": config.weight_decay, "lr_factor": config.muon_lr_factor}
        return MuonWithAdamW([muon], rest, lr=lr, betas=betas)
    groups = _groups(module, config)
    if config.optimizer in _BITSANDBYTES:
        bitsandbytes = require("bitsandbytes", extra="peft", why=f"train.optimizer={config.optimizer}")
        made: torch.optim.Optimizer = getattr(bitsandbytes.optim, _BITSANDBYTES[config.optimizer])(
            groups, lr=lr, betas=betas
        )
        return made
    if config.rewarm_steps:
        return RewarmingAdamW(groups, rewarm_steps=config.rewarm_steps, lr=lr, betas=betas)
    return torch.optim.AdamW(groups, fused=True, lr=lr, betas=betas)


_BITSANDBYTES = {"adamw8bit": "AdamW8bit", "paged_adamw": "PagedAdamW", "paged_adamw8bit": "PagedAdamW8bit"}


def _groups(module: nn.Module, config: TrainConfig, without: Iterable[Tensor] = ()) -> Groups:
    """Matrices, which are decayed, and the rest."""
    left_out = set(without)
    parameters = [p for p in module.parameters() if p.requires_grad and p not in left_out]
    # under ZeRO-3 a partitioned parameter has no shape of its own; DeepSpeed keeps the full one beside it
    dimensions = [len(getattr(p, "ds_shape", p.shape)) for p in parameters]
    matrices = [p for p, d in zip(parameters, dimensions, strict=True) if d >= 2]
    others = [p for p, d in zip(parameters, dimensions, strict=True) if d < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def set_rate(optimizer: Any, lr: float) -> None:
    """Set the rate of every group, each by its own factor; `optimizer` may be DeepSpeed's wrapper."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's Muon on some matrices and its AdamW on the rest, with one list of groups and one state.

    Muon's rate is adjusted as by Liu et al. 2025 (arXiv 2502.16982): times 0.2 sqrt(max(rows, columns)), so that
    its updates are as large as AdamW's and both take the same rate and decay.
    """

    def __init__(self, muon: Groups, adamw: Groups, *, lr: float, betas: tuple[float, float]) -> None:
        parts: list[torch.optim.Optimizer] = [torch.optim.Muon(muon, lr=lr, adjust_lr_fn="match_rms_adamw")]
        if adamw:  # torch refuses to make an optimiser of nothing
            parts.append(torch.optim.AdamW(adamw, lr=lr, betas=betas, fused=True))
        self._parts = [(part, len(part.param_groups)) for part in parts]
        super().__init__([group for part in parts for group in part.param_groups], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "a closure would be run twice"
        groups = iter(self.param_groups)
        for optimizer, num_groups in self._parts:
            # loading a state makes new groups and a new state
            optimizer.param_groups, optimizer.state = list(islice(groups, num_groups)), self.state
            optimizer.step()


def muon_norm(shape: Sequence[int]) -> float:
    """Spectral norm of a Muon step on a matrix, in units of its rate."""
    return 0.2 * float(max(shape)) ** 0.5


class RewarmingAdamW(torch.optim.Optimizer):
    """AdamW in which some coordinates are younger than others.

    Old coordinates move as under AdamW. A new one moves as under an AdamW that was made when it was born: its bias
    correction counts its own steps, and its rate rises over the first `rewarm_steps` of them.

    State: Adam's, `new` (uint8, in the parameter's shape: which coordinates are new) and `born` (the step count at
    which they were).
    """

    def __init__(
        self, groups: Groups, *, rewarm_steps: int, lr: float, betas: tuple[float, float], eps: float = 1e-8
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "rewarm_steps": rewarm_steps}
        super().__init__(groups, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for one in self.state.values():
            one["new"] = one["new"].to(torch.uint8)  # torch casts what it loads to the parameter's dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "not supported"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)

    def _step(self, parameter: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(new_state(parameter))
        state["step"] += 1
        (beta1, beta2), grad = group["betas"], parameter.grad
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)

        step, age, new = int(state["step"]), int(state["step"] - state["born"]), state["new"].bool()

        def choose(of_new: float, of_old: float) -> Tensor:
            return torch.where(new, parameter.new_tensor(of_new), parameter.new_tensor(of_old))

        rate = choose(group["lr"] * min(1.0, age / group["rewarm_steps"]), group["lr"])
        first = state["exp_avg"] / choose(1 - beta1**age, 1 - beta1**step)
        second = state["exp_avg_sq"] / choose(1 - beta2**age, 1 - beta2**step)
        parameter.mul_(1 - rate * group["weight_decay"])
        parameter.sub_(rate * first / (second.sqrt() + group["eps"]))


def new_state(parameter: Tensor) -> dict[str, Tensor]:
    """The state of `RewarmingAdamW` before the first step: nothing is new."""
    return {
        "step": torch.tensor(0.0),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
        "new": torch.zeros_like(parameter, dtype=torch.uint8),
        "born": torch.tensor(0.0),
    }
