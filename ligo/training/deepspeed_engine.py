"""Steps by DeepSpeed: any number of ranks, weights, gradients and states parted as its own keys say.

What an engine promises stands at `ligo.training.engine.Engine`.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ligo.core import distributed
from ligo.core.errors import require
from ligo.core.libraries import quiet_libraries
from ligo.families.stock import as_on_disk
from ligo.training.config import BatchShape, TrainConfig, check_deepspeed_keys
from ligo.training.engine import Moments, load_state, micro_batches, moments_in, save_state, steps_in
from ligo.training.held import held_by_deepspeed, trained_parameters
from ligo.training.objectives import Objective
from ligo.training.optim import make_optimizer, set_rate
from ligo.training.state import Held

# how DeepSpeed's loss scalers name what changes in them
_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def deepspeed_config(keys: Mapping[str, Any], config: TrainConfig, shape: BatchShape) -> dict[str, Any]:
    """DeepSpeed's own keys, with those that follow from the `train` options filled in.

    Raises:
        ConfigError: a key is given that ligo derives.
    """
    check_deepspeed_keys(keys)
    return {
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's optimisers work on states kept on the CPU too
        **keys,
        "train_micro_batch_size_per_gpu": shape.windows_per_micro_batch,
        "gradient_accumulation_steps": shape.micro_batches,
        "gradient_clipping": config.clip,  # DeepSpeed clips at 1.0 unless told otherwise
        "bf16": {"enabled": config.precision == "bf16"},
        "fp16": {"enabled": config.precision == "fp16"},  # the loss is scaled by what DeepSpeed finds to work
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
        self._stage = int(self._engine.zero_optimization_stage())

    def step(self, windows: np.ndarray, lr: float) -> tuple[float, float | None]:
        set_rate(self._optimizer, lr)
        total = mean = 0.0
        for number, part in enumerate(micro_batches(windows, self._shape, self.device), start=1):
            loss = self.objective.loss(self._engine, part)
            total += float(loss.detach()) / self._shape.micro_batches
            if number == self._shape.micro_batches:
                mean = distributed.mean_over_ranks(total)
                if not math.isfinite(mean):
                    loss = loss * math.nan  # gradients may be finite where the loss is not; these are not
            self._engine.backward(loss)
            if number < self._shape.micro_batches or self._checks_gradients:
                self._engine.step()
        if not self._checks_gradients:
            return mean, self._step_if_finite()
        norm = self._engine.get_global_grad_norm()
        return mean, None if norm is None else float(norm)

    @property
    def _checks_gradients(self) -> bool:
        """Whether DeepSpeed itself leaves a step out where gradients are not finite: always but in plain float32."""
        return self._stage > 0 or hasattr(self._optimizer, "fp32_groups")

    def _step_if_finite(self) -> float:
        """The gradient's norm; the gradient is the ranks' mean already."""
        norm = float(nn.utils.get_total_norm(p.grad for p in self.module.parameters() if p.grad is not None))
        if math.isfinite(norm):
            self._engine.step()
        else:
            self._engine.zero_grad()
            self._engine.micro_steps += 1  # as `step` counts them
        return norm

    def save(self, folder: Path) -> dict[str, str]:
        return save_state(folder, self._held(), {"loss_scale": self._loss_scale()})

    def load(self, folder: Path) -> None:
        if self._stage == 3:
            self._optimizer.checkpoint_event_prologue()  # parts what is gathered
        extra = load_state(folder, self._held())
        if self._scaler is not None:
            for key, value in extra.get("loss_scale", {}).items():
                setattr(self._scaler, key, value)
        with torch.no_grad():
            if self._stage in (1, 2):
                self._optimizer.update_lp_params()
            elif self._stage == 3:
                for number in range(len(self._optimizer.fp16_groups)):
                    self._optimizer._reassign_or_swap_out_partitioned_parameters(number)
                self._optimizer.checkpoint_event_epilogue()
            else:
                for parameter, master in self._masters().items():
                    parameter.copy_(master)

    def _held(self) -> Iterator[Held]:
        return held_by_deepspeed(self.module, self._optimizer, self._stage, self._masters())

    @property
    def _scaler(self) -> Any:
        """DeepSpeed's loss scaler, where there is one; fp16 alone moves it."""
        return getattr(self._optimizer, "loss_scaler", getattr(self._optimizer, "loss_scale_config", None))

    def _loss_scale(self) -> dict[str, float]:
        return {key: value for key, value in vars(self._scaler or object).items() if key in _SCALE}

    def weights(self) -> dict[str, Tensor]:
        full = self._in_full(self.module.named_parameters())
        return as_on_disk(self.module, full) if full else {}

    def trained(self) -> dict[str, Tensor]:
        return self._in_full(trained_parameters(self.module))

    def _in_full(self, parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        import deepspeed

        full = {}
        for name, parameter in parameters:
            with deepspeed.zero.GatheredParameters([parameter]):
                if distributed.is_main():
                    full[name] = parameter.detach().float().cpu().clone()
        return full

    def moments(self) -> tuple[int, Moments]:
        from deepspeed.utils import safe_get_full_optimizer_state as get

        found: dict[str, tuple[Tensor, Tensor]] = {}
        self._link_states()
        masters = self._masters()
        for name, parameter in self.module.named_parameters():
            if masters:
                pair = moments_in(self._optimizer.state, masters[parameter])
            else:
                pair = (get(parameter, "exp_avg").cpu(), get(parameter, "exp_avg_sq").cpu())
            if distributed.is_main():
                found[name] = pair
        return steps_in(self._optimizer.state), found

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

        if self._stage in (1, 2):
            flat = self._optimizer.single_partition_of_fp32_groups
            for parameters, partition in zip(self._optimizer.bit16_groups, flat, strict=True):
                lazy_init_hp_params_optimizer_state(parameters, partition, self._optimizer.state)

    def _masters(self) -> dict[Tensor, Tensor]:
        """Without ZeRO, the key of each parameter in the optimiser's state: itself, or its float32 master."""
        if self._stage > 0:
            return {}
        if not hasattr(self._optimizer, "fp32_groups"):
            return {parameter: parameter for parameter in self.module.parameters() if parameter.requires_grad}
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
