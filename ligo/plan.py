"""python -m ligo.plan: print a growth plan; no weights, no GPU, no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ligo.accounting.flops import ModelFlops, model_flops
from ligo.accounting.memory import MemoryEstimate, estimate
from ligo.command import main
from ligo.config import TRAINING_STAGES, GrowConfig, SmallConfig, wanted_dims
from ligo.core import units
from ligo.core.distributed import world_size
from ligo.core.errors import CheckpointError, ConfigError
from ligo.families.fresh import fresh_config
from ligo.growth.plan import GrowthPlan, check_moments, plan_growth
from ligo.operators.config import build
from ligo.schedule import before_training, read_growths, schedule_json, schedule_text

DESCRIPTION = "Print how a small transformer would be grown: spaces, layers, exactness, parameters, cost."
EXAMPLES = (
    "python -m ligo.plan +small=llama-7b +target=13b",
    "python -m ligo.plan +small=checkpoint small.path=DIR target=custom target.num_hidden_layers=12 output=json",
)


@dataclass(frozen=True)
class Costs:
    """What the plan will cost, from shapes alone."""

    small: ModelFlops
    target: ModelFlops
    memory: MemoryEstimate
    dtype: str


def known_config(small: SmallConfig) -> dict[str, Any] | None:
    """The small model's config.json where it is at hand without looking for weights, else None."""
    from ligo.checkpoint.locate import packaged
    from ligo.checkpoint.reader import read_config

    if small.path is not None:
        folder: Path | None = Path(small.path).expanduser()
    elif small.model:
        return dict(small.model)
    elif small.shape:
        return fresh_config(small.family, small.shape)
    else:
        folder = packaged(small.package_file) if small.package_file else None
    return read_config(folder) if folder is not None and (folder / "config.json").is_file() else None


def make_plan(
    config: GrowConfig, small_config: Mapping[str, Any], *, chosen: str | None = None
) -> GrowthPlan:
    """The growth plan of a config.

    Args:
        chosen: operator=auto: the candidate whose plan it is; None: the first, once all are known to be possible.

    Raises:
        PlanError: the shapes cannot be grown.
    """
    positions = small_config.get("max_position_embeddings") or small_config.get("n_positions")
    if positions is not None and config.data.sequence_length > positions:
        raise ConfigError(
            f"data.sequence_length={config.data.sequence_length} is longer than the {positions} positions that "
            f"the model knows (max_position_embeddings).\n  Try: data.sequence_length={positions}"
        )
    names: list[str | None] = [chosen] if chosen is not None else [*config.operator.candidates] or [None]
    operators = [build(config.operator, name) for name in names]
    plans = [plan_growth(small_config, wanted_dims(config.target), operator) for operator in operators]
    for plan in plans:
        check_moments(plan, config.operator.optimizer_state)
    return plans[0]


def grown_dtype(config: GrowConfig, plan: GrowthPlan) -> str:
    """The dtype to write: as stored, but float32 where that is small, so that exact stays exact."""
    if config.write.dtype != "auto":
        return config.write.dtype
    stored = str(plan.small_config.get("dtype") or plan.small_config.get("torch_dtype") or "float32")
    return "float32" if 4 * plan.target.num_parameters < 2**30 else stored


def costs(config: GrowConfig, plan: GrowthPlan) -> Costs:
    """FLOPs, memory and disk of a plan."""
    length, dtype = config.data.sequence_length, grown_dtype(config, plan)
    memory = estimate(
        small_parameters=plan.small.num_parameters,
        target_parameters=plan.target.num_parameters,
        depth_ratio=plan.target.dims.num_layers / plan.small.dims.num_layers,
        largest_tensor=max(math.prod(job.shape) for job in plan.jobs),
        dtype=dtype,
        trains=bool(TRAINING_STAGES & set(config.stages)),
        zero_stage=config.deepspeed.get("zero_optimization", {}).get("stage", 0),
        world_size=world_size(),
        precision=config.train.precision,
    )
    small = model_flops(plan.small, length)
    return Costs(small, model_flops(plan.target, length), memory, dtype)


