"""The config of one growth: a dataclass per group, checked before any work; `ligo.options` composes it from a command line."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from ligo.accounting.hardware import HardwareConfig
from ligo.core.errors import ConfigError, nearest
from ligo.data.config import DataConfig
from ligo.learning.config import LearnConfig
from ligo.operators.config import OperatorConfig
from ligo.options import Options, compose_options
from ligo.tracking.config import TrackingConfig
from ligo.training.config import TrainConfig

TRAINING_STAGES = frozenset({"train", "scratch", "short", "continue"})
STAGES = ("small", "learn", "write", "verify", "train", "scratch", "short", "continue", "report")
DTYPES = ("auto", "float16", "bfloat16", "float32", "float64")
STARTS = ("grown", "small")


@dataclass(kw_only=True)
class SmallTrainConfig:
    """How a small model that does not exist yet is trained (`small=scratch`)."""

    max_tokens: int = 4_194_304
    """Token budget; 0: it stays untrained, for train.start=small."""
    lr: float = 4e-3
    """Peak learning rate."""
    schedule: str = "wsd"
    """wsd keeps a stable phase to grow from; cosine or constant otherwise."""


@dataclass(kw_only=True)
class SmallConfig:
    """The trained checkpoint to start from."""

    name: str = "checkpoint"
    """Shown in plans and cards."""
    path: str | None = None
    """Checkpoint folder, or a .gguf file; goes before hub_id and package_file."""
    hub_id: str | None = None
    """Hub id, owner/name."""
    package_file: str | None = None
    """Folder or .gguf file inside an installed package: package:NAME/PATH."""
    install_hint: str | None = None
    """What to type to install that package."""
    optimizer_state: str | None = None
    """Its Adam moments: our optimizer.safetensors, a torch optimizer.pt, or a DeepSpeed universal checkpoint folder.
    null: the optimizer.safetensors in its folder. Only for operator.optimizer_state=grow or keep_old."""
    model: dict[str, Any] = field(default_factory=dict)
    """What its config.json says, so that a plan needs no weights."""
    train_tokens: float | None = None
    """Tokens it was trained on, if known: lets the ledger charge it. Not used with small.path."""
    train_sequence_length: int = 2048
    """Length of the windows it was trained on."""
    family: str = "llama"
    """small=scratch: llama, gpt2, gpt_neox, bert, roberta or vit."""
    shape: dict[str, int] = field(default_factory=dict)
    """small=scratch: sizes of the small model to train; the same names for all families."""
    train: SmallTrainConfig = field(default_factory=SmallTrainConfig)
    """small=scratch: how it is trained."""


@dataclass(kw_only=True)
class TargetConfig:
    """The shape to grow to; sizes that are null stay as in the small model."""

    name: str = "custom"
    """Shown in plans and cards."""
    hidden_size: int | None = None
    """Width of the residual stream."""
    num_hidden_layers: int | None = None
    """Layers."""
    num_attention_heads: int | None = None
    """Query heads."""
    num_key_value_heads: int | None = None
    """Key/value heads."""
    head_dim: int | None = None
    """Coordinates of one head."""
    intermediate_size: int | None = None
    """Units of the feed-forward block, or of each expert."""
    vocab_size: int | None = None
    """Tokens; new ones start at the mean of the old ones."""
    num_experts: int | None = None
    """Feed-forward blocks to choose from in each layer; of a dense small model, all start as copies of its block."""
    experts_per_token: int | None = None
    """Experts that each token takes. null: as in the small model; 2 where that is dense."""
    grown_lr: float = 3e-4
    """Peak rate known to work after growth; train.lr unless that is set."""
    scratch_lr: float = 3e-4
    """Peak rate for training from scratch; scratch.lr unless that is set."""
    scratch_lr_is_tuned: bool = False
    """Whether scratch_lr was found by a sweep that brackets it; the report says so where it was not."""


_TARGET_SIZES = {
    "num_hidden_layers": 2000,
    "num_experts": 10**4,
    "experts_per_token": 10**4,
    **dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), 10**7),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim"), 10**5),
}
"""Largest sizes that a target may have, far above those of any model: what is larger is a slip."""


@dataclass(kw_only=True)
class GrownTrainConfig(TrainConfig):
    """The training of the grown arm, and where it grows inside."""

    start: str = "grown"
    """grown: the model that the stage `write` made; small: the small model itself, grown only inside (train.growth)."""
    growth: list[Any] = field(default_factory=list)
    """Growths while it trains, in order: {at_tokens, target, operator}. Target and operator are names of their groups or
    keys of theirs; left out, the run's own. operator.optimizer_state is `grow` there unless it says otherwise."""


