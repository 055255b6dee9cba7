"""Mean, deviation and bootstrap interval: by hand, and against an enumeration of all resamples."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ligo.accounting.statistics import Estimate, estimate


def test_mean_and_deviation_by_hand() -> None:
    found = estimate([0.1, 0.2, 0.6])
    assert (found.num_values, found.mean) == (3, pytest.approx(0.3))
    assert found.deviation == pytest.approx(((0.04 + 0.01 + 0.09) / 2) ** 0.5)


def test_no_interval_below_three_values_and_no_deviation_of_one() -> None:
    assert estimate([]) == Estimate(0, None, None, None)
    assert estimate([0.5]) == Estimate(1, 0.5, None, None)
    assert estimate([0.5, 0.7]).interval is None


def test_the_interval_is_that_of_all_resamples() -> None:
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    exact = np.quantile([np.mean(drawn) for drawn in product(values, repeat=5)], [0.025, 0.975])
    found = estimate(values).interval
    assert found is not None
    assert found == pytest.approx(tuple(exact), abs=0.25)  # means of five of these lie 0.2 apart
    assert found == estimate(values).interval  # drawn from one seed


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert estimate([3.0, 3.0, 3.0]) == Estimate(3, 3.0, 0.0, (3.0, 3.0))
