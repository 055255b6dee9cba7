"""Engines: what takes an optimiser step. DeepSpeed for any number of ranks, plain torch for one.

Token batches are int64 arrays [windows, length + 1]; a rank hands its own windows to `step`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ligo.core import distributed
from ligo.core.errors import ConfigError, require
from ligo.core.libraries import quiet_libraries
from ligo.training.config import BatchShape, TrainConfig, check_deepspeed_keys
from ligo.training.objectives import next_token_loss


class Engine(Protocol):
    """A model with its optimiser, ready to step."""

    device: torch.device
    module: nn.Module

    def step(self, windows: np.ndarray, lr: float) -> tuple[float, float | None]:
        """One optimiser step on this rank's windows: (mean loss over ranks, gradient norm before clipping)."""
        ...

    def save(self, folder: Path) -> None:
        """Write model and optimiser below `folder`; every rank calls it."""
        ...

    def load(self, folder: Path) -> None: ...

    def weights(self) -> dict[str, Tensor]:
        """The model's full weights on the CPU (rank 0; empty elsewhere); every rank calls it."""
        ...

    def close(self) -> None: ...


def window_loss(module: nn.Module, windows: Tensor) -> Tensor:
    """The objective of a model on windows [batch, length + 1]."""
    return next_token_loss(module(input_ids=windows[:, :-1], use_cache=False).logits, windows)


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    # under ZeRO-3 a partitioned parameter has no shape of its own; DeepSpeed keeps the full one beside it
    dimensions = [len(getattr(p, "ds_shape", p.shape)) for p in parameters]
    matrices = [p for p, d in zip(parameters, dimensions, strict=True) if d >= 2]
    others = [p for p, d in zip(parameters, dimensions, strict=True) if d < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=(config.beta1, config.beta2)
    )


def micro_batches(windows: np.ndarray, shape: BatchShape, device: torch.device) -> Iterator[Tensor]:
    for part in np.split(windows, shape.micro_batches):
        yield torch.from_numpy(part).to(device)


class TorchEngine:
    """One process, plain torch: the reference that DeepSpeed's losses are compared with."""

    def __init__(self, module: nn.Module, config: TrainConfig, shape: BatchShape) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module = module.to(self.device)
        self._optimizer = make_optimizer(self.module, config)
        self._config, self._shape = config, shape

    def step(self, windows: np.ndarray, lr: float) -> tuple[float, float | None]:
        total = 0.0
        for part in micro_batches(windows, self._shape, self.device):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._config.precision == "bf16"):
                loss = window_loss(self.module, part) / self._shape.micro_batches
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self._config.clip or float("inf"))
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total, float(norm)

    def save(self, folder: Path) -> None:
        torch.save(
            {"module": self.module.state_dict(), "optimizer": self._optimizer.state_dict()},
            folder / "state.pt",
        )

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu() for name, tensor in self.module.named_parameters()}

    def close(self) -> None:
        pass


def deepspeed_config(keys: Mapping[str, Any], config: TrainConfig, shape: BatchShape) -> dict[str, Any]:
    """DeepSpeed's own keys, with those that follow from the `train` options filled in.

    Raises:
        ConfigError: a key is given that ligo derives.
    """
    check_deepspeed_keys(keys)
    return {
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        **keys,
        "train_micro_batch_size_per_gpu": shape.windows_per_micro_batch,
        "gradient_accumulation_steps": shape.micro_batches,
        "gradient_clipping": config.clip,  # DeepSpeed clips at 1.0 unless told otherwise
        "bf16": {"enabled": config.precision == "bf16"},
    }


@contextmanager
def _quiet_linker() -> Iterator[None]:
    """DeepSpeed tries at import which ops it could compile; the linker's complaints are not the user's."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def import_deepspeed() -> Any:
    """Import DeepSpeed so that it starts at once on a CPU.

    There it would compile an inference-only all-reduce with g++ (30 s and more, and a killed compile
    leaves a lock that hangs every later start); training does not use it.
    """
    quiet_libraries()
    with _quiet_linker():
        deepspeed = require("deepspeed", extra="deepspeed", why="train.engine=deepspeed")
    if not torch.cuda.is_available():
        require("deepspeed.ops", extra="deepspeed", why="train.engine=deepspeed")
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


class DeepSpeedEngine:
    """Any number of ranks, ZeRO stage from DeepSpeed's own keys."""

    def __init__(
        self, module: nn.Module, config: TrainConfig, shape: BatchShape, keys: Mapping[str, Any]
    ) -> None:
        deepspeed = import_deepspeed()
        distributed.start()
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module,
            optimizer=make_optimizer(module, config),
            config=deepspeed_config(keys, config, shape),
            dist_init_required=False,
        )
        self.module, self.device = self._engine.module, torch.device(self._engine.device)
        self._shape = shape

    def step(self, windows: np.ndarray, lr: float) -> tuple[float, float | None]:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        total = 0.0
        for part in micro_batches(windows, self._shape, self.device):
            loss = window_loss(self._engine, part)
            self._engine.backward(loss)
            self._engine.step()
            total += float(loss.detach()) / self._shape.micro_batches
        norm = self._engine.get_global_grad_norm()
        return distributed.mean_over_ranks(total), None if norm is None else float(norm)

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag="engine", save_latest=False)

    def load(self, folder: Path) -> None:
        path, _ = self._engine.load_checkpoint(str(folder), tag="engine")
        if path is None:
            raise ConfigError(f"DeepSpeed found no engine state in {folder}.\n  Try: remove that folder")

    def weights(self) -> dict[str, Tensor]:
        import deepspeed

        full = {}
        for name, parameter in self.module.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                if distributed.is_main():
                    full[name] = parameter.detach().float().cpu().clone()
        return full

    def close(self) -> None:
        self._engine.destroy()


def make_engine(
    module: nn.Module, config: TrainConfig, shape: BatchShape, deepspeed: Mapping[str, Any]
) -> Engine:
    """The engine that `train.engine` names."""
    if config.engine == "torch":
        return TorchEngine(module, config, shape)
    return DeepSpeedEngine(module, config, shape, deepspeed)
