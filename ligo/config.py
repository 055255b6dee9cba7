"""The whole configuration: one dataclass per group, composed by Hydra, checked before any work.

Both `small=x` and `+small=x` are accepted: Hydra wants the plus only for groups that have no default, so it
is stripped from ours before Hydra parses. An unknown key or option is refused with the nearest name.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ligo.core.errors import ConfigError, nearest
from ligo.data.sources import DataConfig
from ligo.learning.config import LearnConfig
from ligo.operators.config import OperatorConfig
from ligo.tracking.config import TrackingConfig
from ligo.training.config import TrainConfig

TRAINING_STAGES = frozenset({"train", "scratch", "continue"})
STAGES = ("learn", "write", "verify", "train", "scratch", "continue", "report")
DTYPES = ("auto", "float16", "bfloat16", "float32", "float64")


@dataclass(kw_only=True)
class SmallTrainConfig:
    """How a small model that does not exist yet is trained (`small=scratch`)."""

    max_tokens: int = 4_194_304
    """Token budget."""
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
    """small=scratch: llama, gpt2, gpt_neox, bert or vit."""
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
    "num_hidden_layers": 10**4,
    "num_experts": 10**4,
    "experts_per_token": 10**4,
    **dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), 10**7),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim"), 10**5),
}
"""Largest sizes that a target may have, far above those of any model: what is larger is a slip."""


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
    train: TrainConfig = field(default_factory=TrainConfig)
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    write: WriteConfig = field(default_factory=WriteConfig)
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """DeepSpeed's own keys, passed through as they are."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    run: RunConfig = field(default_factory=RunConfig)
    stages: list[str] = field(
        default_factory=lambda: ["learn", "write", "verify", "train", "scratch", "report"]
    )
    """What to do, in this order; `continue` trains the small model on, as a control."""
    seed: int = 0
    """Seeds everything: data order, noise, fresh weights."""
    output: str = "text"
    """ligo.plan: text or json."""


_SCHEMAS: dict[str, type] = {
    "small": SmallConfig,
    "target": TargetConfig,
    "operator": OperatorConfig,
    "data": DataConfig,
    "tracking": TrackingConfig,
}
GROUPS = (*_SCHEMAS, "deepspeed", "experiment")
# Keys below these are not ours to name: config.json keys, DeepSpeed's keys.
_PATHS = (
    ".path",
    ".validation_path",
    ".dir",
    ".cache_dir",
    ".name",
    ".package_file",
    "small.optimizer_state",
    "learn.operator",
)
_FREE = ("deepspeed.", "small.model.", "small.shape.")


def conf_dir() -> Path:
    """The folder of Hydra groups: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def register_schemas() -> None:
    """Give Hydra the dataclass of every group, so that unknown keys and wrong types are refused."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="grow_schema", node=GrowConfig)
    for group, schema in _SCHEMAS.items():
        store.store(group=group, name=f"{group}_schema", node=schema)


def options(group: str) -> list[str]:
    """The names that a group can be set to."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def strip_plus(arguments: list[str]) -> list[str]:
    """`+small=x` -> `small=x`, for our own groups."""
    pattern = re.compile(rf"^\+({'|'.join(GROUPS)})=")
    return [pattern.sub(r"\1=", argument) for argument in arguments]


def compose(arguments: list[str]) -> tuple[GrowConfig, str]:
    """Compose and check the config of a command line.

    Returns:
        The config as dataclasses, and as resolved YAML.

    Raises:
        ConfigError: an unknown key or option (with the nearest name), a value of the wrong type, or one
            that cannot be.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        known = _flat_keys(OmegaConf.to_container(hydra_compose("grow")))
        overrides = [_checked(argument, known) for argument in strip_plus(arguments)]
        try:
            composed = hydra_compose("grow", overrides)
            config = OmegaConf.to_object(composed)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_readable(error)) from error
    assert isinstance(config, GrowConfig)
    check(config)
    return config, OmegaConf.to_yaml(composed, resolve=True)


def check(config: GrowConfig) -> None:
    """Checks that a type cannot express.

    Raises:
        ConfigError: the value, why it cannot be, and what to type instead.
    """
    from ligo.core.checks import check_between
    from ligo.learning.config import check as check_learning
    from ligo.operators.config import check as check_operator
    from ligo.tracking.config import check as check_tracking
    from ligo.training.config import check as check_training

    for stage in config.stages:
        if stage not in STAGES:
            raise ConfigError(
                f"stages names {stage!r}, which is no stage.\n  Known: {', '.join(STAGES)}.\n"
                f"  Try: stages=[{nearest(stage, STAGES) or 'learn,write,verify'}]"
            )
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
    if config.small.shape:
        arms.append(("small.train", small_training(config)))
    for section, arm in arms:
        check_training(arm, section)
    for key, size in vars(config.target).items():
        if size is not None and key in _TARGET_SIZES:
            check_between(f"target.{key}", size, 1, _TARGET_SIZES[key])
    check_operator(config.operator)
    check_learning(config.learn)
    if config.learn.operator is not None and config.operator.init is None:
        raise ConfigError(
            f"learn.operator={config.learn.operator} names maps that were learned, and operator={config.operator.name} has "
            "none.\n  Try: operator=ligo with the operator.init that they were learned from"
        )
    check_tracking(config.tracking)
    if config.small.optimizer_state is not None and config.operator.optimizer_state == "reset":
        raise ConfigError(
            "small.optimizer_state names Adam moments, and operator.optimizer_state=reset leaves them out.\n"
            "  Try: operator.optimizer_state=grow, or leave small.optimizer_state out"
        )
    check_between("data.sequence_length", config.data.sequence_length, 1)
    check_between("data.validation_tokens", config.data.validation_tokens, config.data.sequence_length)
    check_between("write.shard_bytes", config.write.shard_bytes, 1)
    if config.operator.init is not None:
        check_between("operator.batch_tokens", config.operator.batch_tokens, config.data.sequence_length)


