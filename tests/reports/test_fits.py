"""The plane through the savings of several sizes and horizons."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from experiments.fits import Cell, cells_of, fit
from experiments.tables import CHARGED, SUNK
from ligo.reports.html import write_study_report

from .study_folder import SCRATCH, add_run

SIZES, HORIZONS = (1.0e5, 4.0e5, 1.6e6), (1.0e6, 2.0e6, 4.0e6)


def cells(noise: dict[int, float]) -> list[Cell]:
    """Of savings whose cost is size^-0.1 * horizon^0.2 / 5, some of them moved."""
    made = enumerate(product(SIZES, HORIZONS))
    return [Cell(n, d, 1 - (1 + noise.get(i, 0.0)) * n**-0.1 * d**0.2 / 5) for i, (n, d) in made]


def test_a_plane_is_found_again_and_followed_to_where_nothing_was_measured() -> None:
    plane = fit(cells({}), (1.0e10, 1.0e12))
    assert plane.size_exponent == pytest.approx(-0.1, abs=1e-9)
    assert plane.horizon_exponent == pytest.approx(0.2, abs=1e-9)
    assert plane.deviation == pytest.approx(0, abs=1e-9)
    assert plane.predicted == pytest.approx(1 - 0.1 * 10**2.4 / 5, abs=1e-9)
    assert plane.predicted_interval == pytest.approx((plane.predicted, plane.predicted), abs=1e-9)


def test_intervals_hold_what_is_true_and_widen_far_away() -> None:
    uneven = cells({0: 0.05, 4: -0.05, 8: 0.03, 2: -0.04})
    near, far = fit(uneven, (4.0e5, 2.0e6)), fit(uneven, (4.0e9, 2.0e10))
    assert near.size_interval[0] < -0.1 < near.size_interval[1]
    assert near.horizon_interval[0] < 0.2 < near.horizon_interval[1]
    low, high = near.predicted_interval
    assert low < near.predicted < high < 1
    assert far.predicted_interval[1] - far.predicted_interval[0] > 3 * (high - low)


@pytest.mark.parametrize("chosen", [[], [0, 1, 2], [0, 1, 2, 0], [0, 3, 6, 3]])
def test_cells_that_span_no_plane_are_refused(chosen: list[int]) -> None:
    with pytest.raises(ValueError, match="at least four cells, of several sizes and several horizons"):
        fit([cells({})[i] for i in chosen], (1.0e6, 1.0e6))


def test_cells_are_those_that_reached_the_loss_of_scratch(tmp_path: Path) -> None:
    folder = tmp_path / "scaling-1"
    add_run(folder, "scratch", 0, SCRATCH, trains="scratch")
    add_run(folder, "ligo", 0, (4.0, 3.2, 3.0))
    add_run(folder, "stack", 0, (4.0, 3.4, 3.3))
    study = json.loads(write_study_report(folder, tmp_path / "out" / "report.html")[1].read_text())
    # as in test_study_tables: 4e9 FLOPs on 400 tokens; grown for 2e9 and 5e8 of its operator, the small model took 1e9
    assert cells_of([study], "ligo", SUNK) == [Cell(1.0e7, 400, 0.375)]
    assert cells_of([study], "ligo", CHARGED) == [Cell(1.0e7, 400, 0.125)]
    assert cells_of([study], "stack", SUNK) == []
