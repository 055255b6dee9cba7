"""Growth inside a run, as data: when the grown arm grows while it trains, into what, and how (`train.growth`).

A growth is `{at_tokens: 200000, target: ..., operator: ...}`. Target and operator are names of the groups in conf/, or
keys of theirs; what is left out is the run's own. Everything that can be refused is refused here, from shapes alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from ligo.accounting.flops import model_flops
from ligo.config import GrowConfig, TargetConfig, check_target, wanted_dims
from ligo.core import units
from ligo.core.checks import check_between
from ligo.core.errors import ConfigError, PlanError, nearest
from ligo.families.base import Family
from ligo.growth.plan import GrowthPlan, check_moments, plan_growth
from ligo.operators.config import OperatorConfig, build
from ligo.operators.config import check as check_operator
from ligo.options import conf_dir, options
from ligo.training.schedule import num_steps

_KEYS = ("at_tokens", "target", "operator")
_EXAMPLE = "train.growth=[{at_tokens: 200000, target: {num_hidden_layers: 12}, operator: exact}]"

Schema = TypeVar("Schema", TargetConfig, OperatorConfig)


@dataclass(frozen=True)
class Growth:
    """One growth inside the grown arm."""

    number: int
    """From 1."""
    at_tokens: int
    target: TargetConfig
    operator: OperatorConfig
    """Its `optimizer_state` is `grow` unless the growth says otherwise."""

    def config(self, run: GrowConfig, small: Path) -> GrowConfig:
        """The config of this growth as a run of its own, which grows the checkpoint `small` in float32.

        Its seed is another than the run's, so that noise is drawn anew.
        """
        return replace(
            run,
            small=replace(run.small, path=str(small), optimizer_state=None, shape={}),
            target=self.target,
            operator=self.operator,
            write=replace(run.write, dtype="float32"),
            seed=run.seed + self.number,
            stages=["learn", "write", "verify"],
        )


def read_growths(config: GrowConfig) -> tuple[Growth, ...]:
    """The growths of `train.growth`, in order.

    Raises:
        ConfigError: a key or a name that is not known, a value that cannot be, or a time that is no step of the
            budget or not after the one before.
    """
    found = tuple(_growth(entry, n, config) for n, entry in enumerate(config.train.growth, start=1))
    step, total = config.train.batch_tokens, num_steps(config.train)
    before = 0
    for growth in found:
        where = f"{_place(growth.number)}.at_tokens={growth.at_tokens}"
        if growth.at_tokens % step:
            raise ConfigError(
                f"{where} is not a whole number of steps of train.batch_tokens={step}.\n"
                f"  Try: at_tokens: {max(1, round(growth.at_tokens / step)) * step}"
            )
        if growth.at_tokens <= before:
            after = f"the growth before it, at {before}" if before else "the first step"
            raise ConfigError(f"{where} is not after {after}.\n  Try: at_tokens: {before + step}")
        if growth.at_tokens >= total * step:
            raise ConfigError(
                f"{where} is beyond the budget: nothing of train.max_tokens={config.train.max_tokens} would be left to "
                f"train the grown model on.\n  Try: at_tokens: {(total - 1) * step} at most, or a larger train.max_tokens"
            )
        before = growth.at_tokens
    return found


def before_training(config: GrowConfig, growths: Sequence[Growth]) -> GrowConfig:
    """The config of the growth that the run's plan shows: with train.start=small, that is the first one inside.

    What becomes of the small model's own moments stays as the run says.
    """
    if config.train.start != "small":
        return config
    operator = replace(growths[0].operator, optimizer_state=config.operator.optimizer_state)
    return replace(config, target=growths[0].target, operator=operator)


def first_model(config: GrowConfig, plan: GrowthPlan) -> Family:
    """The model that the grown arm begins with, by the plan of `before_training`."""
    return plan.small if config.train.start == "small" else plan.target


def plan_growths(first: Family, growths: Sequence[Growth]) -> list[GrowthPlan]:
    """The plans of all growths, each of what the one before makes.

    Args:
        first: the model that the arm begins with.

    Raises:
        PlanError: a growth cannot be, in the planner's own words.
    """
    plans: list[GrowthPlan] = []
    model_config = first.config
    for growth in growths:
        with _named(f"{_place(growth.number)} (at {growth.at_tokens} tokens)"):
            plan = plan_growth(model_config, wanted_dims(growth.target), build(growth.operator))
            check_moments(plan, growth.operator.optimizer_state)
        plans.append(plan)
        model_config = plan.target_config
    return plans


def schedule_json(config: GrowConfig, plan: GrowthPlan, growths: Sequence[Growth]) -> list[dict[str, Any]]:
    """The same as plain data."""
    plans = plan_growths(first_model(config, plan), growths)
    return [
        {"at_tokens": growth.at_tokens, "operator": asdict(growth.operator), **inner.as_json()}
        for growth, inner in zip(growths, plans, strict=True)
    ]


def disk_bytes(plans: Sequence[GrowthPlan]) -> int:
    """What the growths leave on the disk: models before and after in float32, and two moments of each number."""
    return sum(12 * (plan.small.num_parameters + plan.target.num_parameters) for plan in plans)


def training_flops(config: GrowConfig, growths: Sequence[Growth], plans: Sequence[GrowthPlan]) -> int:
    """FLOPs of training the whole arm, each segment at its own model's; what growing costs is left out."""
    tokens, length = config.train.batch_tokens, config.data.sequence_length
    return sum(
        len(steps) * tokens * model_flops(family, length).training
        for family, steps in segments(config, growths, plans)
    )


