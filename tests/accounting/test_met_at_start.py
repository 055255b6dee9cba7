"""A grown model that is at the target loss before its first step has no saving that would say anything of growing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ligo.accounting.savings import FREE, Point, Spent, savings, savings_by_target, targets
from ligo.reports.run_table import savings_table_text
from ligo.reports.savings import answer
from ligo.reports.study import load_study
from ligo.reports.study_table import STUDY_COLUMNS, study_rows
from tests.reports.study_folder import SCRATCH, add_run


def points(*losses: float) -> list[Point]:
    return [Point(100 * i, 1e9 * i, float(i), loss) for i, loss in enumerate(losses)]


GOAL = points(6, 5, 4, 3.5, 3)  # 4e9 FLOPs
THERE = points(2.9, 2.8)


def test_only_the_charged_saving_is_a_figure() -> None:
    sunk, charged = savings(THERE, GOAL, operator_flops=0.5e9, small_flops=1e9)
    assert (sunk.met_at_start, sunk.saving, sunk.grown_flops) == (True, None, 0)
    assert charged.saving == pytest.approx(1 - (1 + 0.5 + 0) / 4)


def test_each_target_loss_is_judged_by_itself() -> None:
    rows = savings_by_target(
        points(3.4, 3.2, 2.9),
        GOAL,
        targets(GOAL, "scratch", (0.75, 1.0)),
        operator=FREE,
        small=Spent(1e9, 400, None),
    )
    found = {(row.target.share, row.convention.split()[-1]): row for row in rows}
    early, late = found[0.75, "sunk"], found[1.0, "sunk"]
    assert early.met_at_start and early.reached
    assert {parts.saving for parts in early.measures.values()} == {None}
    assert found[0.75, "charged"].measures["tokens"].saving == pytest.approx(1 - 400 / 300)
    assert not late.met_at_start
    assert late.measures["flops"].saving == pytest.approx(1 - 2 / 4)


def test_the_table_and_the_answer_say_so() -> None:
    rows = [row.as_json() for row in savings(THERE, GOAL, operator_flops=0, small_flops=1e9)]
    by_target = [row.as_json() for row in savings_by_target(
        THERE, GOAL, targets(GOAL, "scratch", (1.0,)), operator=FREE, small=Spent(1e9, 400, 4.0))]  # fmt: skip
    summary = {
        "savings": rows,
        "savings_by_target": by_target,
        "target_loss": {"value": 3.0, "of": "scratch"},
    }
    sunk, charged = savings_table_text(summary).splitlines()[2:4]
    assert sunk.endswith("met at the start") and charged.endswith("75.0 %")
    assert "100.0 %" not in savings_table_text(summary)
    assert answer(summary) == (
        "Growing saved 75.0 % of the compute of training from scratch (small model charged); the grown model met the target "
        "loss before its first step."
    )
    unknown = [row.as_json() for row in savings(THERE, GOAL, operator_flops=0, small_flops=None)]
    assert "nothing is said of a saving" in answer({**summary, "savings": unknown})


def test_a_study_counts_the_seeds_that_began_there(tmp_path: Path) -> None:
    for seed, first in ((0, 2.9), (1, 3.5)):
        add_run(tmp_path, "scratch", seed, SCRATCH, trains="scratch")
        add_run(tmp_path, "exact", seed, (first, 2.8, 2.7))
    study = load_study(tmp_path)
    (arm,) = (arm for arm in study.arms if arm.trains == "grown")
    assert (arm.reached, arm.met_at_start) == (2, 1)
    assert arm.savings[1.0, "small model sunk", "flops"] is None
    charged = arm.savings[1.0, "small model charged", "flops"]
    assert charged is not None
    assert charged.mean == pytest.approx(1 - ((1 + 0.5) + (1 + 0.5 + 1)) / 2 / 4)
    row = next(row for row in study_rows(study) if row[0] == "exact")
    assert row[STUDY_COLUMNS.index("saved, small sunk")] == "met at the start by 1 of 2"
