"""python -m ligo.tune: a checkpoint, grown or not, learns to answer instructions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ligo.accounting.hardware import HardwareConfig
from ligo.accounting.hardware import check as check_hardware
from ligo.command import main
from ligo.config import RunConfig, SmallConfig
from ligo.core.distributed import world_size
from ligo.core.errors import CheckpointError, ConfigError, check_installed
from ligo.core.log import say
from ligo.grow import find_small, opened
from ligo.options import Options
from ligo.plan import known_config, name_after_folder
from ligo.tracking.config import TrackingConfig
from ligo.tuning.config import (
    InstructionDataConfig,
    TuneTrainConfig,
    TuningConfig,
    check,
    check_spread,
    check_zero,
)

DESCRIPTION = "Tune a checkpoint on instructions: all of its weights, or a LoRA or VeRA adapter, beside 4-bit weights too."
EXAMPLES = (
    "python -m ligo.tune small.path=DIR tuning=lora data.path=FILE.json train.batch_size=32",
    "python -m ligo.tune +recipe=alpaca-7b small.path=DIR data.path=FILE.json",
    "python -m ligo.tune small.path=DIR tuning=qlora tuning.peft.r=16 data.path=FILE.jsonl merge=true",
    "python -m ligo.tune +recipe=guanaco-65b hardware=a100 plan=true",
)


@dataclass(kw_only=True)
class TuneConfig:
    """Everything that `ligo.tune` reads."""

    small: SmallConfig = field(default_factory=SmallConfig)
    """The checkpoint; small.path may be a run's `grown` or `trained`."""
    tuning: TuningConfig = field(default_factory=TuningConfig)
    data: InstructionDataConfig = field(default_factory=InstructionDataConfig)
    train: TuneTrainConfig = field(default_factory=TuneTrainConfig)
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """DeepSpeed's own keys, passed through as they are."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    """The machine whose memory is planned for; none: no plan is made."""
    run: RunConfig = field(default_factory=RunConfig)
    plan: bool = False
    """Print what each rank will hold, and end: no weights are needed, no instructions, and no such machine."""
    merge: bool = False
    """Also write the model with the adapter added into its weights, as a stock folder `trained`."""
    seed: int = 0
    """Seeds the adapter and the order of the examples."""


def check_config(config: TuneConfig) -> None:
    """Checks that a type cannot express.

    Raises:
        ConfigError: the value, why it cannot be, and what to type instead.
    """
    from ligo.tracking.config import check as check_tracking
    from ligo.training.config import check_deepspeed_keys

    check(config.tuning, config.data, config.train)
    if config.data.path is None and not config.plan:
        raise ConfigError(
            "there are no instructions to tune on: data.path is not set.\n"
            "  Try: data.path=FILE.json with instruction, input and output in each record"
        )
    if config.train.engine == "deepspeed":
        check_deepspeed_keys(config.deepspeed)
    check_zero(config.tuning, config.train, config.deepspeed)
    check_tracking(config.tracking)
    check_hardware(config.hardware)
    if config.plan and config.hardware.is_unknown:
        raise ConfigError(
            "plan=true plans for a machine, and hardware=none names none.\n  Try: hardware=cpu, or h100"
        )


_GROUPS = {
    "small": SmallConfig,
    "tuning": TuningConfig,
    "tracking": TrackingConfig,
    "hardware": HardwareConfig,
    "deepspeed": None,
    "recipe": None,
}
OPTIONS = Options("tune", TuneConfig, _GROUPS, check_config)


def tune(config: TuneConfig, config_yaml: str) -> None:
    """Tune; nothing is written before checkpoint, adapter and instructions have been checked.

    Raises:
        LigoError: with the exit code that fits.
    """
    from ligo.core import distributed
    from ligo.core.libraries import quiet_libraries
    from ligo.core.run import Run, config_hash

    config = replace(config, small=name_after_folder(config.small))
    quiet_libraries()
    if config.plan:
        check_memory(config)
        return
    config = replace(config, hardware=replace(config.hardware, count=None))  # the ranks that there are
    check_extras(config)
    check_machine_fits(config)
    if not config.hardware.is_unknown and known_config(config.small) is not None:
        check_memory(config)
    joined_before = distributed.is_started()  # by the program that calls this
    run_config = yaml.safe_load(config_yaml)
    digest = config_hash(run_config)
    run = Run(run_folder(config, digest))
    inputs = read_inputs(config)
    with opened(run, config, run_config, config_yaml) as tracker:
        if distributed.is_main():
            base, text = inputs["base"].fingerprint(), inputs["instructions"].fingerprint
            run.check_same_inputs({"small": base, "text": text})
        distributed.barrier()

        from ligo.tuning.run import TuningRun

        TuningRun(
            tuning=config.tuning,
            train=config.train,
            deepspeed=config.deepspeed,
            seed=config.seed,
            max_length=config.data.max_length,
            base_model=base_model(config.small),
            run=run,
            config_hash=digest,
            tracker=tracker,
            **inputs,
        ).execute(merge=config.merge)
    if not joined_before:
        distributed.stop()


def check_memory(config: TuneConfig) -> None:
    """Print what each rank will hold, and refuse what the machine does not.

    Raises:
        CheckpointError: the shape of the checkpoint is not known without it.
        ResourceError: the memory is too small; options with which it is not are named.
    """
    from ligo.families.base import family_of
    from ligo.training.objectives import make_objective
    from ligo.tune_plan import TuningPlan

    known = known_config(config.small)
    if known is None:
        raise CheckpointError(
            f"the shape of the checkpoint '{config.small.name}' is not known: no config.json is at hand.\n"
            "  Try: small.path=DIR with a Hugging Face checkpoint folder, or another small="
        )
    family = family_of(known)
    make_objective(family, instructions=True)
    plan = TuningPlan(
        family, config.tuning, config.train, max_length=config.data.max_length, deepspeed=config.deepspeed,
        hardware=config.hardware,
    )  # fmt: skip
    say(plan.text(config.small.name))
    plan.check()


def base_model(small: SmallConfig) -> str:
    """The hub id if the checkpoint came from the hub, else a plain name."""
    elsewhere = small.path is not None or small.package_file is not None
    return small.name if elsewhere or small.hub_id is None else small.hub_id


def read_inputs(config: TuneConfig) -> dict[str, Any]:
    """The checkpoint, its family and objective, and the instructions, all of which go together.

    Raises:
        LigoError: a checkpoint, an adapter or a file of instructions that will not do.
    """
    from ligo.checkpoint.reader import Checkpoint
    from ligo.families.base import family_of
    from ligo.families.positions import num_positions
    from ligo.families.stock import expected_shapes
    from ligo.training.objectives import make_objective
    from ligo.tuning.adapters import check_adapter
    from ligo.tuning.batches import prepare_instructions
    from ligo.tuning.quantized import check_quantisable

    checkpoint = Checkpoint.open(find_small(config))
    family = family_of(checkpoint.config)
    base = checkpoint.named_for(family)
    base.expect(expected_shapes(family))
    objective = make_objective(family, base.tokenizer, instructions=True)
    if config.tuning.method != "full":
        check_adapter(family, config.tuning, base.fingerprint())
    if config.tuning.quantization == "nf4":
        check_quantisable(family)
    instructions = prepare_instructions(
        config.data, base.tokenizer(), family.dims.vocab_size, num_positions(checkpoint.config)
    )
    return {"base": base, "family": family, "objective": objective, "instructions": instructions}


def check_extras(config: TuneConfig) -> None:
    """Refuse now, not after an hour, where the run will need a package that is not installed.

    Raises:
        ConfigError: the extra that installs it is named.
    """
    if config.train.engine == "deepspeed":
        why = "train.engine=deepspeed (train.engine=torch does without)"
        check_installed("deepspeed", extra="deepspeed", why=why)
    if config.tuning.method != "full":
        why = f"tuning.method={config.tuning.method} (tuning=full does without)"
        check_installed("peft", extra="peft", why=why)
    if config.tuning.quantization == "nf4":
        check_installed("bitsandbytes", extra="nf4", why="tuning.quantization=nf4 (tuning=lora does without)")
    if config.tracking.wandb != "off":
        why = f"tracking.wandb={config.tracking.wandb} (tracking=jsonl does without)"
        check_installed("wandb", extra="wandb", why=why)


def check_machine_fits(config: TuneConfig) -> None:
    """Refuse batches, options and DeepSpeed keys that cannot be on these ranks and this machine.

    Raises:
        ConfigError: the option, and what would do.
    """
    from ligo.training.compute import check_fits
    from ligo.training.machine import check_machine

    check_spread(config.train, world_size())
    check_fits(config.train, config.deepspeed)
    if config.train.engine != "deepspeed" and world_size() > 1:
        raise ConfigError(
            f"train.engine=torch runs in one process, and there are {world_size()} ranks.\n"
            "  Try: train.engine=deepspeed"
        )
    check_machine(config.train, config.deepspeed)


def run_folder(config: TuneConfig, config_hash: str) -> Path:
    """`run.dir`, or runs/<study>/<name>-<hash>."""
    if config.run.dir is not None:
        return Path(config.run.dir).expanduser()
    prefix = "q" if config.tuning.quantization != "none" else ""
    name = config.run.name or f"{config.small.name}-{prefix}{config.tuning.method}"
    return Path("runs") / config.run.study / f"{name}-{config_hash}"


if __name__ == "__main__":
    main(tune, DESCRIPTION, EXAMPLES, OPTIONS)
