"""What a plan will cost: the sum of its stages, the disk, and what does not fit.

Parameters, FLOPs of models and disk follow from formulas; the stages are forecast (`ligo.forecast`), which `hardware=none`
leaves out.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace

from ligo.accounting.flops import ModelFlops, model_flops
from ligo.accounting.memory import STAGES, Memory, disk_bytes
from ligo.config import TRAINING_STAGES, GrowConfig, learns_maps, scratch_training, short_training
from ligo.core.distributed import world_size
from ligo.core.libraries import quiet_libraries
from ligo.forecast import Forecast, StageCost
from ligo.growth.plan import GrowthPlan
from ligo.misfits import misfits

_TRAINED = ("causal_lm", "masked_lm", "image_classes")  # other models are grown and compared


@dataclass(frozen=True)
class Costs:
    """Of a whole run."""

    small: ModelFlops
    target: ModelFlops
    dtype: str
    """Of the grown checkpoint."""
    disk: dict[str, float]
    stages: dict[str, StageCost] = field(default_factory=dict)
    """By name: learn, write, train, scratch, short."""
    zero: dict[int, Memory] = field(default_factory=dict)
    """Training's memory under each ZeRO stage."""
    capacity: float | None = None
    """Bytes that a rank may hold; None: not known."""
    assumed: str = ""
    """Where the rates come from, in words."""
    misfits: tuple[str, ...] = ()
    """What does not fit, and what would."""

    @property
    def disk_bytes(self) -> float:
        return sum(self.disk.values())


_KNOWN: dict[str, Costs] = {}


def costs(config: GrowConfig, plan: GrowthPlan, *, probe: bool = False) -> Costs:
    """What a plan will cost; asked for again, the answer is there.

    Args:
        probe: whether to measure this machine where `hardware` says so; else no time is predicted there.
    """
    decisive = [plan.as_json(), asdict(config), world_size(), probe]
    key = json.dumps(decisive, sort_keys=True, default=str)
    if key not in _KNOWN:
        _KNOWN[key] = _costs(config, plan, probe)
    return _KNOWN[key]


def _costs(config: GrowConfig, plan: GrowthPlan, probe: bool) -> Costs:
    length, dtype = config.data.sequence_length, grown_dtype(config, plan)
    trains = bool(TRAINING_STAGES & set(config.stages))
    disk = disk_bytes(
        plan.target.num_parameters, dtype=dtype, trains=trains, precision=config.train.precision,
        moments=config.operator.optimizer_state != "reset",
    )  # fmt: skip
    known = Costs(model_flops(plan.small, length), model_flops(plan.target, length), dtype, disk)
    if config.hardware.is_unknown or plan.target.objective not in _TRAINED:
        return known
    quiet_libraries()
    forecast = Forecast(config, plan, probe)
    stages = {"learn": forecast.learn()} if learns_maps(config) else {}
    if "write" in config.stages:
        stages["write"] = forecast.write(dtype)
    zero = {}
    if trains:
        arms = {"train": config.train, "scratch": scratch_training(config), "short": short_training(config)}
        stages |= {name: forecast.train(arm) for name, arm in arms.items() if name in config.stages}
        if config.train.engine == "deepspeed":
            zero = {stage: forecast.training_memory(config.train, stage=stage) for stage in STAGES}
    return replace(
        known, stages=stages, zero=zero, capacity=forecast.capacity, assumed=forecast.assumed(),
        misfits=tuple(misfits(forecast, stages)),
    )  # fmt: skip


def grown_dtype(config: GrowConfig, plan: GrowthPlan) -> str:
    """The dtype to write: as stored, but float32 where that is small, so that exact stays exact."""
    if config.write.dtype != "auto":
        return config.write.dtype
    stored = str(plan.small_config.get("dtype") or plan.small_config.get("torch_dtype") or "float32")
    return "float32" if 4 * plan.target.num_parameters < 2**30 else stored
