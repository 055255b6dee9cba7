"""Savings by hand; a speed-up is not a saving."""

from __future__ import annotations

import pytest

from ligo.accounting.savings import Point, first_staying_below, loss_at, savings, speedup_as_saving


def points(*losses: float) -> list[Point]:
    return [Point(100 * i, 1e9 * i, float(i), loss) for i, loss in enumerate(losses)]


def test_savings_count_small_operator_and_growth() -> None:
    scratch, grown = points(6, 5, 4, 3.5, 3), points(3.4, 3.1, 3.0, 2.9)
    sunk, charged = savings(grown, scratch, operator_flops=0.5e9, small_flops=1e9)
    assert (sunk.convention, charged.convention) == ("small model sunk", "small model charged")
    assert sunk.saving == pytest.approx(1 - (0.5 + 2) / 4)
    assert charged.saving == pytest.approx(1 - (1 + 0.5 + 2) / 4)


def test_a_dip_below_the_target_that_does_not_last_does_not_count() -> None:
    assert first_staying_below(points(3.4, 2.9, 3.2, 2.8), 3.0) == Point(300, 3e9, 3.0, 2.8)


def test_not_reached_is_none_and_never_extrapolated() -> None:
    rows = savings(points(5, 4, 3.1), points(6, 5, 3), operator_flops=0, small_flops=0)
    assert [row.saving for row in rows] == [None, None]
    assert [row.grown_flops for row in rows] == [None, None]


def test_a_small_model_of_unknown_cost_cannot_be_charged() -> None:
    sunk, charged = savings(points(4, 3), points(6, 5, 3), operator_flops=0, small_flops=None)
    assert sunk.saving == 0.5
    assert charged.saving is None


def test_losses_within_a_budget_are_measured_ones() -> None:
    assert loss_at(points(6, 5, 4), tokens=150) == 5
    assert loss_at(points(6, 5, 4), flops=2e9) == 4


def test_a_published_speedup_becomes_a_saving() -> None:
    assert speedup_as_saving(0.546) == pytest.approx(0.353, abs=5e-4)  # arXiv 2405.15319, 54.6 %