@dataclass(kw_only=True)
class ScratchConfig:
    """The scratch baseline; what is null is as in `train`."""

    lr: float | None = None
    """Its own tuned peak rate."""
    max_tokens: int | None = None
    """Its own token budget; the schedule is fitted to it."""
    schedule: str | None = None
    """cosine, wsd or constant."""
    warmup_fraction: float | None = None
    """Part of its steps spent warming up."""


@dataclass(kw_only=True)
class WriteConfig:
    """How the grown checkpoint is written."""

    dtype: str = "auto"
    """auto (float32 for small models stored in half precision whose growth is under 1 GiB, else as stored), or a dtype."""
    shard_bytes: int = 5_000_000_000
    """Largest safetensors file."""


@dataclass(kw_only=True)
class RunConfig:
    """Where the run lies."""

    dir: str | None = None
    """Run folder. null: runs/<study>/<name>-<hash of the config>."""
    study: str = "default"
    """Runs of one study lie side by side and are one group in W&B."""
    name: str | None = None
    """null: <small>-<target>-<operator>."""


@dataclass(kw_only=True)
class GrowConfig:
    """Everything that `ligo.grow` and `ligo.plan` read."""

    small: SmallConfig = field(default_factory=SmallConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    operator: OperatorConfig = field(default_factory=OperatorConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: GrownTrainConfig = field(default_factory=GrownTrainConfig)
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    write: WriteConfig = field(default_factory=WriteConfig)
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """DeepSpeed's own keys, passed through as they are."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    run: RunConfig = field(default_factory=RunConfig)
    stages: list[str] = field(
        default_factory=lambda: ["learn", "write", "verify", "train", "scratch", "report"]
    )
    """What to do, in this order; two are controls: `continue` trains the small model on, `short` is the scratch run on a
    schedule as short as the grown run's."""
    seed: int = 0
    """Of data order, noise and fresh weights; what is dropped follows from step and rank alone."""
    output: str = "text"
    """ligo.plan: text or json."""


class OnSmall(Protocol):
    """What the configs of all commands that work on a small model hold."""

    small: SmallConfig
    tracking: TrackingConfig
    run: RunConfig
    seed: int


_SCHEMAS: dict[str, type | None] = {
    "small": SmallConfig,
    "target": TargetConfig,
    "operator": OperatorConfig,
    "data": DataConfig,
    "tracking": TrackingConfig,
    "hardware": HardwareConfig,
    "deepspeed": None,
    "experiment": None,
}


def compose(arguments: list[str]) -> tuple[GrowConfig, str]:
    """Compose and check the config of a command line of `ligo.grow` or `ligo.plan`.

    Returns:
        The config as dataclasses, and as resolved YAML.

    Raises:
        ConfigError: as `compose_options` does.
    """
    config, text = compose_options(arguments, GROW)
    assert isinstance(config, GrowConfig)
    return config, text


def check(config: GrowConfig) -> None:
    """Checks that a type cannot express.

    Raises:
        ConfigError: the value, why it cannot be, and what to type instead.
    """
    from ligo.accounting.hardware import check as check_hardware
    from ligo.core.checks import check_between
    from ligo.data.config import check as check_data
    from ligo.learning.config import check as check_learning
    from ligo.operators.config import check as check_operator
    from ligo.tracking.config import check as check_tracking
    from ligo.training.config import check as check_training
    from ligo.training.config import check_moments

    for stage in config.stages:
        if stage not in STAGES:
            raise ConfigError(
                f"stages names {stage!r}, which is no stage.\n  Known: {', '.join(STAGES)}.\n"
                f"  Try: stages=[{nearest(stage, STAGES) or 'learn,write,verify'}]"
            )
    if "small" in config.stages and not config.small.shape:
        raise ConfigError(
            "the stage small trains the small model, and the small model is one at hand.\n"
            "  Try: +small=scratch with small.shape, or leave small out of stages"
        )
    if config.small.train_tokens is not None:
        check_between("small.train_tokens", config.small.train_tokens, 0, above=True)
    check_between("small.train_sequence_length", config.small.train_sequence_length, 1)
    if config.output not in ("text", "json"):
        raise ConfigError(f"output={config.output} is not text or json.\n  Try: output=json")
    if config.write.dtype not in DTYPES:
        raise ConfigError(
            f"write.dtype={config.write.dtype} is not one of {', '.join(DTYPES)}.\n  Try: write.dtype=float32"
        )
    if config.small.name == "scratch" and config.small.path is None and not config.small.shape:
        raise ConfigError(
            "small=scratch trains the small model first and needs its sizes.\n"
            "  Try: small.shape='{hidden_size: 64, num_hidden_layers: 3, num_attention_heads: 4, "
            "num_key_value_heads: 2, intermediate_size: 176, vocab_size: 2048}'"
        )
    arms = [("train", config.train), ("scratch", scratch_training(config))]
    if config.small.shape and config.small.train.max_tokens != 0:
        arms.append(("small.train", small_training(config)))
    for section, arm in arms:
        check_training(arm, section)
    _check_start(config)
    _check_short(config)
    check_target(config.target)
    check_data(config.data)
    check_operator(config.operator)
    check_learning(config.learn)
    if config.learn.operator is not None and config.operator.init is None:
        raise ConfigError(
            f"learn.operator={config.learn.operator} names maps that were learned, and operator={config.operator.name} has "
            "none.\n  Try: operator=ligo with the operator.init that they were learned from"
        )
    if config.learn.fit_to is not None and (
        config.operator.init is None or config.learn.operator is not None
    ):
        raise ConfigError(
            f"learn.fit_to={config.learn.fit_to} fits maps to a trained run, and "
            + (
                f"operator={config.operator.name} has none that are learned.\n  Try: operator=ligo"
                if config.operator.init is None
                else "learn.operator takes maps as they are.\n  Try: one of the two"
            )
        )
    check_tracking(config.tracking)
    check_hardware(config.hardware)
    if config.small.optimizer_state is not None and config.operator.optimizer_state == "reset":
        raise ConfigError(
            "small.optimizer_state names Adam moments, and operator.optimizer_state=reset leaves them out.\n"
            "  Try: operator.optimizer_state=grow, or leave small.optimizer_state out"
        )
    check_moments(config.train, config.operator.optimizer_state)
    check_between("data.sequence_length", config.data.sequence_length, 1)
    check_between("data.validation_tokens", config.data.validation_tokens, config.data.sequence_length)
    check_between("write.shard_bytes", config.write.shard_bytes, 1)
    if config.operator.init is not None:
        check_between("operator.batch_tokens", config.operator.batch_tokens, config.data.sequence_length)


def check_target(target: TargetConfig) -> None:
    """Refuse sizes that no model has.

    Raises:
        ConfigError: the size and its range are named.
    """
    from ligo.core.checks import check_between

    for key, size in vars(target).items():
        if size is not None and key in _TARGET_SIZES:
            check_between(f"target.{key}", size, 1, _TARGET_SIZES[key])


def _check_start(config: GrowConfig) -> None:
    from ligo.core.checks import check_choice

    start = config.train.start
    check_choice("train.start", start, STARTS)
    if start == "grown":
        return
    if not config.train.growth:
        raise ConfigError(
            "train.start=small begins with the small model, and without train.growth that never grows.\n"
            "  Try: train.growth=[{at_tokens: 200000}], or stages=[continue] to train the small model on"
        )
    before = [stage for stage in config.stages if stage in ("learn", "write", "verify")]
    if before:
        raise ConfigError(
            f"train.start=small grows the model while it trains, and stages names {', '.join(before)}, which grow it "
            "before.\n  Try: stages=[train,scratch,report]"
        )


def _check_short(config: GrowConfig) -> None:
    scratch = scratch_training(config).max_tokens
    if "short" in config.stages and scratch <= config.train.max_tokens:
        raise ConfigError(
            f"scratch.max_tokens={scratch} is no more than train.max_tokens={config.train.max_tokens}: the scratch run's "
            "schedule is short already, and the stage short would add nothing.\n  Try: leave short out of stages, or a longer scratch.max_tokens"
        )


def check_stage_order(config: GrowConfig, done: Collection[str]) -> None:
    """Refuse a stage whose input is neither `done` in the run folder nor made before it.

    Raises:
        ConfigError: the stage and what it lacks.
    """
    needs = {"verify": "write"} | ({"train": "write"} if config.train.start == "grown" else {})
    if config.operator.init is not None or config.operator.candidates:
        needs["write"] = "learn"
    made = set(done)
    for stage in config.stages:
        needed = needs.get(stage)
        if stage not in done and needed is not None and needed not in made:
            raise ConfigError(
                f"the stage '{stage}' needs what '{needed}' makes, which is not in the run folder and not asked for "
                f"before it.\n  Try: stages=[{needed},{stage}]"
            )
        made.add(stage)


def learns_maps(config: GrowConfig) -> bool:
    """Whether maps are learned, and not taken from elsewhere."""
    return "learn" in config.stages and config.operator.init is not None and config.learn.operator is None


def needs_objective(config: GrowConfig) -> bool:
    """Whether any stage asked for minimises a loss."""
    tries = "learn" in config.stages and bool(config.operator.candidates)
    return bool(TRAINING_STAGES & set(config.stages)) or learns_maps(config) or tries


def check_training_fits(config: GrowConfig) -> None:
    """Refuse, before any work, batches that do not divide over the ranks there are and DeepSpeed keys that cannot be.

    Raises:
        ConfigError: the numbers, and the nearest that fit.
    """
    from ligo.core.distributed import world_size
    from ligo.learning.config import check_partitions, learn_shape
    from ligo.training.compute import check_fits
    from ligo.training.config import batch_shape, check_deepspeed_keys

    if learns_maps(config):
        learn_shape(config.learn, config.operator.batch_tokens, config.data.sequence_length, world_size())
        if world_size() > 1:
            check_deepspeed_keys(config.deepspeed)
            check_partitions(config.operator.optimizer, config.deepspeed)
    for arm in _arms(config):
        batch_shape(arm, config.data.sequence_length, world_size())
        check_fits(arm, config.deepspeed)
        if arm.engine == "deepspeed":
            check_deepspeed_keys(config.deepspeed)
        elif world_size() > 1:
            raise ConfigError(
                f"train.engine=torch runs in one process, and there are {world_size()} ranks.\n"
                "  Try: train.engine=deepspeed"
            )


def most_windows(config: GrowConfig) -> int:
    """Sequences that the longest of the arms to be trained is given."""
    from ligo.training.schedule import num_steps

    length = config.data.sequence_length
    return max((num_steps(arm) * (arm.batch_tokens // length) for arm in _arms(config)), default=0)


def _arms(config: GrowConfig) -> list[TrainConfig]:
    """How everything that is to be trained is trained."""
    arms = [config.train, scratch_training(config)] if TRAINING_STAGES & set(config.stages) else []
    return [*arms, *([small_training(config)] if config.small.shape else [])]


def scratch_training(config: GrowConfig) -> TrainConfig:
    """The scratch arm's training: `train` with `scratch`'s own values."""
    own = {key: value for key, value in vars(config.scratch).items() if value is not None}
    return replace(_without_growth(config.train), rewarm_steps=0, **own)


def short_training(config: GrowConfig) -> TrainConfig:
    """The scratch arm's training with its schedule fitted to the grown arm's budget."""
    return replace(scratch_training(config), max_tokens=config.train.max_tokens)


def small_training(config: GrowConfig) -> TrainConfig:
    """The training of a small model that does not exist yet."""
    return replace(_without_growth(config.train), rewarm_steps=0, **vars(config.small.train))


def _without_growth(training: GrownTrainConfig) -> TrainConfig:
    return TrainConfig(**{field.name: getattr(training, field.name) for field in fields(TrainConfig)})


def wanted_dims(target: TargetConfig) -> dict[str, int | None]:
    """Target sizes, from config.json names to ligo's."""
    return {
        "hidden_size": target.hidden_size,
        "num_layers": target.num_hidden_layers,
        "num_heads": target.num_attention_heads,
        "num_kv_heads": target.num_key_value_heads,
        "head_dim": target.head_dim,
        "ffn_size": target.intermediate_size,
        "vocab_size": target.vocab_size,
        "num_experts": target.num_experts,
        "experts_per_token": target.experts_per_token,
    }


GROW = Options("grow", GrowConfig, _SCHEMAS, check)
"""The options of `ligo.grow` and `ligo.plan`."""
