"""From the words of a study to its runs: every arm is composed, checked and planned before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

import yaml

from ligo.config import GrowConfig, check_stage_order, check_training_fits, compose
from ligo.core.errors import ConfigError, LigoError, PlanError, nearest
from ligo.core.log import progress
from ligo.core.run import config_hash
from ligo.grow import check_extras, run_folder
from ligo.options import conf_dir, options, unknown_key
from ligo.plan import known_config, make_plan, name_after_folder
from ligo.sweeps import grid, slurm, submit
from ligo.sweeps.grid import StudyConfig, Trial
from ligo.sweeps.submit import ClusterConfig
from ligo.sweeps.words import arms_of_lists, flat, last_of_each, quoted, split_list, with_values

_OURS = ("study", "cluster")
_LEFT_OUT = ("~study.arms.", "~study.sizes.")
_OPTION_LISTS = ("study.arms.", "study.sizes.", "study.overrides")
_HELD = ("seed", "small.", "target.", "data.", "train.batch_tokens")
"""What all arms of a study have in common: data order, evaluation set, token batch, and the models compared."""
_ITS_OWN = ("small.optimizer_state", "small.train.", "small.shape.")
"""Below `_HELD`, but an arm's own: whether the small run's moments are used, and how large a small model is that is made for the
purpose, and how long it is trained, are ways to grow."""
_RATES = {
    "train": "train.lr",
    "continue": "train.lr",
    "scratch": "scratch.lr",
    "short": "scratch.lr",
    "small": "small.train.lr",
}
"""The stages that train something, and where the rate of each is set."""


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
        trains = [stage for stage in self.stages if stage in _RATES]
        return trains[0] if len(trains) == 1 else None

    @property
    def rate_key(self) -> str:
        return _RATES[self.loss_stage or "train"]

    def trial(self, seed: int, rate: float | None) -> Trial:
        """The cell's run at a seed and a rate (None: the rate that the arm has)."""
        own = {"seed": seed} if rate is None else {"seed": seed, self.rate_key: rate}
        name = f"{self.arm}-{self.size}" if self.size else self.arm
        run = replace(self.config.run, study=self.study, name=name, dir=None)
        folder = run_folder(replace(self.config, run=run), config_hash(with_values(self.resolved, own)))
        words = [f"{key}={value!r}" for key, value in own.items()]
        words += [f"run.study={self.study}", f"run.name={name}", f"run.dir={folder}"]
        return Trial(
            folder=folder, arm=self.arm, size=self.size, seed=seed, rate=rate, stages=self.stages,
            loss_stage=self.loss_stage, options=last_of_each([*self.options, *words]),
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
    left_out = [argument for argument in ours if argument.startswith(_LEFT_OUT)]
    overrides = [_for_hydra(argument) for argument in ours if argument not in left_out]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            config = OmegaConf.to_object(hydra_compose("sweep", overrides))
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OverflowError) as error:
            cause = "; ".join(line.strip() for line in str(error.__cause__ or error).splitlines())
            raise ConfigError(
                unknown_key(error)
                or f"the study cannot be composed: {cause}\n  Try: python -m ligo.sweep --help lists the options"
            ) from error
    assert isinstance(config, SweepConfig)
    for argument in left_out:
        _leave_out(argument, config.study)
    grid.check(config.study)
    submit.check(config.cluster)
    if config.cluster.name == "slurm":
        slurm.check(config.cluster)
    return _with_seeds(config, [argument for argument in arguments if argument not in ours])


def _leave_out(argument: str, study: StudyConfig) -> None:
    """Take an arm or a size out of a study; Hydra would part its name at each point: ~study.arms.small-0.5m.

    Raises:
        ConfigError: there is none of that name.
    """
    _, kind, name = argument.split(".", 2)
    there: dict[str, list[str]] = getattr(study, kind)
    if name not in there:
        close = nearest(name, there)
        instead = (
            f"~study.{kind}.{close}" if close else f"leave it out; there are {', '.join(there) or 'none'}"
        )
        raise ConfigError(f"{argument}: the study has no such name.\n  Try: {instead}")
    if kind == "arms" and len(there) == 1:
        raise ConfigError(
            f"{argument}: it is the last arm, and a study without arms has nothing to run.\n  Try: another arm"
        )
    del there[name]