def check_stage_order(config: GrowConfig, done: Collection[str]) -> None:
    """Refuse a stage whose input is neither `done` in the run folder nor made before it.

    Raises:
        ConfigError: the stage and what it lacks.
    """
    needs = {"verify": "write", "train": "write"}
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
    from ligo.learning.config import learn_shape
    from ligo.training.config import batch_shape, check_deepspeed_keys

    if learns_maps(config):
        learn_shape(config.learn, config.operator.batch_tokens, config.data.sequence_length, world_size())
        if world_size() > 1:
            check_deepspeed_keys(config.deepspeed)
    arms = [config.train, scratch_training(config)] if TRAINING_STAGES & set(config.stages) else []
    for arm in [*arms, *([small_training(config)] if config.small.shape else [])]:
        batch_shape(arm, config.data.sequence_length, world_size())
        if arm.engine == "deepspeed":
            check_deepspeed_keys(config.deepspeed)
        elif world_size() > 1:
            raise ConfigError(
                f"train.engine=torch runs in one process, and there are {world_size()} ranks.\n"
                "  Try: train.engine=deepspeed"
            )


def scratch_training(config: GrowConfig) -> TrainConfig:
    """The scratch arm's training: `train` with `scratch`'s own values."""
    own = {key: value for key, value in vars(config.scratch).items() if value is not None}
    return replace(config.train, **own)


def small_training(config: GrowConfig) -> TrainConfig:
    """The training of a small model that does not exist yet."""
    return replace(config.train, **vars(config.small.train))


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


def check_choices(argument: str) -> None:
    """Check every value of a comma list against the options of its group, for sweeps.

    Raises:
        ConfigError: an unknown option, with the nearest name.
    """
    key, _, values = strip_plus([argument])[0].partition("=")
    for value in values.split(",") if key in GROUPS else ():
        _check_option(key, value)


def _check_option(group: str, value: str) -> None:
    if value not in options(group):
        raise ConfigError(
            f"{group}={value} is not known.\n  Known: {', '.join(options(group))}."
            f"\n  Try: {group}={nearest(value, options(group)) or options(group)[0]}"
        )


def _checked(argument: str, known: list[str]) -> str:
    """One override, checked against the groups and keys there are, in the form that Hydra wants."""
    if "=" not in argument:
        raise ConfigError(
            f"cannot read the argument {argument!r}: it is not of the form key=value.\n  Try: small=tiny-llama"
        )
    key, value = argument.split("=", 1)
    bare = key.lstrip("+~")
    if bare in GROUPS and not value.startswith("{"):
        _check_option(bare, value)
        return argument
    if f"{bare}.".startswith(_FREE):
        return f"++{bare}={value}"
    if bare not in known:
        close = nearest(bare, known) or nearest(bare.split(".")[-1], [k.split(".")[-1] for k in known])
        full = next((k for k in known if k == close or k.split(".")[-1] == close), None)
        raise ConfigError(
            f"there is no option '{bare}'."
            + (f"\n  Try: {full}={value}" if full else "\n  Try: python -m ligo.grow --help lists them all")
        )
    if bare.endswith(_PATHS) and value and value != "null" and value[0] not in "'\"":
        # file names may hold anything, which Hydra's grammar would try to read as a list or a choice
        escaped = value.replace("'", "\\'")
        return f"{bare}='{escaped}'"
    return f"{bare}={value}"


def _flat_keys(tree: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        keys.append(prefix + key)
        if isinstance(value, dict):
            keys += _flat_keys(value, f"{prefix}{key}.")
    return keys


def _readable(error: Exception) -> str:
    """The telling lines of a Hydra or OmegaConf error."""
    cause = error.__cause__ if error.__cause__ is not None else error
    lines = [line.strip() for line in f"{error}\n{cause}".splitlines() if line.strip()]
    telling = list(
        dict.fromkeys(line for line in lines if not line.startswith(("object_type", "reference_type")))
    )
    key = next(
        (line.removeprefix("full_key:").strip() for line in telling if line.startswith("full_key:")), None
    )
    message = "; ".join(line for line in telling if not line.startswith("full_key:"))
    hint = (
        f"{key}=VALUE of the right type"
        if key
        else "python -m ligo.grow --help lists the options and their defaults"
    )
    return f"the configuration cannot be composed: {message}\n  Try: {hint}"
