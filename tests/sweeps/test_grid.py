"""Rates are searched until the best is bracketed; what a study needs follows from what has been found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from ligo.core.errors import ConfigError
from ligo.sweeps.grid import StudyConfig, Trial, check, outcome, outcomes_of, search_rate
from tests.sweeps.stand_in import loss_at


def searched(
    rates: list[float], best: float, max_extensions: int = 4
) -> tuple[list[float], float | None, bool]:
    """What a whole search tries where the loss is a parabola in log2(rate) with its bottom at `best`."""
    found = search_rate(rates, lambda rate: abs(math.log2(rate / best)), max_extensions)
    return list(found.rates), found.best, found.bracketed


def test_a_best_rate_inside_the_grid_needs_no_more() -> None:
    assert searched([1e-3, 2e-3, 4e-3], 2e-3) == ([1e-3, 2e-3, 4e-3], 2e-3, True)


def test_the_grid_grows_by_its_own_factor_at_the_edge_where_the_best_lies() -> None:
    assert searched([1e-3, 2e-3, 4e-3], 16e-3) == ([1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3], 16e-3, True)
    assert searched([1e-3, 2e-3, 4e-3], 2.5e-4) == ([1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3], 2.5e-4, True)
    assert searched([1e-3, 3e-3], 9e-3) == ([1e-3, 3e-3, 9e-3, 27e-3], 9e-3, True)


def test_the_search_is_bounded_and_says_that_it_found_no_bracket() -> None:
    assert searched([1e-3, 2e-3], 1.0, max_extensions=2) == ([1e-3, 2e-3, 4e-3, 8e-3], 8e-3, False)
    assert searched([1e-3, 2e-3], 1.0, max_extensions=0) == ([1e-3, 2e-3], 2e-3, False)


def test_a_rate_at_which_training_diverges_is_worse_than_any() -> None:
    found = search_rate([1e-3, 2e-3, 4e-3], lambda rate: math.inf if rate > 2e-3 else 1 / rate, 4)
    assert (found.best, found.bracketed) == (2e-3, True)
    lower = search_rate([1e-3, 2e-3], lambda rate: math.inf if rate > 3e-4 else 4.0, 3)
    assert lower.rates == (1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3)
    assert (lower.best, lower.bracketed) == (1.25e-4, False)  # equal losses: nothing says that it ends here


def test_nothing_is_concluded_before_every_rate_has_been_tried() -> None:
    found = search_rate([1e-3, 2e-3, 4e-3], {1e-3: 4.0, 2e-3: 3.0}.get, 4)
    assert (found.rates, found.best, found.bracketed) == ((1e-3, 2e-3, 4e-3), None, False)


@dataclass(frozen=True)
class OneCell:
    arm: str = "exact"
    size: str = ""
    loss_stage: str = "train"

    def trial(self, seed: int, rate: float | None) -> Trial:
        return Trial(
            folder=Path(f"{seed}-{rate}"), arm=self.arm, size=self.size, seed=seed, rate=rate, stages=("train",),
            loss_stage=self.loss_stage, options=(),
        )  # fmt: skip


def test_other_seeds_run_at_the_best_rate_alone() -> None:
    study = StudyConfig(seeds=[0, 1, 2], learning_rates=[1e-3, 2e-3])
    known: dict[tuple[int, float | None], float] = {}

    def loss_of(trial: Trial) -> float | None:
        return known.get((trial.seed, trial.rate))

    tried = []
    while missing := [t for t in outcome(study, OneCell(), loss_of).trials if loss_of(t) is None]:
        tried.append([(t.seed, t.rate) for t in missing])
        known |= {(t.seed, t.rate): loss_at(t.rate or 0, t.seed) for t in missing}
    assert tried == [[(0, 1e-3), (0, 2e-3)], [(0, 4e-3)], [(1, 2e-3), (2, 2e-3)]]
    found = outcome(study, OneCell(), loss_of)
    assert (found.best_rate, found.bracketed, found.losses) == (2e-3, True, (4.0, 4.01, 4.02))
    assert (found.mean, found.deviation) == (pytest.approx(4.01), pytest.approx(0.01))


LUCKY = {(0, 1e-3): 4.4, (0, 2e-3): 4.1, (0, 4e-3): 4.0, (0, 8e-3): 4.2}
"""At the first seed 4e-3 is best."""


@pytest.mark.parametrize(
    ("stage", "others", "rates_of_others", "best", "losses"),
    [
        ("scratch", {2e-3: 4.1, 4e-3: 4.3}, [2e-3, 4e-3], 2e-3, (4.1, 4.1)),
        ("scratch", {2e-3: 4.3, 4e-3: 4.1}, [2e-3, 4e-3], 4e-3, (4.0, 4.1)),
        ("scratch", {2e-3: math.inf, 4e-3: 4.5}, [2e-3, 4e-3], 4e-3, (4.0, 4.5)),
        ("train", {2e-3: 4.1, 4e-3: 4.2}, [4e-3], 4e-3, (4.0, 4.2)),  # what is grown has one rate
    ],
)
def test_scratch_does_not_owe_its_rate_to_the_luck_of_one_seed(
    stage: str,
    others: dict[float, float],
    rates_of_others: list[float],
    best: float,
    losses: tuple[float, ...],
) -> None:
    study = StudyConfig(seeds=[0, 1], learning_rates=[1e-3, 2e-3, 4e-3, 8e-3])
    cell, known = OneCell(loss_stage=stage), LUCKY | {(1, rate): loss for rate, loss in others.items()}
    found = outcome(study, cell, lambda trial: known.get((trial.seed, trial.rate or 0.0)))
    assert sorted(trial.rate or 0.0 for trial in found.trials if trial.seed == 1) == rates_of_others
    assert (found.best_rate, found.bracketed, found.losses) == (best, True, losses)


def test_a_run_that_fails_does_not_decide_scratchs_rate() -> None:
    study = StudyConfig(seeds=[0, 1, 2], learning_rates=[1e-3, 2e-3, 4e-3, 8e-3])
    known = LUCKY | {(1, 4e-3): 4.0, (1, 2e-3): 4.1, (2, 2e-3): 4.1}  # seed 2 failed at 4e-3
    found = outcome(
        study, OneCell(loss_stage="scratch"), lambda trial: known.get((trial.seed, trial.rate or 0.0))
    )
    assert (found.best_rate, found.losses) == (4e-3, (4.0, 4.0))


def test_a_rate_at_which_scratch_diverged_is_not_run_with_other_seeds() -> None:
    known = {(0, 1e-3): math.inf, (0, 2e-3): 4.0, (0, 4e-3): math.inf}
    study = StudyConfig(seeds=[0, 1], learning_rates=[1e-3, 2e-3, 4e-3])
    found = outcome(
        study, OneCell(loss_stage="scratch"), lambda trial: known.get((trial.seed, trial.rate or 0.0))
    )
    assert [(trial.seed, trial.rate) for trial in found.trials] == [
        (0, 1e-3),
        (0, 2e-3),
        (0, 4e-3),
        (1, 2e-3),
    ]
    diverged = outcome(study, OneCell(loss_stage="scratch"), lambda trial: math.inf)
    assert diverged.best_rate == min(trial.rate or 0.0 for trial in diverged.trials)


def test_scratch_has_one_rate_where_one_is_asked_for_or_one_seed_is_run() -> None:
    for study in (
        StudyConfig(seeds=[0, 1], learning_rates=[1e-3, 2e-3, 4e-3, 8e-3], scratch_rates=1),
        StudyConfig(seeds=[0], learning_rates=[1e-3, 2e-3, 4e-3, 8e-3]),
    ):
        found = outcome(
            study, OneCell(loss_stage="scratch"), lambda trial: LUCKY.get((trial.seed, trial.rate or 0.0))
        )
        assert (found.best_rate, len(found.trials)) == (4e-3, 4 + len(study.seeds) - 1)


def test_only_the_best_arms_of_each_size_and_what_they_are_compared_with_run_with_other_seeds() -> None:
    study = StudyConfig(seeds=[0, 1], learning_rates=[1e-3], leaders=1)
    losses = {"stack": 3.9, "exact": 3.8, "diverged": math.inf, "scratch": 4.0}
    stages = {arm: "scratch" if arm == "scratch" else "train" for arm in losses}
    cells = [OneCell(arm, size, stages[arm]) for arm in losses for size in ("1b", "7b")]

    def seeds_of(known: dict[str, float]) -> dict[tuple[str, str], list[int]]:
        found = outcomes_of(study, cells, lambda trial: known.get(trial.arm))
        return {(one.arm, one.size): [trial.seed for trial in one.trials] for one in found}

    for size in ("1b", "7b"):
        before = seeds_of({arm: loss for arm, loss in losses.items() if arm != "stack"})
        assert before["exact", size] == [0]  # stack might yet be better
        assert before["scratch", size] == [0, 1]
        after = seeds_of(losses)
        assert {arm for arm in losses if after[arm, size] == [0, 1]} == {"exact", "scratch"}


@pytest.mark.parametrize(("rates", "best"), [([], None), ([3e-3], 3e-3)])
def test_without_several_rates_there_is_no_search(rates: list[float], best: float | None) -> None:
    found = outcome(StudyConfig(seeds=[0, 1], learning_rates=rates), OneCell(), lambda trial: None)
    assert [(t.seed, t.rate) for t in found.trials] == [(0, best), (1, best)]
    assert found.bracketed is None


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (StudyConfig(seeds=[0, 1, 0]), "study.seeds=.0,1,0. names a value twice(.|\n)*two runs with one name(.|\n)*Try: study.seeds=.0,1."),
        (StudyConfig(seeds=[]), "nothing would run"),
        (StudyConfig(learning_rates=[1e-3, 1e-3]), "Try: study.learning_rates=.0.001."),
        (StudyConfig(learning_rates=[0.0]), "study.learning_rates=0 must be above 0"),
        (StudyConfig(learning_rates=[[]]), "must hold numbers alone(.|\n)*Try: study.learning_rates=.1e-3,"),
        (StudyConfig(max_extensions=-1), "study.max_extensions=-1 must be at least 0"),
        (StudyConfig(scratch_rates=0), "study.scratch_rates=0 must be at least 1"),
        (StudyConfig(leaders=-1), "study.leaders=-1 must be at least 0"),
        (StudyConfig(arms={"a/b": []}), "'a/b' cannot be part of a folder name"),
        (StudyConfig(name=".."), "cannot be part of a folder name"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_are_refused(study: StudyConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(study)
