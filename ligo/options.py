"""Command lines in, configs out: composed by Hydra, every word checked against what there is.

Both `small=x` and `+small=x` are accepted: Hydra wants the plus only for groups that have no default, so it
is stripped from ours before Hydra parses. An unknown key or option is refused with the nearest name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from ligo.core.errors import ConfigError, nearest


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
    "learn.fit_to",
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


def strip_plus(arguments: list[str], groups: Collection[str]) -> list[str]:
    """`+small=x` -> `small=x`, for our own groups."""
    pattern = re.compile(rf"^\+({'|'.join(groups)})=")
    return [pattern.sub(r"\1=", argument) for argument in arguments]


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
