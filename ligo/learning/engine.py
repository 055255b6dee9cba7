"""What takes a step of learning: plain torch for one process, DeepSpeed for several, data parallel over the tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ligo.core import distributed
from ligo.growth.execute import ReadTensor
from ligo.learning.forward import GrownFunction
from ligo.learning.functional import LearnedMaps
from ligo.training.config import BatchShape, check_deepspeed_keys
from ligo.training.deepspeed_engine import import_deepspeed
from ligo.training.objectives import Objective

CLIP = 1.0  # largest gradient norm
Outside = Mapping[str, frozenset[int]]


class OperatorLoss(nn.Module):
    """The grown target's loss as a function of the learned maps, which are its parameters."""

    def __init__(
        self, learned: LearnedMaps, grown: GrownFunction, read: ReadTensor, objective: Objective, *,
        device: torch.device, bf16: bool,
    ) -> None:  # fmt: skip
        """
        Args:
            read: the frozen small model's, on the device.
            bf16: whether the target runs under autocast; the maps stay in float32.
        """
        super().__init__()
        self.learned, self.grown = learned.to(device), grown
        self._read, self._objective, self.device, self._bf16 = read, objective, device, bf16

    def forward(self, batch: Tensor, outside: Outside) -> Tensor:
        return self.of(self.grown(self.learned(), self._read, outside), batch)

    def of(self, run: Callable[..., Any], batch: Tensor) -> Tensor:
        """The mean loss of a target, however its weights are made."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            return self._objective.loss(run, batch.to(self.device))


class OperatorEngine(Protocol):
    """Maps with their optimiser, ready to step."""

    def step(self, windows: np.ndarray, rate_factor: float, outside: Outside) -> tuple[float, float | None]:
        """One optimiser step on this rank's windows: (mean loss over ranks, gradient norm before clipping, which
        DeepSpeed does not tell without ZeRO).

        Args:
            rate_factor: of the schedule; multiplies every group's own rate.
            outside: how the target is run.
        """
        ...

    def close(self) -> None: ...


class _Engine:
    """The optimiser, whose groups keep their own rates under one schedule."""

    def __init__(self, loss: OperatorLoss, optimizer: torch.optim.Optimizer, shape: BatchShape) -> None:
        self._loss, self._shape = loss, shape
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._optimizer: Any = optimizer

    def _set_rates(self, factor: float) -> None:
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def _micro_batches(self, windows: np.ndarray) -> Iterator[Tensor]:
        yield from map(torch.from_numpy, np.split(windows, self._shape.micro_batches))


class TorchOperatorEngine(_Engine):
    """One process."""

    def step(self, windows: np.ndarray, rate_factor: float, outside: Outside) -> tuple[float, float | None]:
        self._set_rates(rate_factor)
        total = 0.0
        for batch in self._micro_batches(windows):
            loss = self._loss(batch, outside) / self._shape.micro_batches
            loss.backward()
            total += float(loss.detach())
        norm = nn.utils.clip_grad_norm_(self._loss.parameters(), CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total, float(norm)

    def close(self) -> None:
        pass


class DeepSpeedOperatorEngine(_Engine):
    """Several processes: ZeRO 0, 1 or 2 on the maps, as the `deepspeed` options say.

    Maps are small beside the model, and each is used by every layer: stage 3, which would gather them each time, is run
    as stage 2.
    """

    def __init__(
        self, loss: OperatorLoss, optimizer: torch.optim.Optimizer, shape: BatchShape, keys: Mapping[str, Any]
    ) -> None:
        super().__init__(loss, optimizer, shape)
        check_deepspeed_keys(keys)
        deepspeed = import_deepspeed()
        zero = dict(keys.get("zero_optimization", {}))
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=loss,
            optimizer=optimizer,
            config={
                "steps_per_print": 10**9,
                "zero_allow_untested_optimizer": True,
                **keys,
                "zero_optimization": {**zero, "stage": min(zero.get("stage", 0), 2)},
                "train_micro_batch_size_per_gpu": shape.windows_per_micro_batch,
                "gradient_accumulation_steps": shape.micro_batches,
                "gradient_clipping": CLIP,
            },
            dist_init_required=False,
        )

    def step(self, windows: np.ndarray, rate_factor: float, outside: Outside) -> tuple[float, float | None]:
        self._set_rates(rate_factor)
        total = 0.0
        for batch in self._micro_batches(windows):
            loss = self._engine(batch, outside)
            self._engine.backward(loss)
            self._engine.step()
            total += float(loss.detach()) / self._shape.micro_batches
        norm = self._engine.get_global_grad_norm()
        return distributed.mean_over_ranks(total), None if norm is None else float(norm)

    def close(self) -> None:
        self._engine.destroy()


def make_operator_engine(
    loss: OperatorLoss, optimizer: torch.optim.Optimizer, shape: BatchShape, deepspeed: Mapping[str, Any]
) -> OperatorEngine:
    """The engine for the ranks there are.

    Args:
        optimizer: whose groups have their own rates.
        deepspeed: DeepSpeed's own keys.
    """
    if distributed.world_size() == 1:
        return TorchOperatorEngine(loss, optimizer, shape)
    return DeepSpeedOperatorEngine(loss, optimizer, shape, deepspeed)
