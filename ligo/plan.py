"""python -m ligo.plan: print a growth plan, and what it will take on a machine; no weights, and no such machine.

What the machine decides is traced from the stock modules on shapes alone, in seconds. `hardware=none` leaves that out, and
then the answer is there at once, without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ligo.accounting.memory import Memory
from ligo.command import main
from ligo.config import GrowConfig, SmallConfig, wanted_dims
from ligo.core import units
from ligo.core.errors import CheckpointError, ConfigError, ResourceError
from ligo.costs import Costs, costs
from ligo.families.fresh import fresh_config
from ligo.families.positions import num_positions
from ligo.growth.plan import GrowthPlan, check_moments, plan_growth
from ligo.operators.config import build
from ligo.schedule import before_training, read_growths, schedule_json, schedule_text

DESCRIPTION = "Print how a small transformer would be grown: spaces, layers, exactness, parameters, cost."
EXAMPLES = (
    "python -m ligo.plan +small=llama-7b +target=13b hardware=a100 hardware.count=8 deepspeed=zero2",
    "python -m ligo.plan +small=checkpoint small.path=DIR target=custom target.num_hidden_layers=12 output=json",
)


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
    positions = num_positions(small_config)
    if positions is not None and config.data.sequence_length > positions:
        raise ConfigError(
            f"data.sequence_length={config.data.sequence_length} is longer than the {positions} positions that "
            f"the model knows.\n  Try: data.sequence_length={positions}"
        )
    names: list[str | None] = [chosen] if chosen is not None else [*config.operator.candidates] or [None]
    operators = [build(config.operator, name) for name in names]
    plans = [plan_growth(small_config, wanted_dims(config.target), operator) for operator in operators]
    for plan in plans:
        check_moments(plan, config.operator.optimizer_state)
    return plans[0]


def plan_json(config: GrowConfig, plan: GrowthPlan, *, probe: bool = False) -> dict[str, Any]:
    """Plan and costs as plain data; units are in the names.

    Args:
        probe: as for `costs`.
    """
    cost = costs(config, plan, probe=probe)
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
    data["bytes"] = {"disk": round(cost.disk_bytes), "disk_parts": cost.disk, "dtype": cost.dtype}
    data["hardware"] = {
        **asdict(config.hardware),
        "ranks": next((stage.ranks for stage in cost.stages.values()), None),
        "rank_memory_bytes": cost.capacity,
        "rates": cost.assumed,
    }
    price = config.hardware.price_per_hour
    data["stages"] = {
        name: {
            "memory_bytes": {**stage.memory.parts, "peak": stage.memory.peak},
            "memory_phase": stage.memory.phase,
            "flops": stage.flops,
            "seconds": stage.seconds,
            "device_hours": stage.hours(),
            "price": None if price is None or stage.seconds is None else price * (stage.hours() or 0.0),
        }
        for name, stage in cost.stages.items()
    }
    data["zero"] = {
        str(stage): {"memory_bytes": {**memory.parts, "peak": memory.peak}, "memory_phase": memory.phase}
        for stage, memory in cost.zero.items()
    }
    data["does_not_fit"] = list(cost.misfits)
    return data


def plan_text(config: GrowConfig, plan: GrowthPlan, *, probe: bool = False) -> str:
    """Plan and costs for a person to read.

    Args:
        probe: as for `costs`.
    """
    data, cost = plan_json(config, plan, probe=probe), costs(config, plan, probe=probe)
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
    parts = " + ".join(f"{units.num_bytes(size)} {what}" for what, size in cost.disk.items() if size)
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
            f"  disk        {units.num_bytes(cost.disk_bytes)}: {parts}; grown in {cost.dtype}",
            *_machine_lines(config, cost),
        ]
    )


def _machine_lines(config: GrowConfig, cost: Costs) -> list[str]:
    """Memory of a rank by part, FLOPs, time and price of each stage; training under other ZeRO stages."""
    if not cost.stages:
        return []
    ranks = next(iter(cost.stages.values())).ranks
    each = "" if cost.capacity is None else f" with {units.num_bytes(cost.capacity)} each"
    now = config.deepspeed.get("zero_optimization", {}).get("stage", 0)
    engine = f"zero{now}" if cost.zero else "torch"
    rows = [
        (f"{name}, {engine}" if name in ("train", "scratch", "short") else name, stage.memory)
        for name, stage in cost.stages.items()
    ]
    rows += [(f"train, zero{stage}", memory) for stage, memory in cost.zero.items() if stage != now]
    heads = [*Memory().parts, "peak"]
    lines = [
        f"  machine     {ranks} x {config.hardware.name}{each}; {cost.assumed}",
        f"  {'per rank':<16}" + "".join(f"{head:>12}" for head in heads) + "  at",
    ]
    for name, memory in rows:
        cells = [*memory.parts.values(), memory.peak]
        over = "" if cost.capacity is None or memory.peak <= cost.capacity else "  (does not fit)"
        lines.append(
            f"  {name:<16}"
            + "".join(f"{units.num_bytes(c) if c else '':>12}" for c in cells)
            + f"  {memory.phase}{over}"
        )
    price = config.hardware.price_per_hour
    lines.append(
        f"  {'in all':<16}{'FLOPs':>12}{'time':>16}{'device hours':>16}" + (f"{'price':>12}" if price else "")
    )
    for name, stage in cost.stages.items():
        hours = stage.hours()
        lines.append(
            f"  {name:<16}{units.si(stage.flops):>12}"
            + (
                f"{units.seconds(stage.seconds):>16}{hours:>16.3g}"
                if stage.seconds is not None and hours is not None
                else ""
            )
            + (f"{price * hours:>12.2f}" if price and hours is not None else "")
        )
    return lines


def check_memory(config: GrowConfig, plan: GrowthPlan, *, probe: bool = False) -> None:
    """Refuse what the machine's memory does not hold.

    Raises:
        ResourceError: the stage, what it needs and what there is; and which options would make it fit.
    """
    misfits = costs(config, plan, probe=probe).misfits
    if misfits:
        raise ResourceError("\n".join(misfits))


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
        print(json.dumps(plan_json(config, plan, probe=True) | growths, indent=2))
    else:
        print(plan_text(config, plan, probe=True) + schedule_text(config, plan, inner))
    check_memory(config, plan, probe=True)


if __name__ == "__main__":
    main(print_plan, DESCRIPTION, EXAMPLES)
