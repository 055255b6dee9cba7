"""Engines: what takes an optimiser step. DeepSpeed for any number of ranks, plain torch for one.

Batches are int64 arrays, one window or image per row; a rank hands its own rows to `step`.
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
from ligo.families.stock import as_on_disk
from ligo.training.compute import set_up
from ligo.training.config import BatchShape, TrainConfig, check_deepspeed_keys
from ligo.training.objectives import Objective
from ligo.training.optim import make_optimizer, set_rate

Moments = Mapping[str, tuple[Tensor, Tensor]]
"""Name of a parameter in the running model -> its exp_avg and exp_avg_sq, in its full shape."""


class Engine(Protocol):
    """A model with its objective and its optimiser, ready to step."""

    device: torch.device
    module: nn.Module
    objective: Objective

    def step(self, windows: np.ndarray, lr: float) -> tuple[float, float | None]:
        """One optimiser step on this rank's windows: (mean loss over ranks, gradient norm before clipping)."""
        ...

    def save(self, folder: Path) -> None:
        """Write model and optimiser below `folder`; every rank calls it."""
        ...

    def load(self, folder: Path) -> None: ...

    def weights(self) -> dict[str, Tensor]:
        """The model's full weights on the CPU, by their names on disk (rank 0; empty elsewhere); every rank
        calls it."""
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
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self._config.clip or float("inf"))
        set_rate(self._optimizer, lr)
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
        return as_on_disk(self.module, {n: p.detach().cpu() for n, p in self.module.named_parameters()})

    def moments(self) -> tuple[int, Moments]:
        state = self._optimizer.state
        found = {name: _moments_in(state, p) for name, p in self.module.named_parameters()}
        return _steps_in(state), found

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


def _moments_in(state: Mapping[Any, Any], parameter: Tensor) -> tuple[Tensor, Tensor]:
    """Moments on the CPU; a parameter that never had a gradient has none yet."""
    if parameter not in state:
        return torch.zeros_like(parameter, device="cpu"), torch.zeros_like(parameter, device="cpu")
    return state[parameter]["exp_avg"].cpu(), state[parameter]["exp_avg_sq"].cpu()


def _steps_in(state: Mapping[Any, Any]) -> int:
    return max((int(entry["step"]) for entry in state.values()), default=0)


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
        self,
        module: nn.Module,
        objective: Objective,
        config: TrainConfig,
        shape: BatchShape,
        keys: Mapping[str, Any],
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
        self.objective, self._shape = objective, shape

    def step(self, windows: np.ndarray, lr: float) -> tuple[float, float | None]:
        set_rate(self._optimizer, lr)
        total = 0.0
        for part in micro_batches(windows, self._shape, self.device):
            loss = self.objective.loss(self._engine, part)
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
        return as_on_disk(self.module, full) if full else {}

    def moments(self) -> tuple[int, Moments]:
        from deepspeed.utils import safe_get_full_optimizer_state as get

        found: dict[str, tuple[Tensor, Tensor]] = {}
        self._link_states()
        masters = self._masters()
        for name, parameter in self.module.named_parameters():
            if masters:
                pair = _moments_in(self._optimizer.state, masters[parameter])
            else:
                pair = (get(parameter, "exp_avg").cpu(), get(parameter, "exp_avg_sq").cpu())
            if distributed.is_main():
                found[name] = pair
        return _steps_in(self._optimizer.state), found

    def load_moments(
        self, step: int, moments: Moments, windows: np.ndarray, new: Mapping[str, Tensor] | None = None
    ) -> None:
        self.step(windows, lr=0.0)  # changes no weight; before its first step DeepSpeed has no moments to set
        self._link_states()
        masters = self._masters()
        for name, parameter in self.module.named_parameters():
            tensors = dict(zip(("exp_avg", "exp_avg_sq"), moments[name], strict=True))
            if new is not None:
                tensors["new"] = new[name].to(torch.uint8)
            for key, tensor in tensors.items():
                if masters:
                    self._optimizer.state[masters[parameter]][key].copy_(tensor)
                else:
                    _set_moment(parameter, tensor.to(self.device), key)
        for state in self._optimizer.state.values():
            state["step"].fill_(step)
            if new is not None:
                state["born"].fill_(step)

    def _link_states(self) -> None:
        """Under ZeRO-1 and 2, show every parameter where its moments are in the flat ones. DeepSpeed does so once,
        when the first of several groups has been stepped, and forgets it when it loads a checkpoint."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        if self._engine.zero_optimization_stage() in (1, 2):
            flat = self._optimizer.single_partition_of_fp32_groups
            for parameters, partition in zip(self._optimizer.bit16_groups, flat, strict=True):
                lazy_init_hp_params_optimizer_state(parameters, partition, self._optimizer.state)

    def _masters(self) -> dict[Tensor, Tensor]:
        """Without ZeRO, the key of each parameter in the optimiser's state: itself, or its float32 master."""
        if self._engine.zero_optimization_stage() > 0:
            return {}
        if not hasattr(self._optimizer, "fp32_groups"):
            return {parameter: parameter for parameter in self.module.parameters()}
        groups = zip(self._optimizer.fp16_groups, self._optimizer.fp32_groups, strict=True)
        return {parameter: master for pair in groups for parameter, master in zip(*pair, strict=True)}

    def close(self) -> None:
        self._engine.destroy()


def _set_moment(parameter: Any, moment: Tensor, key: str) -> None:
    """Set this rank's share of a moment under ZeRO."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if not hasattr(parameter, "ds_tensor"):
        safe_set_full_optimizer_state(parameter, moment, key)
        return
    # ZeRO-3 deals every parameter out to the ranks in equal pieces, the last one padded
    size = parameter.ds_tensor.numel()
    padded = nn.functional.pad(moment.flatten(), (0, size * distributed.world_size() - moment.numel()))
    safe_set_local_optimizer_state(parameter, padded[distributed.rank() * size :][:size], key)


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
    return DeepSpeedEngine(module, objective, config, shape, deepspeed)
