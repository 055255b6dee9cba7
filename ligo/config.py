"""The whole configuration: one dataclass per group, composed by Hydra, checked before any work.

Both `small=x` and `+small=x` are accepted: Hydra wants the plus only for groups that have no default, so it
is stripped from ours before Hydra parses. An unknown key or option is refused with the nearest name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import yaml

from ligo.accounting.hardware import HardwareConfig
from ligo.core.errors import ConfigError, nearest
from ligo.data.config import DataConfig
from ligo.learning.config import LearnConfig
from ligo.operators.config import OperatorConfig
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
    """Seeds everything: data order, noise, fresh weights."""
    output: str = "text"
    """ligo.plan: text or json."""


class OnSmall(Protocol):
    """What the configs of all commands that work on a small model hold."""

    small: SmallConfig
    tracking: TrackingConfig
    run: RunConfig
    seed: int


@dataclass(frozen=True)
class Options:
    """What a command line can set: the options of one command."""

    root: str
    """File in conf/ with the defaults; python -m ligo.<root>."""
    schema: type
    groups: Mapping[str, type | Mapping[str, type] | None]
    """The dataclass of each Hydra group; where its options have keys of their own, theirs by name; or None where its keys are
    another program's."""
    check: Callable[[Any], None]
    """Checks of the composed config that a type cannot express."""


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
GROUPS = tuple(_SCHEMAS)
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
    "prompt.seeds",
    "tuning.adapter",
    ".base",
    ".questions",
    ".include_path",
)
_FREE = (
    "deepspeed.",
    "small.model.",
    "small.shape.",
    "tuning.peft.",
    "models.",
    "evaluation.overrides.",
    "evaluation.metrics.",
)


def conf_dir() -> Path:
    """The folder of Hydra groups: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def register_schemas(command: Options) -> None:
    """Give Hydra the dataclass of every group, so that unknown keys and wrong types are refused."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name=f"{command.root}_schema", node=command.schema)
    for group, schema in command.groups.items():
        schemas = schema if isinstance(schema, Mapping) else {group: schema}
        for name, node in schemas.items():
            if node is not None:
                store.store(group=group, name=f"{name}_schema", node=node)


def options(group: str) -> list[str]:
    """The names that a group can be set to."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def strip_plus(arguments: list[str], groups: Collection[str] = GROUPS) -> list[str]:
    """`+small=x` -> `small=x`, for our own groups."""
    pattern = re.compile(rf"^\+({'|'.join(groups)})=")
    return [pattern.sub(r"\1=", argument) for argument in arguments]


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


def compose_options(arguments: list[str], command: Options) -> tuple[Any, str]:
    """Compose and check the config of a command line.

    Returns:
        The config as the command's dataclasses, and as resolved YAML.

    Raises:
        ConfigError: an unknown key or option (with the nearest name), a value of the wrong type, or one
            that cannot be.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    register_schemas(command)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        arguments = strip_plus(arguments, command.groups)
        chosen = [a for a in arguments if re.match(rf"({'|'.join(command.groups)})=[^{{]", a)]
        for argument in chosen:
            _check_option(*argument.split("=", 1))
        known = _flat_keys(OmegaConf.to_container(hydra_compose(command.root, chosen)))
        overrides = [_checked(argument, known, command) for argument in arguments]
        try:
            composed = hydra_compose(command.root, overrides)
            config = OmegaConf.to_object(composed)
        except (HydraException, OmegaConfBaseException, ValueError, OverflowError) as error:
            raise ConfigError(readable(error, command)) from error
    command.check(config)
    return config, OmegaConf.to_yaml(composed, resolve=True)