def make_cells(study: StudyConfig, options: Sequence[str]) -> list[Cell]:
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
    _check_swept(study, options, {"seed"})
    if study.arms:
        arms = study.arms
        _refuse_lists(options)
    else:
        arms, options = arms_of_lists(options)
    cells: list[Cell] = []
    refused: dict[str, str] = {}
    sizes = study.sizes or {"": []}
    bases = {
        size: _composed(last_of_each([*study.overrides, *size_options, *options]))[1]
        for size, size_options in (sizes.items() if study.arms else ())
    }
    with progress("checking arms", len(sizes) * len(arms)) as bar:
        for (size, size_options), (arm, arm_options) in product(sizes.items(), arms.items()):
            bar.advance()
            common = [*study.overrides, *size_options]
            words = last_of_each([*common, *arm_options, *options])
            try:
                config, resolved = _composed(words)
                if study.arms:
                    _check_held(bases[size], resolved, searched=bool(study.learning_rates))
                _check_buildable(config)
            except LigoError as error:
                refused[f"{arm} ({size})" if size else arm] = str(error)
                continue
            cells.append(Cell(arm, size, words, resolved, config, study.name))
    if refused:
        raise _refusal(refused, len(refused) + len(cells), bool(study.arms))
    if study.learning_rates:
        _check_swept(study, options, {cell.rate_key for cell in cells} | {"train.lr", "scratch.lr"})
    _check_searchable(study, cells)
    _check_different(study, cells)
    return cells


# --- checks ---------------------------------------------------------------------------------------------


def _with_seeds(config: SweepConfig, options: list[str]) -> tuple[SweepConfig, list[str]]:
    """`seed=0,1` beside a plain grid gives the study's seeds."""
    words = [option for option in options if option.lstrip("+").startswith("seed=")]
    if config.study.arms or not words:
        return config, options
    try:
        seeds = [int(value) for value in words[-1].partition("=")[2].strip("[]").split(",")]
    except ValueError:
        raise ConfigError(f"{words[-1]} is no list of whole numbers.\n  Try: seed=0,1,2") from None
    study = replace(config.study, seeds=seeds)
    grid.check(study)
    return replace(config, study=study), [option for option in options if option not in words]


def _check_swept(study: StudyConfig, options: Sequence[str], keys: Collection[str]) -> None:
    """Refuse what the study sets for each run anew, and would silently replace.

    Args:
        keys: the options that it sets: the seed, or the rates of its arms.
    """
    for word in [*study.overrides, *(word for size in study.sizes.values() for word in size), *options]:
        key, _, value = word.lstrip("+").partition("=")
        if key not in keys:
            continue
        if key == "seed":
            raise ConfigError(
                f"{word}: the study sets the seed of each run.\n  Try: study.seeds=[{value.strip('[]')}]"
            )
        raise ConfigError(
            f"{word}: the study searches the rate of each arm.\n  Try: study.learning_rates=[{value}], or =[] for none"
        )


def _check_held(base: Mapping[str, Any], resolved: Mapping[str, Any], *, searched: bool) -> None:
    """Refuse an arm that sees other data, evaluates on others, or takes other batches than the rest."""
    before, after = flat(base), flat(resolved)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key) or key.startswith(_ITS_OWN):
            continue
        changed = f"it sets {key}={after.get(key)}, and the study has {before.get(key)}"
        if key.startswith("run."):
            raise ConfigError(f"{changed}; runs are named by the study")
        if key in ("train.lr", "scratch.lr") and searched:
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
            trains = [stage for stage in cell.stages if stage in _RATES]
            raise ConfigError(
                f"arm {cell.arm} has stages={list(cell.stages)}, which train {'several things' if trains else 'nothing'}: "
                "there is no one loss to search a rate by.\n"
                f"  Try: exactly one of {', '.join(_RATES)} among its stages, or study.learning_rates=[]"
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
        hint = dict.fromkeys(_RATES.values(), "study.learning_rates=[1e-3,2e-3]")
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
        return f"++{bare}=[{','.join(map(quoted, split_list(value)))}]"
    if bare.startswith("cluster.slurm."):
        return f"++{bare}={value}"
    known = [f"{group}.{f.name}" for group, schema in _SCHEMAS.items() for f in fields(schema)]
    if bare not in known:
        raise ConfigError(f"there is no option '{bare}'.\n  Try: {nearest(bare, known) or known[0]}={value}")
    return f"{bare}={value}"


_SCHEMAS: dict[str, Any] = {"study": StudyConfig, "cluster": ClusterConfig}


def _composed(words: Sequence[str]) -> tuple[GrowConfig, dict[str, Any]]:
    config, text = compose(list(words))
    return config, yaml.safe_load(text)
