"""A study as data: its arms, sizes, seeds and peak rates, and which runs it still needs.

What is needed follows from what has been found, so a sweep has no memory: after any cut the same function is asked again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from ligo.core.checks import check_between
from ligo.core.errors import ConfigError


@dataclass(kw_only=True)
class StudyConfig:
    """One question, put to several arms that see the same data, evaluation set and token batch."""

    name: str = "sweep"
    """Runs lie in runs/<name>/."""
    question: str = ""
    """What the study is to find out."""
    overrides: list[str] = field(default_factory=list)
    """Options of ligo.grow for all runs."""
    arms: dict[str, list[str]] = field(default_factory=dict)
    """Name of an arm: options of ligo.grow that make it."""
    sizes: dict[str, list[str]] = field(default_factory=dict)
    """Name of a size: options of ligo.grow, `small` and `target` above all. Empty: one size, that of the overrides."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """The first seed finds the best rate; the others run at that rate alone (scratch: at `scratch_rates`)."""
    leaders: int | None = None
    """How many arms, the best ones at the first seed, are run with the other seeds too; those that train nothing grown
    (scratch, short, continue) always are. None: all."""
    learning_rates: list[float] = field(default_factory=list)
    """Peak rates to begin with. Empty: each arm's own rate, and no search. One: that rate, and no search."""
    max_extensions: int = 4
    """How many rates a search may add while the best one lies at an edge."""
    scratch_rates: int = 2
    """At how many rates, the best ones at the first seed, scratch is run with the other seeds too; the lowest mean counts.
    Everything is measured against scratch, and a rate that the luck of one seed chose would flatter all of it. The search is not
    extended for it: a rate that wins so may lie at the edge of those tried, which reports say."""


@dataclass(frozen=True)
class RateSearch:
    """Where the search for one arm's peak rate stands."""

    rates: tuple[float, ...]
    """All that are to be tried, ascending."""
    best: float | None
    """None: not known before all of them have been tried."""
    bracketed: bool
    """Whether the best one has worse neighbours on both sides."""


def check(study: StudyConfig) -> None:
    """Refuse lists that name something twice, and rates that are none.

    Raises:
        ConfigError: the option and the value are named.
    """
    if not study.seeds:
        raise ConfigError("study.seeds is empty: nothing would run.\n  Try: study.seeds=[0]")
    for rate in study.learning_rates:
        if not isinstance(rate, int | float):
            raise ConfigError(
                f"study.learning_rates={study.learning_rates} must hold numbers alone.\n"
                "  Try: study.learning_rates=[1e-3,2e-3,4e-3]"
            )
    _refuse_twice("seeds", study.seeds)
    _refuse_twice("learning_rates", study.learning_rates)
    for rate in study.learning_rates:
        check_between("study.learning_rates", rate, 0, above=True)
    check_between("study.max_extensions", study.max_extensions, 0)
    check_between("study.scratch_rates", study.scratch_rates, 1)
    if study.leaders is not None:
        check_between("study.leaders", study.leaders, 0)
    for word in (study.name, *study.arms, *study.sizes):
        if not word or not all(letter.isalnum() or letter in "._-" for letter in word) or word[0] == ".":
            raise ConfigError(
                f"{word!r} cannot be part of a folder name; studies, arms and sizes are named with letters, digits, "
                "dots, dashes and underscores.\n  Try: another name"
            )


def _refuse_twice(key: str, values: Sequence[float]) -> None:
    once = dict.fromkeys(values)
    if len(once) < len(values):
        raise ConfigError(
            f"study.{key}=[{_listed(values)}] names a value twice, which would be two runs with one name.\n"
            f"  Try: study.{key}=[{_listed(once)}]"
        )


