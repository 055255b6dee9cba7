"""How a saving changes with the size of a model and with how long it is trained: a plane through the studies `scaling-*`.

The cost of growing, as a share of the scratch run's, is taken as a power of either (a plane in logarithms), which keeps every
saving below 1. Intervals are of single further points: residuals are drawn anew, for the fit and for the point (Efron 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ligo.accounting.statistics import CONFIDENCE
from ligo.core import units
from ligo.reports.run_table import markdown_table

LLAMA_13B = 8.21e10, 1.0e12
"""FLOPs of a token in training (`ligo.plan +small=llama-7b +target=13b data.sequence_length=2048`), and the tokens that it was
trained on (Touvron et al. 2023, table 2)."""
COLUMNS = (
    "arm", "cells", "exponent of size", "exponent of horizon", "left over", "predicted for LLaMA-7B -> 13B",
)  # fmt: skip
WORDS = (
    "The cost of growing, the small model sunk, as a share of the scratch run's, as a power of the target's FLOPs per token (size) "
    "and of the scratch run's tokens (horizon): exponents below 0 say that growing saves more, the larger or the longer. The last "
    "column is a prediction, five decades of size and of horizon away from what was measured. Intervals at 95 %. Cells that never reached the scratch run's loss are left out. With the small model "
    "charged there is nothing to fit: its training adds a constant, about half of the scratch run's FLOPs where a 7B was trained "
    "on as many tokens as a 13B."
)
_RESAMPLES = 10_000

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """What an arm saved at one size and one horizon."""

    size: float
    """FLOPs of one token of the target in training."""
    horizon: float
    """Tokens of the scratch run."""
    saving: float
    """Of the scratch run's FLOPs; negative where growing cost more."""


@dataclass(frozen=True)
class Plane:
    """log(1 - saving) = constant + size_exponent * log(size) + horizon_exponent * log(horizon), by least squares."""

    size_exponent: float
    horizon_exponent: float
    size_interval: tuple[float, float]
    horizon_interval: tuple[float, float]
    deviation: float
    """Of the residuals, three degrees of freedom taken off."""
    predicted: float
    """Saving at the point asked for."""
    predicted_interval: tuple[float, float]


def fit(cells: Sequence[Cell], at: tuple[float, float], *, seed: int = 0) -> Plane:
    """The plane through cells, and what it says of one more at (size, horizon).

    Raises:
        ValueError: cells do not span a plane: fewer than four, or of one size, or of one horizon.
    """
    logs = np.log([[cell.size, cell.horizon] for cell in cells] or np.ones((1, 2)))
    middle = logs.mean(axis=0)
    rows = np.column_stack([np.ones(len(logs)), logs - middle])
    freedom = len(rows) - rows.shape[1]
    if freedom < 1 or np.linalg.matrix_rank(rows) < rows.shape[1]:
        raise ValueError("a plane needs at least four cells, of several sizes and several horizons")
    cost = np.log1p([-cell.saving for cell in cells])
    solve = np.linalg.pinv(rows)
    plane = solve @ cost
    left = cost - rows @ plane
    spread = left * np.sqrt(
        len(rows) / freedom
    )  # least squares leaves residuals smaller than what they are drawn from
    random = np.random.default_rng(seed)
    planes = plane + random.choice(spread, (_RESAMPLES, len(rows))) @ solve.T
    asked = np.array([1.0, *(np.log(at) - middle)])
    costs = planes @ asked + random.choice(spread, _RESAMPLES)
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.column_stack([planes, costs]), [outside, 1 - outside], axis=0)
    return Plane(
        *map(float, plane[1:]),
        size_interval=(float(low[1]), float(high[1])),
        horizon_interval=(float(low[2]), float(high[2])),
        deviation=float(np.sqrt((left**2).sum() / freedom)),
        predicted=float(-np.expm1(asked @ plane)),
        predicted_interval=(float(-np.expm1(high[3])), float(-np.expm1(low[3]))),
    )


def cells_of(studies: Sequence[Json], arm: str, convention: str) -> list[Cell]:
    """Of an arm in the studies of scaling; a cell that did not reach the scratch run's loss has no saving and is left out."""
    found = []
    for study in studies:
        runs = {run["run"]: run for run in study["runs"]}
        scratch = {run["size"]: run["scratch"] for run in study["runs"] if "scratch" in run}
        for row in study["arms"]:
            of = runs[row["runs"][0]]
            savings = {
                (saved["scratch_share"], saved["convention"], saved["measure"]): saved["saving"]
                for saved in row["savings"]
            }
            saving = savings.get((1.0, convention, "flops"))
            if of["arm"] == arm and of["size"] in scratch and saving and saving["mean_fraction"] is not None:
                trained = scratch[of["size"]]
                size = trained["flops"] / trained["tokens"]
                found.append(Cell(size, trained["tokens"], saving["mean_fraction"]))
    return found


def table(studies: Sequence[Json], convention: str) -> str:
    """Markdown: a row for each arm; empty where no study of scaling is there."""
    rows = []
    arms = dict.fromkeys(run["arm"] for study in studies for run in study["runs"] if "grown" in run)
    for arm in arms:
        cells = cells_of(studies, arm, convention)
        try:
            plane = fit(cells, LLAMA_13B)
        except ValueError as error:
            rows.append([arm, str(len(cells)), str(error), "", "", ""])
            continue
        rows.append(
            [
                arm,
                str(len(cells)),
                _between(plane.size_exponent, plane.size_interval, "{:+.2f}".format),
                _between(plane.horizon_exponent, plane.horizon_interval, "{:+.2f}".format),
                f"{plane.deviation:.3f}",
                _between(plane.predicted, plane.predicted_interval, units.percent),
            ]
        )
    return markdown_table(COLUMNS, rows) if rows else ""


def _between(value: float, interval: tuple[float, float], write: Any) -> str:
    return f"{write(value)} [{write(interval[0])}, {write(interval[1])}]"
