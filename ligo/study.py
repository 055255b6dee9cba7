"""From the words of a study to its runs: every arm is composed, checked and planned before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

import yaml

from ligo.config import (
    TRAINING_STAGES,
    GrowConfig,
    check_stage_order,
    check_training_fits,
    compose,
    conf_dir,
    options,
)
from ligo.core.errors import ConfigError, LigoError, PlanError, nearest
from ligo.core.run import config_hash
from ligo.grow import check_extras, run_folder
from ligo.plan import known_config, make_plan, name_after_folder
from ligo.sweeps import grid, submit
from ligo.sweeps.grid import StudyConfig, Trial
from ligo.sweeps.submit import ClusterConfig

_OURS = ("study", "cluster")
_OPTION_LISTS = ("study.arms.", "study.sizes.", "study.overrides")
_HELD = ("seed", "small.", "target.", "data.", "train.batch_tokens")
"""What all arms of a study have in common: data order, evaluation set, token batch, and the models compared."""
_ITS_OWN = ("small.optimizer_state",)
"""Below `_HELD`, but an arm's own: whether the small run's moments are used is a way to grow."""
_RATES = ("train.lr", "scratch.lr")


@dataclass(kw_only=True)
class SweepConfig:
    """The options of `python -m ligo.sweep` that are not those of ligo.grow."""

    study: StudyConfig = field(default_factory=StudyConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass(frozen=True)
class Cell:
    """One arm at one size, which is what a study compares."""

    arm: str
    size: str
    options: tuple[str, ...]
    resolved: Mapping[str, Any]
    """The config that the options stand for."""
    config: GrowConfig
    study: str

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(self.config.stages)

    @property
    def loss_stage(self) -> str | None:
        """The stage whose final loss the arm is judged by; None: it trains nothing, or several things."""
        trains = [stage for stage in self.stages if stage in TRAINING_STAGES]
        return trains[0] if len(trains) == 1 else None

    @property
    def rate_key(self) -> str:
        return "scratch.lr" if self.loss_stage == "scratch" else "train.lr"

    def trial(self, seed: int, rate: float | None) -> Trial:
        """The cell's run at a seed and a rate (None: the rate that the arm has)."""
        own = {"seed": seed} if rate is None else {"seed": seed, self.rate_key: rate}
        name = f"{self.arm}-{self.size}" if self.size else self.arm
        run = replace(self.config.run, study=self.study, name=name, dir=None)
        folder = run_folder(replace(self.config, run=run), config_hash(_with(self.resolved, own)))
        words = [f"{key}={value!r}" for key, value in own.items()]
        words += [f"run.study={self.study}", f"run.name={name}", f"run.dir={folder}"]
        return Trial(
            folder=folder, arm=self.arm, size=self.size, seed=seed, rate=rate, stages=self.stages,
            loss_stage=self.loss_stage, options=_last_of_each([*self.options, *words]),
        )  # fmt: skip