def _listed(values: Iterable[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def search_rate(
    rates: Sequence[float], loss_at: Callable[[float], float | None], max_extensions: int
) -> RateSearch:
    """Extend `rates` at the edge where the best lies, by the factor found there, until it has worse neighbours.

    Args:
        loss_at: the final loss at a rate; infinite where training diverged, None where it has not been found yet.
    """
    grid = sorted(rates)
    for left in range(max_extensions, -1, -1):
        losses = [loss_at(rate) for rate in grid]
        known = [loss for loss in losses if loss is not None]
        if len(known) < len(grid):
            return RateSearch(tuple(grid), None, False)
        best = grid[known.index(min(known))]  # the lowest rate, where all diverged
        if grid[0] < best < grid[-1]:
            return RateSearch(tuple(grid), best, True)
        if left and best == grid[0]:
            grid.insert(0, _rounded(grid[0] * grid[0] / grid[1]))
        elif left:
            grid.append(_rounded(grid[-1] * grid[-1] / grid[-2]))
    return RateSearch(tuple(grid), best, False)


def _rounded(rate: float) -> float:
    """0.00025 instead of 0.00025000000000000006: rates become part of names."""
    return float(f"{rate:.6g}")


# --- runs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run: an arm at one size, seed and peak rate."""

    folder: Path
    arm: str
    size: str
    """Empty where the study has one."""
    seed: int
    rate: float | None
    """None: the arm's own."""
    stages: tuple[str, ...]
    """What makes it finished."""
    loss_stage: str | None
    """The stage whose final loss it is judged by, if any."""
    options: tuple[str, ...]
    """Of ligo.grow."""

    @property
    def name(self) -> str:
        return self.folder.name


class Cell(Protocol):
    """One arm at one size, which is what a study compares."""

    @property
    def arm(self) -> str: ...

    @property
    def size(self) -> str: ...

    def trial(self, seed: int, rate: float | None) -> Trial:
        """Its run at a seed and a rate (None: the rate that the arm has)."""


@dataclass(frozen=True)
class Outcome:
    """What is known of a cell."""

    arm: str
    size: str
    trials: tuple[Trial, ...]
    """The runs that it needs, as far as what has been found tells."""
    best_rate: float | None
    """None: not known yet, or not searched for."""
    bracketed: bool | None
    """None: no search."""
    losses: tuple[float, ...]
    """Final losses at the best rate, one for each seed that is finished."""
    finished: tuple[str, ...] = ()
    """The runs that they are of."""

    @property
    def grown(self) -> bool:
        """Whether it trains what was grown, rather than something to compare that with."""
        return self.trials[0].loss_stage == "train"

    @property
    def mean(self) -> float | None:
        return math.fsum(self.losses) / len(self.losses) if self.losses else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds."""
        if self.mean is None or len(self.losses) < 2 or not math.isfinite(self.mean):
            return None
        return math.sqrt(math.fsum((loss - self.mean) ** 2 for loss in self.losses) / (len(self.losses) - 1))


def outcomes_of(
    study: StudyConfig, cells: Sequence[Cell], loss_of: Callable[[Trial], float | None]
) -> list[Outcome]:
    """What each cell needs, and what is known of it: with the first seed all, with the others the leaders of each size.

    Args:
        loss_of: the final loss of a run; infinite where training diverged; None where it is not finished.
    """
    if study.leaders is None:
        return [outcome(study, cell, loss_of) for cell in cells]
    one_seed = replace(study, seeds=study.seeds[:1])
    first = [outcome(one_seed, cell, loss_of) for cell in cells]
    leading = _leaders(first, study.leaders)
    return [
        outcome(study, cell, loss_of) if not found.grown or found in leading else found
        for cell, found in zip(cells, first, strict=True)
    ]


def _leaders(first: Sequence[Outcome], how_many: int) -> list[Outcome]:
    """The grown arms of each size with the lowest losses, once all of the size have one."""
    leading: list[Outcome] = []
    for size in dict.fromkeys(found.size for found in first):
        grown = [found for found in first if found.grown and found.size == size]
        known = [(found.mean, found) for found in grown if found.mean is not None]
        if len(known) == len(grown):
            leading += [found for _, found in sorted(known, key=lambda pair: pair[0])[:how_many]]
    return leading


def outcome(study: StudyConfig, cell: Cell, loss_of: Callable[[Trial], float | None]) -> Outcome:
    """What a cell needs, and what is known of it.

    Args:
        loss_of: the final loss of a run; infinite where training diverged; None where it is not finished.
    """
    best, bracketed, trials = next(iter(study.learning_rates), None), None, list[Trial]()
    at_rates = {best: [cell.trial(seed, best) for seed in study.seeds]}
    if len(study.learning_rates) > 1:
        first = study.seeds[0]
        search = search_rate(
            study.learning_rates, lambda rate: loss_of(cell.trial(first, rate)), study.max_extensions
        )
        trials = [cell.trial(first, rate) for rate in search.rates]
        if search.best is None:
            return Outcome(cell.arm, cell.size, tuple(trials), None, False, ())
        at_first = {trial.rate: loss_of(trial) for trial in trials}
        at_rates = {
            rate: [cell.trial(seed, rate) for seed in study.seeds]
            for rate in _contenders(study, trials[0], search.best, at_first)
        }
        best = _lowest(at_rates, loss_of)
        bracketed = best not in (search.rates[0], search.rates[-1])
    trials += [trial for seeds in at_rates.values() for trial in seeds if trial not in trials]
    ended = {trial.name: loss for trial in at_rates[best] if (loss := loss_of(trial)) is not None}
    return Outcome(cell.arm, cell.size, tuple(trials), best, bracketed, tuple(ended.values()), tuple(ended))


def _contenders(
    study: StudyConfig, trial: Trial, best: float, losses: Mapping[float | None, float | None]
) -> list[float | None]:
    """The rates that run with the other seeds too, the best first."""
    if trial.loss_stage != "scratch":
        return [best]
    finite = {rate: loss for rate, loss in losses.items() if loss is not None and math.isfinite(loss)}
    return sorted(finite, key=lambda rate: finite[rate])[: study.scratch_rates] or [best]


def _lowest(
    at_rates: Mapping[float | None, Sequence[Trial]], loss_of: Callable[[Trial], float | None]
) -> float | None:
    """The rate with the lowest mean loss; before all runs have ended, the first."""
    losses = {rate: [loss_of(trial) for trial in trials] for rate, trials in at_rates.items()}
    known = {rate: [loss for loss in of if loss is not None] for rate, of in losses.items()}
    if known != losses:
        return next(iter(at_rates))
    return min(known, key=lambda rate: math.fsum(known[rate]) / len(known[rate]))
