"""The engine that `train.engine` names: DeepSpeed for any number of ranks, plain torch for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ligo.training.compute import set_up
from ligo.training.config import BatchShape, TrainConfig
from ligo.training.deepspeed_engine import DeepSpeedEngine
from ligo.training.engine import Engine
from ligo.training.objectives import Objective
from ligo.training.torch_engine import TorchEngine


def make_engine(
    module: nn.Module,
    objective: Objective,
    config: TrainConfig,
    shape: BatchShape,
    deepspeed: Mapping[str, Any],
) -> Engine:
    """An engine with its model in training mode."""
    set_up(module, config, objective.family)
    module.train()  # `from_pretrained` leaves dropout off
    if config.engine == "torch":
        return TorchEngine(module, objective, config, shape)
    return DeepSpeedEngine(module, objective, config, shape, deepspeed)
