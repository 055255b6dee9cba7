"""Engines: what takes an optimiser step. Plain torch for one rank, DeepSpeed (`ligo.training.deepspeed_engine`) for any number.

Batches are int64 arrays, one window or image per row; a rank hands its own rows to `step`. A step whose loss or
gradient is not finite, on any rank, changes nothing on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ligo.core import distributed
from ligo.families.stock import as_on_disk
from ligo.training.compute import set_up
from ligo.training.config import BatchShape, TrainConfig
from ligo.training.held import trained_parameters, whole_parameter
from ligo.training.objectives import Objective
from ligo.training.optim import make_optimizer, set_rate
from ligo.training.state import Held, read_state, write_state

Moments = Mapping[str, tuple[Tensor, Tensor]]
"""Name of a parameter in the running model -> its exp_avg and exp_avg_sq, in its full shape."""


class Engine(Protocol):
    """A model with its objective and its optimiser, ready to step."""

    device: torch.device
    module: nn.Module
    objective: Objective

    def step(self, windows: np.ndarray, lr: float) -> tuple[float, float | None]:
        """One optimiser step on this rank's windows: (mean loss over ranks, gradient norm before clipping).

        Where either is not finite, no step was taken, and weights and optimiser are what they were.
        """
        ...

    def save(self, folder: Path) -> dict[str, str]:
        """Write what this rank holds of model and optimiser below `folder`; every rank calls it.

        Returns:
            The file's name, and its SHA-256 in hex.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        ...

    def load(self, folder: Path) -> None:
        """Take up what any engine saved on any number of ranks; every rank calls it.

        Raises:
            CheckpointError: it is not the state of this model and optimiser.
        """
        ...

    def weights(self) -> dict[str, Tensor]:
        """The model's full weights on the CPU, by their names on disk (rank 0; empty elsewhere); every rank
        calls it."""
        ...

    def trained(self) -> dict[str, Tensor]:
        """What is trained of the model, in full on the CPU, by names in the running model (rank 0; empty elsewhere);
        every rank calls it."""
        ...

    def moments(self) -> tuple[int, Moments]:
        """Steps taken, and Adam's moments in full on the CPU (rank 0; empty elsewhere); every rank calls it."""
        ...

    def load_moments(
        self, step: int, moments: Moments, windows: np.ndarray, new: Mapping[str, Tensor] | None = None
    ) -> None:
        """Begin as if after `step` steps with these moments; `windows`: of this rank's first step; `new`: for
        `RewarmingAdamW`, which coordinates of each parameter are new. Every rank calls it."""
        ...

    def close(self) -> None: ...


def micro_batches(windows: np.ndarray, shape: BatchShape, device: torch.device) -> Iterator[Tensor]:
    for part in np.split(windows, shape.micro_batches):
        yield torch.from_numpy(part).to(device)


class TorchEngine:
    """One process, plain torch: the reference that DeepSpeed's losses are compared with."""

    def __init__(
        self, module: nn.Module, objective: Objective, config: TrainConfig, shape: BatchShape
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module, self.objective = module.to(self.device), objective
        self._optimizer = make_optimizer(self.module, config)
        self._config, self._shape = config, shape

    def step(self, windows: np.ndarray, lr: float) -> tuple[float, float | None]:
        total = 0.0
        for part in micro_batches(windows, self._shape, self.device):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._config.precision == "bf16"):
                loss = self.objective.loss(self.module, part) / self._shape.micro_batches
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), self._config.clip or float("inf")))
        if math.isfinite(total) and math.isfinite(norm):
            set_rate(self._optimizer, lr)
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total, norm

    def save(self, folder: Path) -> dict[str, str]:
        return save_state(folder, self._held(), {})

    def load(self, folder: Path) -> None:
        load_state(folder, self._held())

    def _held(self) -> Iterator[Held]:
        for name, parameter in trained_parameters(self.module):
            yield whole_parameter(name, parameter, parameter, self._optimizer.state)

    def weights(self) -> dict[str, Tensor]:
        return as_on_disk(self.module, {n: p.detach().cpu() for n, p in self.module.named_parameters()})

    def trained(self) -> dict[str, Tensor]:
        return {name: p.detach().cpu() for name, p in trained_parameters(self.module)}

    def moments(self) -> tuple[int, Moments]:
        state = self._optimizer.state
        found = {name: moments_in(state, p) for name, p in self.module.named_parameters()}
        return steps_in(state), found

    def load_moments(
        self, step: int, moments: Moments, windows: np.ndarray, new: Mapping[str, Tensor] | None = None
    ) -> None:
        for name, parameter in self.module.named_parameters():
            first, second = (moment.to(self.device, copy=True) for moment in moments[name])
            steps = torch.tensor(float(step), device=self.device)
            state = {"step": steps, "exp_avg": first, "exp_avg_sq": second}
            if new is not None:
                state |= {"new": new[name].to(self.device, torch.uint8), "born": steps.clone()}
            self._optimizer.state[parameter] = state

    def close(self) -> None:
        pass


def save_state(folder: Path, held: Iterator[Held], extra: dict[str, Any]) -> dict[str, str]:
    """Write what this rank holds; the file's name, and its SHA-256 in hex."""
    rank, world_size = distributed.rank(), distributed.world_size()
    name = f"state-{rank + 1:05d}-of-{world_size:05d}.safetensors"
    return {name: write_state(folder / name, held, rank=rank, world_size=world_size, extra=extra)}


def load_state(folder: Path, held: Iterator[Held]) -> dict[str, Any]:
    """Fill what this rank holds from what any number of ranks wrote; what was written beside it."""
    return read_state(sorted(folder.glob("state-*.safetensors")), held, rank=distributed.rank())


def moments_in(state: Mapping[Any, Any], parameter: Tensor) -> tuple[Tensor, Tensor]:
    """Moments on the CPU; a parameter that never had a gradient has none yet."""
    if "exp_avg" not in state.get(parameter, {}):
        return torch.zeros_like(parameter, device="cpu"), torch.zeros_like(parameter, device="cpu")
    return state[parameter]["exp_avg"].cpu(), state[parameter]["exp_avg_sq"].cpu()


def steps_in(state: Mapping[Any, Any]) -> int:
    """Optimiser steps taken."""
    return max((int(entry["step"]) for entry in state.values() if "step" in entry), default=0)


def make_engine(
    module: nn.Module,
    objective: Objective,
    config: TrainConfig,
    shape: BatchShape,
    deepspeed: Mapping[str, Any],
) -> Engine:
    """The engine that `train.engine` names, its model in training mode."""
    set_up(module, config, objective.family)
    module.train()  # `from_pretrained` leaves dropout off
    if config.engine == "torch":
        return TorchEngine(module, objective, config, shape)
    from ligo.training.deepspeed_engine import DeepSpeedEngine  # which builds on this file

    return DeepSpeedEngine(module, objective, config, shape, deepspeed)