def compose_from_file(path: Path, command: Options) -> tuple[Any, str]:
    """The config in a file that holds all of it, resolved: a run's config.yaml, or what `ligo.launch` leaves for ranks.

    Raises:
        ConfigError: the file cannot be read, or as `compose_options` does.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        text = path.read_text(encoding="utf-8")
        tree, schema = OmegaConf.create(text), OmegaConf.structured(command.schema)
        for group, schemas in command.groups.items():
            if isinstance(schemas, Mapping):
                schema[group] = schemas[OmegaConf.select(tree, f"{group}.name")]
        config = OmegaConf.to_object(OmegaConf.merge(schema, tree))
    except OSError as error:
        raise ConfigError(
            f"--config {path} cannot be read: {error.strerror}.\n  Try: --config RUN/config.yaml"
        ) from error
    except (OmegaConfBaseException, yaml.YAMLError, KeyError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{path} holds no config: {readable(error, command)}.\n  Try: --config RUN/config.yaml"
        ) from error
    command.check(config)
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
    from ligo.learning.config import learn_shape
    from ligo.training.compute import check_fits
    from ligo.training.config import batch_shape, check_deepspeed_keys

    if learns_maps(config):
        learn_shape(config.learn, config.operator.batch_tokens, config.data.sequence_length, world_size())
        if world_size() > 1:
            check_deepspeed_keys(config.deepspeed)
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


def multirun_words(arguments: list[str], command: Options) -> list[str]:
    """The command line of a multirun as Hydra wants it, each word checked as in one run; lists of values stay lists.

    Raises:
        ConfigError: an unknown key or option, with the nearest name.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    register_schemas(command)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        known = _flat_keys(OmegaConf.to_container(hydra_compose(command.root)))
    words = []
    for word in strip_plus(arguments, command.groups):
        key, _, value = word.partition("=")
        if word.startswith(("-", "hydra")):
            words.append(word)
        elif (key in command.groups and "{" not in value) or key.endswith(_PATHS):
            checked = [_checked(f"{key}={one}", known, command) for one in value.split(",")]
            words.append(f"{key}=" + ",".join(one.partition("=")[2] for one in checked))
        else:
            words.append(_checked(word, known, command))
    return words


def _check_option(group: str, value: str) -> None:
    if value not in options(group):
        raise ConfigError(
            f"{group}={value} is not known.\n  Known: {', '.join(options(group))}."
            f"\n  Try: {group}={nearest(value, options(group)) or options(group)[0]}"
        )


def _checked(argument: str, known: list[str], command: Options) -> str:
    """One override, checked against the groups and keys there are, in the form that Hydra wants."""
    if "=" not in argument:
        group = next(iter(command.groups))
        raise ConfigError(
            f"cannot read the argument {argument!r}: it is not of the form key=value.\n"
            f"  Try: {group}={options(group)[0]}"
        )
    key, value = argument.split("=", 1)
    bare = key.lstrip("+~")
    if bare in command.groups and not value.startswith("{"):
        _check_option(bare, value)
        return argument
    free = f"{bare}.".startswith(_FREE) or bare == "data.sources"
    if not free and bare not in known:
        close = nearest(bare, known) or nearest(bare.split(".")[-1], [k.split(".")[-1] for k in known])
        full = close if close in known else next((k for k in known if k.split(".")[-1] == close), None)
        help_lists = f"python -m ligo.{command.root} --help lists them all"
        raise ConfigError(
            f"there is no option '{bare}'."
            + (
                f"\n  Try: {full}={value}"
                if full
                else f" The nearest is {nearest(bare, known, however_far=True)}.\n  Try: {help_lists}"
            )
        )
    if bare.endswith(_PATHS) and value and value != "null" and value[0] not in "'\"":
        # file names may hold anything, which Hydra's grammar would try to read as a list or a choice
        escaped = value.replace("'", "\\'")
        value = f"'{escaped}'"
    if bare.startswith("models."):  # OmegaConf makes entries of a typed dictionary only with all of it
        for key in reversed(bare.split(".")[1:]):
            value = f"{{{key}: {value}}}"
        bare = "models"
    return f"{'++' if free else ''}{bare}={value}"


def _flat_keys(tree: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        keys.append(prefix + key)
        if isinstance(value, dict):
            keys += _flat_keys(value, f"{prefix}{key}.")
    return keys


def readable(error: Exception, command: Options) -> str:
    """The telling lines of a Hydra or OmegaConf error; of one about an unknown key, the nearest there is."""
    if unknown := unknown_key(error):
        return unknown
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
        else f"python -m ligo.{command.root} --help lists the options and their defaults"
    )
    return f"the configuration cannot be composed: {message}\n  Try: {hint}"


def unknown_key(error: BaseException | None) -> str | None:
    """What to say of an error of Hydra or OmegaConf that is about a key of ours which there is not; else None."""
    while error is not None:
        section, key = getattr(error, "object_type", None), getattr(error, "key", None)
        names = [field.name for field in fields(section)] if is_dataclass(section) else []
        if isinstance(key, str) and names and key not in names:
            full = str(getattr(error, "full_key", None) or key)
            close = full.removesuffix(key) + str(nearest(key, names, however_far=True))
            return f"there is no option '{full}'.\n  Try: {close}=VALUE"
        error = error.__cause__
    return None


GROW = Options("grow", GrowConfig, _SCHEMAS, check)
"""The options of `ligo.grow` and `ligo.plan`."""