def compose_sweep(arguments: Sequence[str]) -> tuple[SweepConfig, list[str]]:
    """The study and the cluster of a command line, and the options in it that are ligo.grow's.

    Raises:
        ConfigError: an unknown study, option or launcher, with the nearest name.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ours = [a for a in arguments if a.lstrip("+~").split("=")[0].split(".")[0] in _OURS]
    store = ConfigStore.instance()
    store.store(name="sweep_schema", node=SweepConfig)
    store.store(group="study", name="study_schema", node=StudyConfig)
    store.store(group="cluster", name="cluster_schema", node=ClusterConfig)
    overrides = [_for_hydra(argument) for argument in ours]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            config = OmegaConf.to_object(hydra_compose("sweep", overrides))
        except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
            cause = "; ".join(line.strip() for line in str(error.__cause__ or error).splitlines())
            raise ConfigError(
                f"the study cannot be composed: {cause}\n  Try: python -m ligo.sweep --help lists the options"
            ) from error
    assert isinstance(config, SweepConfig)
    grid.check(config.study)
    submit.check(config.cluster)
    return config, [argument for argument in arguments if argument not in ours]


def make_cells(study: StudyConfig, options: Sequence[str], progress: Any = None) -> list[Cell]:
    """All arms at all sizes, checked and planned.

    Args:
        options: of ligo.grow, for all runs; without arms in the study, comma lists make the arms.

    Raises:
        ConfigError: an option that is no arm's own, two cells that are one run, or a rate to be searched for an arm
            that trains nothing.
        PlanError: arms that cannot be built, each with the reason.
    """
    for argument in options:
        if argument.lstrip("+").startswith(("run.", "output=")):
            raise ConfigError(
                f"{argument}: a sweep gives each run its folder and its name.\n  Try: study.name=NAME, for runs/NAME/"
            )
    if study.arms:
        arms = study.arms
        _refuse_lists(options)
    else:
        arms, options = arms_of_lists(options)
    cells: list[Cell] = []
    refused: dict[str, str] = {}
    for size, size_options in (study.sizes or {"": []}).items():
        common = [*study.overrides, *size_options]
        base = _resolved([*common, *options]) if study.arms else None
        for arm, arm_options in arms.items():
            words = _last_of_each([*common, *arm_options, *options])
            try:
                config, resolved = _composed(words)
                if base is not None:
                    _check_held(base, resolved, searched=bool(study.learning_rates))
                _check_buildable(config)
            except LigoError as error:
                refused[f"{arm} ({size})" if size else arm] = str(error)
                continue
            cells.append(Cell(arm, size, words, resolved, config, study.name))
    if refused:
        raise _refusal(refused, len(refused) + len(cells), bool(study.arms))
    _check_searchable(study, cells)
    _check_different(study, cells)
    return cells


def arms_of_lists(options: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """`operator=a,b seed=0,1` -> an arm for each combination, and the options that are no lists."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    lists: list[list[str]] = []
    single: list[str] = []
    for argument in options:
        try:
            parsed = OverridesParser.create().parse_override(argument.lstrip("+"))
        except OverrideParseException:  # a file name, which may hold anything
            single.append(argument)
            continue
        if parsed.is_sweep_override():
            lists.append([f"{parsed.key_or_group}={value}" for value in parsed.sweep_string_iterator()])
        else:
            single.append(argument)
    arms = {}
    for combination in product(*lists):
        name = "-".join(_slug(word, alone=len(lists) == 1) for word in combination) or "run"
        if name in arms:
            raise ConfigError(
                f"{name} is asked for twice, which would be two runs with one name.\n  Try: each value once"
            )
        arms[name] = list(combination)
    return arms, single


# --- checks ---------------------------------------------------------------------------------------------


def _check_held(base: Mapping[str, Any], resolved: Mapping[str, Any], *, searched: bool) -> None:
    """Refuse an arm that sees other data, evaluates on others, or takes other batches than the rest."""
    before, after = _flat(base), _flat(resolved)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key) or key in _ITS_OWN:
            continue
        changed = f"it sets {key}={after.get(key)}, and the study has {before.get(key)}"
        if key.startswith("run."):
            raise ConfigError(f"{changed}; runs are named by the study")
        if key in _RATES and searched:
            raise ConfigError(f"{changed}; rates are the study's to search: study.learning_rates")
        if key.startswith(_HELD):
            raise ConfigError(
                f"{changed}; arms that differ in it would not be comparable: it belongs to study.overrides or study.sizes"
            )


def _check_buildable(config: GrowConfig) -> None:
    """Refuse what ligo.grow would refuse before it begins."""
    small = name_after_folder(config.small)
    check_extras(config)
    check_training_fits(config)
    check_stage_order(config, ())
    known = known_config(small)
    if known is not None:
        make_plan(replace(config, small=small), known)


def _refusal(refused: Mapping[str, str], num_cells: int, named: bool) -> PlanError:
    lines = [f"{len(refused)} of {num_cells} arms cannot be built; nothing was started."]
    for arm, reason in refused.items():
        lines.append(f"  {arm}: " + reason.replace("\n", "\n    "))
    if named:
        out = " ".join(
            f"'~study.arms.{arm}'" for arm in dict.fromkeys(name.split(" ")[0] for name in refused)
        )
        lines.append(f"  Try: leave them out: {out}")
    return PlanError("\n".join(lines))


def _check_searchable(study: StudyConfig, cells: Iterable[Cell]) -> None:
    for cell in cells:
        if study.learning_rates and cell.loss_stage is None:
            trains = [stage for stage in cell.stages if stage in TRAINING_STAGES]
            raise ConfigError(
                f"arm {cell.arm} has stages={list(cell.stages)}, which train {'several things' if trains else 'nothing'}: "
                "there is no one loss to search a rate by.\n"
                "  Try: exactly one of train, scratch, continue among its stages, or study.learning_rates=[]"
            )