def plan_json(config: GrowConfig, plan: GrowthPlan) -> dict[str, Any]:
    """Plan and costs as plain data."""
    cost = costs(config, plan)
    data = plan.as_json()
    data["operator"] = asdict(config.operator)
    data["names"] = {"small": config.small.name, "target": config.target.name}
    data["flops_per_token"] = {
        "sequence_length": config.data.sequence_length,
        "small_training": cost.small.training,
        "target_training": cost.target.training,
    }
    data["budget"] = {
        "train_tokens": config.train.max_tokens,
        "train_flops": config.train.max_tokens * cost.target.training,
        "operator_tokens": config.operator.steps * config.operator.batch_tokens
        if config.operator.init
        else 0,
    }
    data["bytes"] = {**asdict(cost.memory), "dtype": cost.dtype}
    return data


def plan_text(config: GrowConfig, plan: GrowthPlan) -> str:
    """Plan and costs for a person to read."""
    data, cost = plan_json(config, plan), costs(config, plan)
    operator = config.operator.name
    if config.operator.init:
        operator += f", learned from {config.operator.init}"
    if config.operator.candidates:
        operator += f", one of {', '.join(config.operator.candidates)} (shown: the first, or the chosen one)"
    at_start = "at the start of learning: " if config.operator.init else ""
    rows = [f"  {'space':<10}{'small':>9}{'target':>9}{'ratio':>8}  {'map':<20}exact"]
    for row in data["spaces"]:
        rows.append(
            f"  {row['space']:<10}{row['small']:>9}{row['target']:>9}{row['ratio']:>8.3f}  "
            f"{row['map']:<20}{'yes' if row['exact'] else 'no'}"
        )
    learning = (
        f"\n  learning    {units.si(data['budget']['operator_tokens'], 'token')}s in {config.operator.steps} steps"
        if config.operator.init
        else ""
    )
    return "\n".join(
        [
            f"Growth plan: {config.small.name} -> {config.target.name}, operator {operator}",
            *rows,
            f"  layers    {plan.small.dims.num_layers:>9}{plan.target.dims.num_layers:>9}"
            f"{plan.target.dims.num_layers / plan.small.dims.num_layers:>8.3f}  "
            f"{plan.maps.layers.describe()}"
            + ("  (* identity block)" if plan.maps.layers.identity_layers else ""),
            f"  {at_start}{'exact' if plan.exactness.exact else 'not exact'}: {plan.exactness.reason}",
            *(f"  note        {note}" for note in plan.notes),
            f"  parameters  {plan.small.num_parameters:,} -> {plan.target.num_parameters:,}",
            f"  FLOPs       {units.flops(cost.small.training)} -> {units.flops(cost.target.training)} per training "
            f"token at length {config.data.sequence_length}; training on {units.si(config.train.max_tokens, 'token')}s: "
            f"{units.flops(data['budget']['train_flops'])}" + learning,
            f"  memory      writing {units.num_bytes(cost.memory.write_peak)}, learning "
            f"{units.num_bytes(cost.memory.learn_peak if config.operator.init else 0)}, training "
            f"{units.num_bytes(cost.memory.train_per_rank)} per rank (weights and states, before activations)",
            f"  disk        {units.num_bytes(cost.memory.disk)} ({cost.dtype})",
        ]
    )


def name_after_folder(small: SmallConfig) -> SmallConfig:
    """`small=checkpoint` is shown under its folder's name."""
    if small.name == "checkpoint" and small.path is not None:
        return replace(small, name=Path(small.path).expanduser().resolve().name.removesuffix(".gguf"))
    return small


def print_plan(config: GrowConfig, _yaml: str) -> None:
    """Print the plan of a config as text or JSON.

    Raises:
        CheckpointError: the small model's shape is not known without its checkpoint.
    """
    config = replace(config, small=name_after_folder(config.small))
    inner = read_growths(config)
    config = before_training(config, inner)
    small_config = known_config(config.small)
    if small_config is None:
        raise CheckpointError(
            f"the shape of the small model '{config.small.name}' is not known: "
            + (
                f"there is no config.json in {config.small.path}."
                if config.small.path
                else "no config.json is at hand."
            )
            + "\n  Try: small.path=DIR with a Hugging Face checkpoint folder, or another small="
        )
    plan = make_plan(config, small_config)
    if config.output == "json":
        growths = {"inner_growth": schedule_json(config, plan, inner)} if inner else {}
        print(json.dumps(plan_json(config, plan) | growths, indent=2))
    else:
        print(plan_text(config, plan) + schedule_text(config, plan, inner))


if __name__ == "__main__":
    main(print_plan, DESCRIPTION, EXAMPLES)
