"""Steps by plain torch, in one process: the reference that DeepSpeed's losses are compared with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ligo.families.stock import as_on_disk
from ligo.training.config import BatchShape, TrainConfig
from ligo.training.engine import Moments, load_state, micro_batches, moments_in, save_state, steps_in
from ligo.training.held import trained_parameters, whole_parameter
from ligo.training.objectives import Objective
from ligo.training.optim import make_optimizer, set_rate
from ligo.training.state import Held


class TorchEngine:
    """One rank."""

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