def _check_different(study: StudyConfig, cells: Iterable[Cell]) -> None:
    """Refuse arms that are the same run under two names, or two runs under one."""
    rate = study.learning_rates[0] if study.learning_rates else None
    seen: dict[Any, Cell] = {}
    for cell in cells:
        trial = cell.trial(study.seeds[0], rate)
        same = (trial.folder.name.rsplit("-", 1)[1], cell.stages)
        for key in (same, trial.folder):
            if key in seen:
                raise ConfigError(
                    f"{seen[key].arm} and {cell.arm} are two names of one run: same config, same stages "
                    f"({trial.folder}).\n  Try: '~study.arms.{cell.arm}'"
                )
            seen[key] = cell


def _refuse_lists(options: Sequence[str]) -> None:
    lists, _ = arms_of_lists(options)
    if list(lists) != ["run"]:
        word = next(iter(lists.values()))[0]
        key = word.split("=")[0]
        hint = {"seed": "study.seeds=[0,1]", **dict.fromkeys(_RATES, "study.learning_rates=[1e-3,2e-3]")}
        raise ConfigError(
            f"a list of values for {key} makes arms, and the study names its own.\n"
            f"  Try: {hint.get(key, f'study.arms.NAME=[{word}], or leave +study= out')}"
        )


# --- words and trees ------------------------------------------------------------------------------------


def _for_hydra(argument: str) -> str:
    """One of our own options, checked, in the form that Hydra wants."""
    key, _, value = argument.partition("=")
    bare = key.lstrip("+~")
    if key.startswith("~"):
        return argument
    if bare in _OURS:
        if value not in options(bare):
            raise ConfigError(
                f"{bare}={value} is not known.\n  Known: {', '.join(options(bare))}."
                f"\n  Try: {'+' if bare == 'study' else ''}{bare}={nearest(value, options(bare)) or options(bare)[0]}"
            )
        return f"{bare}={value}"
    if bare.startswith(_OPTION_LISTS):
        return f"++{bare}=[{','.join(map(_quoted, _split_list(value)))}]"
    if bare.startswith("cluster.slurm."):
        return f"++{bare}={value}"
    known = [f"{group}.{f.name}" for group, schema in _SCHEMAS.items() for f in fields(schema)]
    if bare not in known:
        raise ConfigError(f"there is no option '{bare}'.\n  Try: {nearest(bare, known) or known[0]}={value}")
    return f"{bare}={value}"


def _split_list(value: str) -> list[str]:
    """`[a=b,c=[d,e]]` -> a=b and c=[d,e]: options in a list, which Hydra would want quoted."""
    parts, depth = [""], 0
    for letter in value.removeprefix("[").removesuffix("]"):
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip().strip("'\"") for part in parts if part.strip()]


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "\\'") + "'"


_SCHEMAS: dict[str, Any] = {"study": StudyConfig, "cluster": ClusterConfig}


def _composed(words: Sequence[str]) -> tuple[GrowConfig, dict[str, Any]]:
    config, text = compose(list(words))
    return config, yaml.safe_load(text)


def _resolved(words: Sequence[str]) -> dict[str, Any]:
    return _composed(_last_of_each(words))[1]


def _last_of_each(words: Iterable[str]) -> tuple[str, ...]:
    """Each option once, the last one that was given: Hydra refuses a group that is set twice."""
    last: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0].lstrip("+")
        last.pop(key, None)
        last[key] = word
    return tuple(last.values())


def _with(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with other values under dotted keys."""
    changed = dict(tree)
    for key, value in values.items():
        head, _, rest = key.partition(".")
        changed[head] = _with(changed[head], {rest: value}) if rest else value
    return changed


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return dict(_leaves(tree, prefix))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _slug(word: str, alone: bool) -> str:
    """`operator=ligo` -> `ligo` where it is the only list, else `operator-ligo`: what a folder can be called."""
    key, _, value = word.partition("=")
    text = value if alone or key == "operator" else f"{key.split('.')[-1]}-{value}"
    return (
        "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in text).strip("-.")
        or "none"
    )