def segments(
    config: GrowConfig, growths: Sequence[Growth], plans: Sequence[GrowthPlan]
) -> list[tuple[Family, range]]:
    """The models of the arm, each with the steps that it is trained for."""
    families = [plans[0].small, *(plan.target for plan in plans)]
    growing = (growth.at_tokens // config.train.batch_tokens for growth in growths)
    bounds = [0, *growing, num_steps(config.train)]
    return [
        (family, range(begin, end)) for family, (begin, end) in zip(families, pairwise(bounds), strict=True)
    ]


def schedule_text(config: GrowConfig, plan: GrowthPlan, growths: Sequence[Growth]) -> str:
    """The growths for a person to read, below the text of the `plan` of `before_training`; nothing where there are none.

    Raises:
        PlanError: a growth cannot be.
    """
    if not growths:
        return ""
    plans = plan_growths(first_model(config, plan), growths)
    length, lines = config.data.sequence_length, ["", "Growth inside the run:"]
    for growth, inner in zip(growths, plans, strict=True):
        operator = growth.operator.name
        if growth.operator.init:
            operator += f", learned from {growth.operator.init}"
        small, target = inner.small.dims, inner.target.dims
        lines += [
            f"  at {units.si(growth.at_tokens, 'token')}s: {growth.target.name}, operator {operator}, "
            f"moments {growth.operator.optimizer_state}",
            f"    width {small.hidden_size} -> {target.hidden_size}, layers {small.num_layers} -> {target.num_layers}, "
            f"parameters {inner.small.num_parameters:,} -> {inner.target.num_parameters:,}, "
            f"{units.flops(model_flops(inner.target, length).training)} per training token",
            f"    {'exact' if inner.exactness.exact else 'not exact'}: {inner.exactness.reason}",
        ]
    total = units.flops(training_flops(config, growths, plans))
    return "\n".join([*lines, f"  training on {units.si(config.train.max_tokens, 'token')}s in all: {total}"])


def _place(number: int) -> str:
    return f"train.growth[{number - 1}]"


def _growth(entry: Any, number: int, config: GrowConfig) -> Growth:
    where = _place(number)
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}={entry!r} is no growth, which is a mapping of keys.\n  Try: {_EXAMPLE}")
    _check_keys(entry, _KEYS, where)
    at_tokens = entry.get("at_tokens")
    if not isinstance(at_tokens, int) or isinstance(at_tokens, bool):
        raise ConfigError(f"{where}.at_tokens={at_tokens} is no number of tokens.\n  Try: {_EXAMPLE}")
    with _named(where):
        target = _target(entry.get("target"), config)
        operator = _operator(entry.get("operator"), config)
    return Growth(number, at_tokens, target, operator)


def _target(value: Any, config: GrowConfig) -> TargetConfig:
    if value is None:
        return config.target
    if isinstance(value, str):
        target = _filled(TargetConfig, _option("target", value), {})
    else:
        target = _filled(TargetConfig, {}, _mapping("target", value))
    check_target(target)
    return target


def _operator(value: Any, config: GrowConfig) -> OperatorConfig:
    own = {"name": value} if isinstance(value, str) else _mapping("operator", value or {})
    base = _option("operator", own["name"]) if "name" in own else asdict(config.operator)
    operator = _filled(OperatorConfig, {**base, "optimizer_state": "grow"}, own)
    if operator.candidates:
        raise ConfigError(
            f"operator={operator.name} tries several operators, which is done before training and not inside of it.\n"
            f"  Try: operator: {operator.candidates[0]}"
        )
    check_operator(operator)
    if operator.init is not None:
        check_between("operator.batch_tokens", operator.batch_tokens, config.data.sequence_length)
    return operator


def _mapping(group: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{group}={value!r} is neither a name nor a mapping of keys.\n  Known names: {', '.join(options(group))}"
        )
    return dict(value)


def _option(group: str, name: str) -> dict[str, Any]:
    """What the file of an option of a group says."""
    import yaml

    if name not in options(group):
        known = options(group)
        raise ConfigError(
            f"{group}={name} is not known.\n  Known: {', '.join(known)}.\n  Try: {group}: {nearest(name, known) or known[0]}"
        )
    said = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return {key: value for key, value in said.items() if key != "defaults"}


def _filled(schema: type[Schema], base: Mapping[str, Any], own: Mapping[str, Any]) -> Schema:
    """A group's dataclass with these values, checked for keys and types as Hydra checks them."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    _check_keys(own, [field.name for field in fields(schema)], schema.__name__.removesuffix("Config").lower())
    try:
        merged: Any = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(schema), dict(base), dict(own))
        )
    except OmegaConfBaseException as error:
        raise ConfigError(f"{str(error).splitlines()[0]}\n  Try: a value of the right type") from error
    return merged


def _check_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            close = nearest(str(key), known)
            raise ConfigError(
                f"{where} has no key '{key}'.\n  Known: {', '.join(known)}."
                + (f"\n  Try: {close}: {given[key]}" if close else "")
            )


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say which growth is meant in what is refused inside."""
    try:
        yield
    except ConfigError as error:
        kind = PlanError if isinstance(error, PlanError) else ConfigError
        raise kind(f"{where}: {error}") from error
