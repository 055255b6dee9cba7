"""What several seeds say together: mean, standard deviation, and an interval for the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
FEWEST_FOR_INTERVAL = 3
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """Of one quantity over seeds; None where there are too few values."""

    num_values: int
    mean: float | None
    deviation: float | None
    """Sample standard deviation."""
    interval: tuple[float, float] | None
    """Percentile bootstrap interval of the mean (Efron 1979), at CONFIDENCE; it is narrow for few seeds."""


def estimate(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Mean, deviation from two values on, interval from three on.

    Args:
        values: one per seed, finite.
        seed: of the resampling; the same values give the same interval.
    """
    if not values:
        return Estimate(0, None, None, None)
    data = np.asarray(values, dtype=np.float64)
    deviation = float(data.std(ddof=1)) if len(data) > 1 else None
    interval = None
    if len(data) >= FEWEST_FOR_INTERVAL:
        drawn = np.random.default_rng(seed).integers(len(data), size=(_RESAMPLES, len(data)))
        outside = (1 - CONFIDENCE) / 2
        low, high = np.quantile(data[drawn].mean(axis=1), [outside, 1 - outside])
        interval = float(low), float(high)
    return Estimate(len(data), float(data.mean()), deviation, interval)
